"""What stands for rounding where a gradient is wanted: the same value, or nearly, with a derivative that says more."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Rounding = Callable[[Tensor], Tensor]
"""Values in units of the distance of two levels to values near the whole number next to each."""


def with_value(stand_in: Tensor, value: Tensor) -> Tensor:
    """The value of one tensor, to the last digit, with the gradient of another of the same shape."""
    return value.detach() + (stand_in - stand_in.detach())


def straight_through(values: Tensor) -> Tensor:
    """Rounds; the derivative is 1 (Bengio, Leonard and Courville, arXiv 1308.3432, 2013)."""
    return with_value(values, values.round())


def cubic(values: Tensor) -> Tensor:
    """``r + (x - r)^3`` with ``r`` the nearest whole number: half an eighth of a step off at most.

    Its derivative ``3 (x - r)^2`` is 0 in the middle between two thresholds and 3/4 at one: what is far from changing
    its level counts little (Shin and Song, JPEG-resistant Adversarial Images, NIPS Workshop 2017).
    """
    nearest = values.detach().round()
    return nearest + (values - nearest) ** 3


def smoothed(spread: float | Tensor, reach: int = 3) -> Rounding:
    """Rounding averaged over normal noise, in closed form: ``E[round(x + spread * n)]``.

    Its derivative is the density of the noise at the thresholds: how likely the value is to change its level.

    Args:
        spread: standard deviation, in units of the distance of two levels, above 0; a number or a tensor that fits the
            values.
        reach: how many thresholds on either side count.
    """

    def smooth(values: Tensor) -> Tensor:
        nearest = values.detach().round()
        off = values - nearest
        total = nearest
        for place in range(-reach, reach):
            passed = 0.5 * torch.erfc((place + 0.5 - off) / (spread * math.sqrt(2)))
            total = total + passed - (1.0 if place < 0 else 0.0)
        return total

    return smooth
