"""Histogram equalisation of every frame."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bench import ClipRandom, Purifier, register
from bench.defense.frames import by_frames
from bench.defense.rounding import with_value

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
        return by_frames(lambda frames: self._mapped(frames, 0.0)[0].clamp_(0, 1), clips.detach())

    def bpda(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        def slope(frames: Tensor) -> Tensor:
            below, above = self._mapped(frames, -_REACH, _REACH)
            return (above - below) / (2 * _REACH)

        return with_value(by_frames(slope, clips.detach()) * clips, self.purify(clips, rng))

    def _mapped(self, frames: Tensor, *moves: float) -> list[Tensor]:
        """What becomes of the values of ``frames (N, 3, H, W)``, moved by each of ``moves``, in double precision.

        A value becomes the share of values up to its bin, and linear in between the middles of the bins.
        """
        values = frames.double().flatten(2)  # (N, 3, HW)
        first, last = values.aminmax(dim=2, keepdim=True)
        width = (last - first) / self.bins
        flat = first == last
        safe = torch.where(flat, 1.0, width)
        shares = F.pad(self._shares(values, first, width, safe), (1, 1), mode="replicate")
        found = []
        for move in moves:
            moved = values + move
            place = ((moved - first) / safe).add_(0.5)  # in bins, from the middle before the first one's
            before = place.floor().clamp_(0, self.bins)
            part = (place - before).clamp_(0, 1)
            index = before.long()
            mapped = torch.lerp(shares.gather(2, index), shares.gather(2, index + 1), part)
            found.append(torch.where(flat, moved, mapped).view(frames.shape))
        return found

    def _shares(self, values: Tensor, first: Tensor, width: Tensor, safe: Tensor) -> Tensor:
        """The shares of values up to each bin, ``(N, 3, bins)``. One on an edge belongs to the bin above."""
        bin_ = ((values - first) / safe).floor_().clamp_(0, self.bins - 1)
        # Division may be off in the last digit: what counts is where the edges are.
        bin_ -= (values < bin_ * width + first).to(bin_)
        bin_ += ((values >= (bin_ + 1) * width + first) & (bin_ < self.bins - 1)).to(bin_)
        index = bin_.long()
        counts = torch.zeros_like(index[..., :1]).repeat(1, 1, self.bins).scatter_add_(2, index, torch.ones_like(index))
        return counts.cumsum(2).double() / values.shape[2]
