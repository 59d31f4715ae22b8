"""Random numbers that are the same in every run."""

from __future__ import annotations

import torch
from torch import Tensor


def draw(*shape: int, seed: int = 0, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Uniform numbers in ``[low, high)``."""
    return low + (high - low) * torch.rand(shape, generator=generator(seed))


def generator(seed: int = 0) -> torch.Generator:
    """A generator that starts at a seed."""
    return torch.Generator().manual_seed(seed)
