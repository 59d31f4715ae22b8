"""What stands for rounding, against closed forms and numerical integration."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm
from torch import Tensor

from bench.defense.rounding import cubic, smoothed, straight_through, with_value

VALUES = torch.tensor([-2.7, -1.2, -0.5, -0.1, 0.0, 0.3, 0.49, 0.8, 1.4, 3.0], dtype=torch.float64)


def derivative(found: Tensor, at: Tensor) -> Tensor:
    return torch.autograd.grad(found.sum(), at)[0]


def test_the_value_of_one_and_the_gradient_of_the_other() -> None:
    x = VALUES.clone().requires_grad_(True)
    found = with_value(x**2, x.detach() + 5)
    assert torch.equal(found.detach(), VALUES + 5)
    torch.testing.assert_close(derivative(found, x), 2 * VALUES)


def test_straight_through_rounds_with_slope_one() -> None:
    x = VALUES.clone().requires_grad_(True)
    found = straight_through(x)
    torch.testing.assert_close(found.detach(), torch.tensor([-3.0, -1, 0, 0, 0, 0, 0, 1, 1, 3]).double())
    assert torch.equal(derivative(found, x), torch.ones_like(x))


def test_cubic_by_hand() -> None:
    x = torch.tensor([-2.7, 0.3, 1.4, 3.0], dtype=torch.float64, requires_grad=True)
    found = cubic(x)
    torch.testing.assert_close(found.detach(), torch.tensor([-3 + 0.027, 0.027, 1.064, 3.0]).double())
    torch.testing.assert_close(derivative(found, x), 3 * torch.tensor([0.3, 0.3, 0.4, 0.0]).double() ** 2)


@pytest.mark.parametrize("spread", [0.05, 0.2, 0.5])
def test_smoothed_is_the_mean_of_rounded_noisy_values(spread: float) -> None:
    x = VALUES.clone().requires_grad_(True)
    found = smoothed(spread)(x)
    for value, mean, slope in zip(VALUES, found.detach(), derivative(found, x), strict=True):
        thresholds = [k + 0.5 for k in range(-6, 7)]
        expected, _ = quad(
            lambda z, v=float(value): np.floor(v + spread * z + 0.5) * norm.pdf(z),
            -8,
            8,
            points=[(t - float(value)) / spread for t in thresholds if abs(t - float(value)) < 8 * spread] or None,
            limit=200,
        )
        assert float(mean) == pytest.approx(expected, abs=1e-6)
        assert float(slope) == pytest.approx(sum(norm.pdf((t - float(value)) / spread) for t in thresholds) / spread)


def test_smoothed_takes_a_spread_for_every_value() -> None:
    spread = torch.linspace(0.1, 0.4, len(VALUES)).double()
    found = smoothed(spread)(VALUES)
    each = [smoothed(float(s))(v) for s, v in zip(spread, VALUES, strict=True)]
    torch.testing.assert_close(found, torch.stack(each))
