"""Median filter of every frame."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bench import ClipRandom, Filter, register
from bench.defense.frames import by_frames


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
        if self.size in (2, 3) and not (torch.is_grad_enabled() and clips.requires_grad):
            return by_frames(self._compared, clips)
        squares = self._padded(clips.flatten(1, 2)).unfold(2, self.size, 1).unfold(3, self.size, 1)
        picked = squares.flatten(4).kthvalue(self.size**2 // 2 + 1, dim=4)  # of (B, 3T, H, W, size^2)
        return picked.values.view_as(clips)

    def _padded(self, frames: Tensor) -> Tensor:
        before, after = self.size // 2, (self.size - 1) // 2
        return F.pad(frames, (before, after, before, after), mode="replicate")

    def _compared(self, frames: Tensor) -> Tensor:
        """The same of ``(N, 3, H, W)`` by comparisons, tens of times faster: columns are sorted once for all squares.

        Of three sorted columns the median is that of the largest low, the median middle and the smallest high value.
        Of two, it is the second largest value. Which one is picked of several that are equal makes no difference here,
        and for a gradient it does.
        """
        padded = self._padded(frames)
        height, width = frames.shape[-2:]
        rows = [padded.narrow(2, k, height) for k in range(self.size)]
        low, high = torch.minimum(rows[0], rows[1]), torch.maximum(rows[0], rows[1])
        if self.size == 2:
            lows, highs = (_neighbours(values, width, 2) for values in (low, high))
            return torch.maximum(torch.maximum(*lows), torch.minimum(*highs))
        middle = torch.maximum(low, torch.minimum(high, rows[2]))
        low, high = torch.minimum(low, rows[2]), torch.maximum(high, rows[2])
        lows, middles, highs = (_neighbours(values, width, 3) for values in (low, middle, high))
        largest = torch.maximum(torch.maximum(lows[0], lows[1]), lows[2])
        smallest = torch.minimum(torch.minimum(highs[0], highs[1]), highs[2])
        return _middle(largest, _middle(*middles), smallest)


def _neighbours(values: Tensor, width: int, count: int) -> list[Tensor]:
    return [values.narrow(3, k, width) for k in range(count)]


def _middle(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return torch.maximum(torch.minimum(a, b), torch.minimum(torch.maximum(a, b), c))
