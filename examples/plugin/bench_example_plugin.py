"""One component of each kind, as another package adds it: a defence, an attack, a data set and a classifier.

The entry points in ``pyproject.toml`` name them. The data set shows a bright bar that moves, and the classifier says
which way; both are small enough to be understood at a glance::

    pip install examples/plugin
    bench list defenses
    bench run --dataset example-bars --model example-bar-reader --defense example-median-of-three --attack PGD
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench import Attack, AttackResult, Budget, ClipRandom, ClipRef, Dataset, Purifier, Target


class MedianOfThree(Purifier):
    """The middle one of each frame, the one before it and the one after it; the last frame is followed by the first."""

    differentiable = True

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:  # float32 (B, 3, T, H, W) in [0, 1]
        return torch.stack([clips.roll(shift, dims=2) for shift in (-1, 0, 1)]).median(0).values


class Brighten(Attack):
    """Makes every value as bright as the budget allows; the classifier is never asked.

    Not much of an attack, but one: it keeps to its budget and to [0, 1].
    """

    norms = ("linf",)
    uses_model = False

    def run(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> AttackResult:
        return AttackResult((clips + budget.size).clamp(0, 1))

    def passes(self, budget: Budget) -> tuple[int, int]:
        return 0, 0  # forward, backward


class Bars(Dataset):
    """A bright bar on dark ground that moves to the left (class 0) or to the right (class 1).

    Args:
        length: how many clips.
        frames: of each clip.
        size: side of the square frames in pixels.
    """

    classes = ("left", "right")

    def __init__(self, length: int = 12, frames: int = 8, size: int = 16) -> None:
        self.length, self.frames, self.size = length, frames, size

    def refs(self) -> list[ClipRef]:
        return [ClipRef(f"bar-{i:03d}", i % 2) for i in range(self.length)]

    def load(self, ref: ClipRef) -> Tensor:
        start, step = int(ref.id.removeprefix("bar-")), 1 if ref.label else -1
        clip = torch.full((3, self.frames, self.size, self.size), 0.2)
        for frame in range(self.frames):
            clip[:, frame, :, (start + step * frame) % self.size] = 0.8
        return clip


class BarReader(nn.Module):
    """Compares each frame with the next, moved by one pixel to either side."""

    def forward(self, clips: Tensor) -> Tensor:
        following = clips.roll(-1, dims=2)
        alike = [(clips.roll(shift, dims=4) * following)[:, :, :-1].mean((1, 2, 3, 4)) for shift in (-1, 1)]
        return 100 * torch.stack(alike, 1)


def bar_reader() -> nn.Module:
    """A classifier of example-bars; it has no weights."""
    return BarReader()
