"""Halftoning against the double loop of error diffusion."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.draws import draw
from kit.pictures import apply, planes

few = settings(max_examples=10, deadline=None, derandomize=True, database=None)


def floyd_steinberg(plane: np.ndarray, threshold: float) -> np.ndarray:
    """Pixel by pixel in raster order; errors are handed on, not collected."""
    value, sixteenth = plane.astype(np.float32), np.float32(1 / 16)
    height, width = value.shape
    dots = np.zeros_like(value)
    for i in range(height):
        for j in range(width):
            dots[i, j] = value[i, j] >= np.float32(threshold)
            error = value[i, j] - dots[i, j]
            for down, right, share in ((0, 1, 7), (1, -1, 3), (1, 0, 5), (1, 1, 1)):
                if i + down < height and 0 <= j + right < width:
                    value[i + down, j + right] += error * (share * sixteenth)
    return dots


@few
@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from([0.5, 0.3]), st.integers(0, 99))
def test_halftone_is_the_double_loop(height: int, width: int, threshold: float, seed: int) -> None:
    clips = draw(2, 3, 2, height, width, seed=seed)
    found = apply(f"halftone(threshold={threshold})", clips)
    expected = [floyd_steinberg(plane, threshold) for plane in planes(clips)]
    np.testing.assert_array_equal(planes(found), expected)


def test_halftone_of_a_larger_frame() -> None:
    clips = draw(1, 3, 1, 37, 52)
    np.testing.assert_array_equal(planes(apply("halftone", clips)), [floyd_steinberg(p, 0.5) for p in planes(clips)])


@pytest.mark.parametrize("level", [0.0, 0.1, 0.25, 0.5, 0.8, 1.0])
def test_halftone_keeps_the_mean_with_two_values(level: float) -> None:
    dots = apply("halftone", torch.full((1, 3, 1, 64, 64), level))
    assert set(dots.unique().tolist()) <= {0.0, 1.0}
    assert float(dots.mean()) == pytest.approx(level, abs=0.01)


def test_halftone_by_hand() -> None:
    """0.6 becomes 1 and hands on -0.4: the right gets 0.6 - 0.175, below it 0.6 - 0.125."""
    clips = torch.full((1, 3, 1, 2, 2), 0.6)
    # (0, 0) 1, error -.4; (0, 1) .425 -> 0, error .425; (1, 0) .6 - .125 + .0796875 = .5546875 -> 1, error -.4453125;
    # (1, 1) .6 - .025 + .1328125 - .1948242 = .5129883 -> 1.
    assert apply("halftone", clips)[0, 0, 0].tolist() == [[1, 0], [1, 1]]
