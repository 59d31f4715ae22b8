"""The mean filter against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from kit.draws import draw
from kit.pictures import apply, planes
from scipy.ndimage import uniform_filter


@pytest.mark.parametrize("size", [1, 3, 5])
def test_mean_is_scipy(size: int) -> None:
    clips = draw(2, 3, 2, 13, 18)
    expected = [uniform_filter(plane, size, mode="nearest") for plane in planes(clips)]
    np.testing.assert_allclose(planes(apply(f"mean(size={size})", clips)), expected, rtol=0, atol=1e-6)
