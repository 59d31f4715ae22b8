"""Warping and splatting: shifts by hand, and one the transpose of the other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data.procedural import render
from bench.flow.base import splat, warp


def test_warp_by_whole_pixels_is_a_shift() -> None:
    frames = torch.rand(2, 3, 7, 9, generator=torch.Generator().manual_seed(0))
    flow = torch.tensor([2.0, -1.0]).view(1, 2, 1, 1).expand(2, 2, 7, 9)
    warped = warp(frames, flow)
    torch.testing.assert_close(warped[:, :, 1:, :-2], frames[:, :, :-1, 2:])
    assert not warped[:, :, 0].any()  # what lies outside is zero
    assert not warped[:, :, :, -2:].any()


def test_warp_by_half_a_pixel_is_the_mean() -> None:
    frames = torch.rand(1, 1, 4, 6, generator=torch.Generator().manual_seed(0))
    flow = torch.tensor([0.5, 0.0]).view(1, 2, 1, 1).expand(1, 2, 4, 6)
    torch.testing.assert_close(warp(frames, flow)[..., :-1], (frames[..., :-1] + frames[..., 1:]) / 2)


def test_warping_back_by_the_analytic_flow_restores_the_sprite() -> None:
    """Directions and signs agree with those of the renderer; noise and flickering exposure remain."""
    for index in range(12):
        clip = render("test", index)
        first, second, flow = clip.clip[:, :-1], clip.clip[:, 1:], clip.flow
        inner = clip.mask[:-1] & clip.mask[1:]
        error = []
        for sign in (1, 0, -1):
            warped = warp(second.transpose(0, 1), sign * flow.transpose(0, 1)).transpose(0, 1)
            error.append(float((warped - first).abs()[:, inner].mean()))
        assert error[0] < 0.9 * error[1] < error[2]


@given(st.integers(0, 10_000), st.integers(2, 9), st.integers(2, 9))
@settings(max_examples=30, deadline=None)
def test_splat_is_the_transpose_of_warp(seed: int, height: int, width: int) -> None:
    """By the definition of a transpose, flows out of the frame included."""
    generator = torch.Generator().manual_seed(seed)
    x, values = torch.randn(2, 2, 3, height, width, generator=generator, dtype=torch.float64)
    flow = 3 * torch.randn(2, 2, height, width, generator=generator, dtype=torch.float64)
    taken = (warp(x, flow) * values).sum()
    assert float((x * splat(values, flow)).sum()) == pytest.approx(float(taken), rel=1e-9, abs=1e-9)


def test_splat_is_differentiable_in_the_flow() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(1, 2, 4, 5, generator=generator, dtype=torch.float64)
    flow = torch.randn(1, 2, 4, 5, generator=generator, dtype=torch.float64).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda f: splat(values, f), flow)
