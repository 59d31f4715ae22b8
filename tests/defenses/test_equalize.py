"""Histogram equalisation against scikit-image and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kit.draws import draw
from kit.pictures import apply, planes
from skimage.exposure import cumulative_distribution, equalize_hist

from bench import ClipRandom
from bench.defenses.equalize import Equalize


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


@pytest.mark.parametrize("bins", [5, 51, 100, 255])
def test_equalize_of_values_on_the_edges_of_bins_is_scikit_image(bins: int) -> None:
    clips = (255 * draw(1, 3, 2, 20, 21)).round() / 255
    clips[..., 0, 0], clips[..., 0, 1] = 0.0, 1.0
    expected = [equalize_hist(plane, bins) for plane in planes(clips)]
    np.testing.assert_allclose(planes(apply(f"equalize(bins={bins})", clips)), expected, rtol=0, atol=1e-6)


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


def test_equalize_goes_back_by_the_slope_of_scikit_images_mapping() -> None:
    clips, weights = draw(1, 3, 2, 13, 18) ** 2 * 0.7, draw(1, 3, 2, 13, 18, seed=1)
    leaf = clips.clone().requires_grad_(True)
    stand_in = Equalize(40).bpda(leaf, ClipRandom([0]))
    torch.testing.assert_close(stand_in.detach(), apply("equalize(bins=40)", clips))
    (found,) = torch.autograd.grad((weights * stand_in).sum(), leaf)
    reach = 8 / 255
    for plane, weight, back in zip(planes(clips), planes(weights), planes(found), strict=True):
        shares, middles = cumulative_distribution(plane, 40)
        above, below = (np.interp(plane + step, middles, shares) for step in (reach, -reach))
        np.testing.assert_allclose(back, weight * (above - below) / (2 * reach), rtol=0, atol=1e-4)


def test_equalize_amplifies_by_the_contrast_that_it_adds() -> None:
    """Values spread evenly over a quarter of the range are spread over all of it: the slope is 4."""
    ramp = torch.linspace(0.3, 0.55, 32 * 32).reshape(1, 1, 1, 32, 32).repeat(1, 3, 1, 1, 1).requires_grad_(True)
    (found,) = torch.autograd.grad(Equalize().bpda(ramp, ClipRandom([0])).sum(), ramp)
    inner = (ramp.detach() > 0.34) & (ramp.detach() < 0.51)
    torch.testing.assert_close(found[inner], torch.full_like(found[inner], 4.0), rtol=0.02, atol=0)


def test_equalize_of_a_flat_channel_passes_the_gradient_on() -> None:
    flat = torch.full((1, 3, 1, 4, 4), 0.3, requires_grad=True)
    (found,) = torch.autograd.grad(Equalize().bpda(flat, ClipRandom([0])).sum(), flat)
    torch.testing.assert_close(found, torch.ones_like(found), rtol=1e-5, atol=0)
