"""Median filter of every frame."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from bench import ClipRandom, Filter, register


@register(
    "median",
    source="Xu, Evans and Qi, Feature Squeezing: Detecting Adversarial Examples in Deep Neural Networks, NDSS 2018",
)
class Median(Filter):
    """Replaces every value by the median of the square around it; border pixels are repeated outwards.

    A median picks one of the values, so its exact gradient exists almost everywhere: it goes to the value picked, and
    that of ``bpda`` likewise.

    Args:
        size: side of the square in pixels, the same for all frames. Feature squeezing uses 2 and 3. An even square
            reaches one pixel further up and left, and of its two middle values the larger is taken.
    """

    def __init__(self, size: int = 3) -> None:
        super().__init__()
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"size must be a whole number of pixels, 1 or more, not {size}")
        self.size = size

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        before, after = self.size // 2, (self.size - 1) // 2
        padded = F.pad(clips.flatten(1, 2), (before, after, before, after), mode="replicate")
        squares = padded.unfold(2, self.size, 1).unfold(3, self.size, 1).flatten(4)  # (B, 3T, H, W, size^2)
        return squares.kthvalue(self.size**2 // 2 + 1, dim=4).values.view_as(clips)
