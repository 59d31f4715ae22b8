"""Histogram equalisation of every frame."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bench import ClipRandom, Purifier, register


@register(
    "equalize",
    source="Raff, Sylvester, Forsyth and McLean, Barrage of Random Transforms for Adversarially Robust Defense, CVPR "
    "2019, with a fixed number of bins",
)
class Equalize(Purifier):
    """Spreads the values of every channel of every frame until all are equally frequent.

    Each frame has its own histogram; the number of bins is the same for all. A channel of one single value stays as it
    is. Counting values has no exact gradient: ``bpda`` is the identity.

    Args:
        bins: of the histogram, between the smallest and the largest value. The barrage draws 40 to 256.
    """

    differentiable = False

    def __init__(self, bins: int = 256) -> None:
        super().__init__()
        if not isinstance(bins, int) or bins < 2:
            raise ValueError(f"bins must be a whole number of 2 or more, not {bins}")
        self.bins = bins

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        planes = clips.detach().cpu().double().flatten(0, 2).numpy()  # (B3T, H, W)
        equal = np.stack([self._spread(plane) for plane in planes])
        return torch.from_numpy(equal).view(clips.shape).to(clips).clamp(0, 1)

    def _spread(self, plane: np.ndarray) -> np.ndarray:
        if plane.min() == plane.max():
            return plane
        counts, edges = np.histogram(plane, self.bins)
        # A value becomes the share of values up to its bin, and linear in between the middles of the bins.
        return np.interp(plane, (edges[:-1] + edges[1:]) / 2, counts.cumsum() / plane.size)
