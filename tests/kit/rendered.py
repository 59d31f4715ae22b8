"""Clips of the procedural data sets."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.data.procedural import render


def clips_of(count: int, frames: int = 16, size: int = 64) -> Tensor:
    """The first test clips of ``motion12``, ``(count, 3, frames, size, size)``."""
    return torch.stack([render("test", i, frames=frames, size=size).clip for i in range(count)])
