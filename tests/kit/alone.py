"""Defences that show what a process of its own knows, named as ``kit.alone:Thing``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from levels import LEVELS
from planted import SecretlyRandom
from torch import Tensor

from bench import ClipRandom, Purifier


class Revealing(Purifier):
    """Answers with a level of gray: the first if it finds what it should not, else the second, or the third if the file
    that it is given is there and nothing says where it came from.

    Args:
        file: is read.
    """

    def __init__(self, file: str = "") -> None:
        super().__init__()
        self.file = file

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        known = "BENCH_SECRET" in os.environ or any(m.startswith(("bench.audit", "_pytest")) for m in sys.modules)
        level = LEVELS[0] if known else LEVELS[1]
        if self.file:
            hidden = "elsewhere" not in self.file and Path(self.file).read_text(encoding="utf-8") == "words"
            level = LEVELS[2] if hidden else LEVELS[0]
        return torch.full_like(clips, level)


class Blinking(SecretlyRandom):
    """Blackens one clip in four at random, and says so."""

    stochastic = True


class AtHome(Purifier):
    """Does nothing, and cannot be made but in a test."""

    def __init__(self) -> None:
        super().__init__()
        if "_pytest" not in sys.modules:
            raise RuntimeError("nobody tests me here")

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return clips * 1
