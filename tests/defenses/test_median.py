"""The median filter against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kit.draws import draw
from kit.pictures import apply, planes
from scipy.ndimage import median_filter


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_median_is_scipy(size: int) -> None:
    clips = draw(2, 3, 2, 13, 18)
    expected = [median_filter(plane, size, mode="nearest") for plane in planes(clips)]
    np.testing.assert_array_equal(planes(apply(f"median(size={size})", clips)), expected)
    with_gradient = apply(f"median(size={size})", clips.requires_grad_(True))
    np.testing.assert_array_equal(planes(with_gradient.detach()), expected)


@pytest.mark.parametrize("size", [2, 3])
def test_median_of_few_levels_is_scipy_and_its_gradient_goes_to_one_pixel(size: int) -> None:
    """Many values are equal."""
    clips = (4 * draw(1, 3, 2, 12, 15)).round()
    expected = [median_filter(plane, size, mode="nearest") for plane in planes(clips)]
    np.testing.assert_array_equal(planes(apply(f"median(size={size})", clips)), expected)
    found = apply(f"median(size={size})", clips.requires_grad_(True))
    (back,) = torch.autograd.grad(found.sum(), clips)
    assert float(back.sum()) == found.numel()
    assert torch.equal(back, back.round())  # no value is shared between several


def test_median_removes_salt_and_keeps_an_edge() -> None:
    clean = torch.zeros(1, 3, 1, 12, 12)
    clean[..., 6:] = 0.5
    salted = clean.clone()
    salted[..., 4, 3] = salted[..., 8, 9] = salted[..., 0, 0] = 1.0
    assert torch.equal(apply("median", salted), clean)
    assert not torch.allclose(apply("mean", salted), clean, atol=0.05)
