"""The ends of the range: what is cut off, and what a gradient does there."""

from __future__ import annotations

import pytest
import torch

from bench import clip01


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_values_are_those_of_clamp_and_gradients_pass_the_closed_interval(dtype: torch.dtype) -> None:
    inf = float("inf")
    values = torch.tensor([-inf, -0.1, 0.0, 0.25, 1.0, 1.1, inf, float("nan")], dtype=dtype, requires_grad=True)
    found = clip01(values)
    torch.testing.assert_close(found.detach(), values.detach().clamp(0, 1), rtol=0, atol=0, equal_nan=True)
    (gradient,) = torch.autograd.grad(found, values, torch.full_like(values, 3))
    assert gradient.tolist() == [0, 0, 3, 3, 3, 0, 0, 0]


def test_what_rounding_put_outside_is_inside() -> None:
    """Nine ninths may be more than one; they are cut off, and can still move inwards."""
    above = torch.tensor([1 + 2**-23, -(2.0**-24), 1 + 1e-4, -1e-4], requires_grad=True)
    found = clip01(above)
    assert found.tolist() == [1, 0, 1, 0]
    (gradient,) = torch.autograd.grad(found.sum(), above)
    assert gradient.tolist() == [1, 1, 0, 0]


def test_without_a_gradient_nothing_is_kept() -> None:
    values = torch.tensor([-1.0, 0.5, 2.0], requires_grad=True)
    with torch.no_grad():
        assert not clip01(values).requires_grad
    assert not clip01(values.detach()).requires_grad
