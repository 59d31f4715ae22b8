"""Random numbers in double precision, and derivatives by differences."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kit.draws import generator


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Uniform numbers in ``[0, 1)``."""
    return torch.rand(*shape, generator=generator(seed), dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def slope(value: Any, x: Tensor, direction: Tensor, step: float = 1e-7) -> float:
    """Directional derivative by central differences."""
    with torch.no_grad():
        return float(value(x + step * direction) - value(x - step * direction)) / (2 * step)
