"""Histogram equalisation of every frame."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from bench import ClipRandom, Purifier, register
from bench.defense.rounding import with_value

Mapping = Callable[[np.ndarray], np.ndarray]

# Of the order of a perturbation: a bin that happens to be empty has no slope of its own.
_REACH = 8 / 255


@register(
    "equalize",
    source="Raff, Sylvester, Forsyth and McLean, Barrage of Random Transforms for Adversarially Robust Defense, CVPR "
    "2019, with a fixed number of bins",
)
class Equalize(Purifier):
    """Spreads the values of every channel of every frame until all are equally frequent.

    Each frame has its own histogram; the number of bins is the same for all. A channel of one single value stays as it
    is. Counting values has no exact gradient. ``bpda`` takes the slope of the mapping, whose histogram stays as it is:
    of each value, from a little below to a little above it.

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
        return self._each(clips, lambda plane: self._mapping(plane)(plane)).clamp(0, 1)

    def bpda(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        def slope(plane: np.ndarray) -> np.ndarray:
            mapping = self._mapping(plane)
            return (mapping(plane + _REACH) - mapping(plane - _REACH)) / (2 * _REACH)

        return with_value(self._each(clips, slope) * clips, self.purify(clips, rng))

    @staticmethod
    def _each(clips: Tensor, work: Mapping) -> Tensor:
        """What is computed of every channel of every frame, in double precision and without a gradient."""
        planes = clips.detach().cpu().double().flatten(0, 2).numpy()  # (B3T, H, W)
        return torch.from_numpy(np.stack([work(plane) for plane in planes])).view(clips.shape).to(clips)

    def _mapping(self, plane: np.ndarray) -> Mapping:
        """What becomes of the values of a plane ``(H, W)``."""
        if plane.min() == plane.max():
            return lambda values: values
        counts, edges = np.histogram(plane, self.bins)
        # A value becomes the share of values up to its bin, and linear in between the middles of the bins.
        middles, shares = (edges[:-1] + edges[1:]) / 2, counts.cumsum() / plane.size
        return lambda values: np.interp(values, middles, shares)
