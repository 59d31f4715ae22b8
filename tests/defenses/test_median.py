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


def test_median_removes_salt_and_keeps_an_edge() -> None:
    clean = torch.zeros(1, 3, 1, 12, 12)
    clean[..., 6:] = 0.5
    salted = clean.clone()
    salted[..., 4, 3] = salted[..., 8, 9] = salted[..., 0, 0] = 1.0
    assert torch.equal(apply("median", salted), clean)
    assert not torch.allclose(apply("mean", salted), clean, atol=0.05)
