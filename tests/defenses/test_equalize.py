"""Histogram equalisation against scikit-image and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kit.draws import draw
from kit.pictures import apply, planes
from skimage.exposure import equalize_hist


def test_equalize_makes_all_values_equally_frequent() -> None:
    dark = draw(1, 3, 2, 48, 48) ** 3 * 0.4  # most values are near 0, none is above 0.4
    found = apply("equalize", dark)
    for before, after in zip(planes(dark), planes(found), strict=True):
        # The share of pixels up to a level is the level.
        shares = [(after <= level).mean() for level in (0.25, 0.5, 0.75, 0.95)]
        # Up to a tenth of the values of a cubed uniform fall into the first of 256 bins.
        np.testing.assert_allclose(shares[1:], (0.5, 0.75, 0.95), rtol=0, atol=0.02)
        order = np.argsort(before, axis=None)
        assert (np.diff(after.flatten()[order]) >= 0).all()  # brighter stays brighter
    assert float(found.max()) == 1


@pytest.mark.parametrize("bins", [2, 40, 256])
def test_equalize_is_scikit_image(bins: int) -> None:
    clips = draw(2, 3, 2, 13, 18) ** 2 * 0.7
    expected = [equalize_hist(plane, bins) for plane in planes(clips)]
    np.testing.assert_allclose(planes(apply(f"equalize(bins={bins})", clips)), expected, rtol=0, atol=1e-5)


def test_equalize_of_values_that_differ_in_the_last_bit() -> None:
    clips = torch.full((1, 3, 1, 2, 2), 0.5)
    clips[..., 0, 0] = torch.nextafter(torch.tensor(0.5), torch.tensor(1.0))
    assert apply("equalize", clips)[0, 0, 0].tolist() == [[1, 0.75], [0.75, 0.75]]


def test_equalize_by_hand() -> None:
    """Four bins over 0 to 0.8, their middles at 0.1, 0.3, 0.5 and 0.7."""
    clips = torch.tensor([0.0, 0.1, 0.15, 0.2, 0.5, 0.45, 0.7, 0.8])
    found = apply("equalize(bins=4)", clips.expand(1, 3, 1, 1, 8))[0, 0, 0, 0]
    # They hold 3, 1, 2 and 2 values (one on an edge belongs to the upper): up to each lie 3/8, 4/8, 6/8 and all.
    expected = [3 / 8, 3 / 8, 3 / 8 + 1 / 32, 3 / 8 + 2 / 32, 6 / 8, 6 / 8 - 1 / 16, 1, 1]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-5)
