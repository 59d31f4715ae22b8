"""Random numbers in double precision, and derivatives by differences."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slope(value: Any, x: Tensor, direction: Tensor, step: float = 1e-7) -> float:
    """Directional derivative by central differences."""
    with torch.no_grad():
        return float(value(x + step * direction) - value(x - step * direction)) / (2 * step)
