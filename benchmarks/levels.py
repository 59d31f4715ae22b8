"""Uniform gray clips whose class is their level, and a classifier of which the smallest fooling perturbation is known.

The logits are linear in the mean level, so the smallest linf perturbation that changes a decision is half the distance
between levels: 0.1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench import ClipRef, Dataset
from bench.data.base import MissingClip

LEVELS = (0.3, 0.5, 0.7)
MARGIN = 0.1


class GrayClips(Dataset):
    """Uniform clips.

    Args:
        length: number of clips.
        absent: index of a clip without a file, or -1.
        broken: index of a clip that cannot be read, or -1.
        only: the level of all clips, or -1.
        label: the label of all clips, or -1.
    """

    classes = ("dark", "medium", "bright")

    def __init__(self, length: int = 6, absent: int = -1, broken: int = -1, only: int = -1, label: int = -1) -> None:
        self.length, self.absent, self.broken, self.only, self.label = length, absent, broken, only, label

    def refs(self) -> list[ClipRef]:
        return [ClipRef(f"gray/{i}", i % 3 if self.label < 0 else self.label) for i in range(self.length)]

    def load(self, ref: ClipRef) -> Tensor:
        index = int(ref.id.split("/")[1])
        if index == self.absent:
            raise MissingClip(f"no file {getattr(self, 'root', '.')}/{ref.id}")
        if index == self.broken:
            raise OSError(f"{ref.id} is truncated")
        return torch.full((3, 4, 8, 8), LEVELS[index % 3 if self.only < 0 else self.only])


class LevelClassifier(nn.Module):
    """Nearest level of the mean: ``-(m - level)^2`` up to a common term, hence linear in ``m``."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.tensor(LEVELS))

    def forward(self, clips: Tensor) -> Tensor:
        level = clips.mean(dim=(1, 2, 3, 4))
        return 100 * (level[:, None] * self.levels - self.levels**2 / 2)


def level_classifier() -> nn.Module:
    return LevelClassifier()
