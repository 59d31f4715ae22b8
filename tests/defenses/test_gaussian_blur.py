"""Gaussian blur against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from kit.draws import draw
from kit.pictures import apply, planes
from scipy.ndimage import convolve1d


@pytest.mark.parametrize(("sigma", "size"), [(1.0, 5), (0.5, 3), (2.0, 9)])
def test_gaussian_blur_is_scipy(sigma: float, size: int) -> None:
    clips = draw(2, 3, 2, 13, 18)
    weights = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    expected = [
        convolve1d(convolve1d(p, weights, 0, mode="nearest"), weights, 1, mode="nearest") for p in planes(clips)
    ]
    found = apply(f"gaussian_blur(sigma={sigma}, size={size})", clips)
    np.testing.assert_allclose(planes(found), expected, rtol=0, atol=1e-6)
