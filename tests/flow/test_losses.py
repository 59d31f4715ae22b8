"""Losses along the flow: against plain loops, scikit-image, closed form and finite differences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kit.double import draw, normal, slope
from kit.flows import miniature
from skimage.metrics import structural_similarity
from torch import Tensor

from bench import BenchError
from bench.flow.base import FlowEstimator, warp
from bench.flow.losses import (
    MotionLoss,
    _TwiceDifferentiable,
    bilinear,
    in_frame,
    photometric,
    similarity_of,
    smoothness,
    ssim,
)

# --- pairs -----------------------------------------------------------------------------------------------------------


def pixel(frame: np.ndarray, x: float, y: float) -> np.ndarray | None:
    """A frame ``(C, H, W)`` at a point between pixels, or nothing outside of it."""
    height, width = frame.shape[1:]
    if not (0 <= x <= width - 1 and 0 <= y <= height - 1):
        return None
    left, top = min(int(x), width - 2), min(int(y), height - 2)
    a, b = x - left, y - top
    upper = (1 - a) * frame[:, top, left] + a * frame[:, top, left + 1]
    lower = (1 - a) * frame[:, top + 1, left] + a * frame[:, top + 1, left + 1]
    return np.asarray((1 - b) * upper + b * lower)


@pytest.mark.parametrize(("similarity", "power"), [("l1", 1), ("l2", 2)])
def test_the_photometric_loss_is_the_mean_over_what_stays_in_the_frame(similarity: str, power: int) -> None:
    first, second, flow = draw(3, 3, 6, 7, seed=1), draw(3, 3, 6, 7, seed=2), 3 * normal(3, 2, 6, 7)
    found, inside = photometric(first, second, flow, similarity), in_frame(flow)
    for n in range(3):
        errors = []
        for y in range(6):
            for x in range(7):
                u, v = flow[n, :, y, x].tolist()
                there = pixel(second[n].numpy(), x + u, y + v)
                assert (there is not None) == bool(inside[n, 0, y, x])
                if there is not None:
                    errors += (np.abs(there - first[n, :, y, x].numpy()) ** power).tolist()
        assert 0 < len(errors) < 3 * 42
        assert float(found[n]) == pytest.approx(np.mean(errors), rel=1e-12)


def test_a_shift_that_the_flow_knows_costs_nothing() -> None:
    wide = draw(1, 3, 8, 10)
    first, second = wide[..., 2:], wide[..., :-2]
    known, still = torch.zeros(2, 1, 2, 8, 8, dtype=torch.float64)
    known[:, 0] = 2.0
    for similarity in ("l1", "l2", "ssim"):
        assert float(photometric(first, second, known, similarity)) < 1e-12
        assert float(photometric(first, second, still, similarity)) > 0.01


def test_where_nothing_stays_in_the_frame_there_is_no_loss_and_no_gradient() -> None:
    first, second = draw(1, 3, 5, 5).requires_grad_(True), draw(1, 3, 5, 5, seed=1)
    for similarity in ("l1", "l2", "ssim"):
        loss = photometric(first, second, torch.full((1, 2, 5, 5), 9.0, dtype=torch.float64), similarity)
        (gradient,) = torch.autograd.grad(loss.sum(), first)
        assert loss.tolist() == [0]
        assert not gradient.any()


def test_similarity_of_structure_is_that_of_scikit_image() -> None:
    one = draw(1, 3, 12, 13)
    other = (one + 0.2 * normal(1, 3, 12, 13)).clamp(0, 1)
    settings: dict[str, Any] = {"win_size": 3, "data_range": 1.0, "use_sample_covariance": False, "full": True}
    _, expected = structural_similarity(one[0].numpy(), other[0].numpy(), channel_axis=0, **settings)  # type: ignore[no-untyped-call]
    found = ssim(one, other)
    assert float(found.max()) < 1
    torch.testing.assert_close(found[0], torch.from_numpy(expected[:, 1:-1, 1:-1]), rtol=0, atol=1e-12)
    still = torch.zeros(1, 2, 12, 13, dtype=torch.float64)
    assert float(photometric(one, other, still, "ssim")) == pytest.approx(float((1 - found).mean()) / 2)


def test_a_window_counts_if_all_of_it_stays_in_the_frame() -> None:
    first, second, flow = draw(1, 3, 6, 6), draw(1, 3, 6, 6, seed=1), torch.zeros(1, 2, 6, 6, dtype=torch.float64)
    flow[0, 0, 2, 1] = -5  # of the 4x4 windows, 6 hold this pixel
    values = (1 - ssim(warp(second, flow), first)) / 2
    counted = torch.ones(4, 4, dtype=torch.bool)
    counted[0:3, 0:2] = False
    expected = values[0][:, counted].mean()
    assert float(photometric(first, second, flow, "ssim")) == pytest.approx(float(expected))


def test_smoothness_is_that_of_plain_loops() -> None:
    flow, image, edge = normal(2, 2, 5, 6), draw(2, 3, 5, 6), 20.0
    found = smoothness(flow, image, edge)
    for n in range(2):
        v, i = flow[n].numpy(), image[n].numpy()
        along_x = [
            math.exp(-edge / 3 * np.abs(i[:, y, x + 1] - i[:, y, x - 1]).sum())
            * np.abs(v[:, y, x + 1] - 2 * v[:, y, x] + v[:, y, x - 1]).mean()
            for y in range(5)
            for x in range(1, 5)
        ]
        along_y = [
            math.exp(-edge / 3 * np.abs(i[:, y + 1, x] - i[:, y - 1, x]).sum())
            * np.abs(v[:, y + 1, x] - 2 * v[:, y, x] + v[:, y - 1, x]).mean()
            for y in range(1, 4)
            for x in range(6)
        ]
        assert float(found[n]) == pytest.approx(np.mean(along_x) + np.mean(along_y), rel=1e-12)


def test_straight_flow_is_smooth_and_edges_set_it_free() -> None:
    ramp = torch.arange(7.0, dtype=torch.float64)
    straight = torch.stack([ramp.expand(7, 7), ramp[:, None].expand(7, 7)])[None]
    gray = torch.full((1, 3, 7, 7), 0.5, dtype=torch.float64)
    assert float(smoothness(straight, gray)) < 1e-12
    step, edge = torch.zeros(1, 2, 7, 7, dtype=torch.float64), gray.clone()
    step[..., 3:], edge[..., 3:] = 1.0, 1.0  # the flow jumps where the picture does
    assert float(smoothness(step, gray)) > 0.1
    assert float(smoothness(step, edge)) < 1e-6


@pytest.mark.parametrize("similarity", ["l1", "l2", "ssim"])
def test_gradients_reach_both_frames_and_the_flow(similarity: str) -> None:
    """Unlike in unsupervised flow, where the warped frame is held constant."""
    inputs = (draw(1, 2, 5, 5), draw(1, 2, 5, 5, seed=1), 0.7 * normal(1, 2, 5, 5))
    first, second, flow = (x.requires_grad_(True) for x in inputs)
    assert torch.autograd.gradcheck(lambda a, b, f: photometric(a, b, f, similarity), (first, second, flow))
    for gradient in torch.autograd.grad(photometric(first, second, flow, similarity).sum(), (first, second, flow)):
        assert gradient.any()
    assert torch.autograd.gradcheck(lambda f, a: smoothness(f, a, 10.0), (flow, first))


def test_unknown_similarity_is_one_sentence() -> None:
    with pytest.raises(BenchError, match=r"Unknown similarity 'sssim' \(did you mean 'ssim'\?\); known: l1, l2, ssim"):
        similarity_of("sssim")


# --- a second derivative for the warp --------------------------------------------------------------------------------


def test_sampling_in_parts_is_grid_sample() -> None:
    image, grid = draw(2, 3, 5, 6), 2.6 * draw(2, 4, 3, 2, seed=1) - 1.3
    grid[0, 0, 0] = torch.tensor([0.2, 0.0])  # on a pixel: x = 3, y = 2
    weight = normal(2, 3, 4, 3)
    image.requires_grad_(True)
    grid.requires_grad_(True)
    with _TwiceDifferentiable():
        found = F.grid_sample(image, grid, mode="bilinear", align_corners=True)
    expected = F.grid_sample(image, grid, mode="bilinear", align_corners=True)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad((value * weight).sum(), (image, grid)) for value in (found, expected)]
    torch.testing.assert_close(*gradients)
    inner = (1.5 * draw(1, 2, 3, 2, seed=3) - 0.7).requires_grad_(True)
    small = draw(1, 2, 4, 3).requires_grad_(True)
    assert torch.autograd.gradgradcheck(lambda a, b: bilinear(a, b, align_corners=True), (small, inner))
    with pytest.raises(NotImplementedError):
        bilinear(image, grid, align_corners=False)


def test_pytorchs_own_second_derivative_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which older versions do not have."""
    loss, clips = MotionLoss(miniature()), draw(1, 3, 3, 8, 8).requires_grad_(True)
    value = loss.gradient(clips).square().sum()
    own = torch.grid_sampler

    def once(*arguments: Any) -> Tensor:
        assert not (torch.is_grad_enabled() and arguments[0].requires_grad), "sampled by PyTorch"
        return own(*arguments)

    monkeypatch.setattr(torch, "grid_sampler", once)
    assert torch.autograd.grad(value, clips)[0].any()


# --- clips -----------------------------------------------------------------------------------------------------------


def plain(flow: FlowEstimator, clip: Tensor, pairs: list[tuple[int, int]], similarity: str = "l1") -> Tensor:
    """Mean photometric loss of some pairs of frames, one call of the flow network each."""
    losses = []
    for i, j in pairs:
        first, second = clip[None, :, i], clip[None, :, j]
        losses.append(photometric(first, second, flow(first, second), similarity))
    return torch.cat(losses).mean()


@torch.no_grad()
@pytest.mark.parametrize(("frames", "similarity"), [(6, "l1"), (5, "l2"), (2, "ssim")])
def test_constraints_add_up_as_defined(frames: int, similarity: str) -> None:
    flow, clips = miniature(), draw(2, 3, frames, 12, 8)
    forward = [(i, i + 1) for i in range(frames - 1)]
    long = [(i, i + frames // 2) for i in range(frames // 2)]  # of an odd length, the last frame is left out
    loss = MotionLoss(flow, ("long", "forward", "backward"), (3.0, 1.0, 0.5), similarity, smooth=0.7, edge=20.0)
    photo, smooth = loss.terms(clips)
    for b, clip in enumerate(clips):
        backward = plain(flow, clip.flip(1), forward, similarity)
        # equation 10 sums over pairs: the long ones are fewer, and each weighs as much as any other
        fewer = len(long) / len(forward)
        expected = 3 * fewer * plain(flow, clip, long, similarity) + plain(flow, clip, forward, similarity)
        expected = expected + 0.5 * backward
        assert float(photo[b]) == pytest.approx(float(expected), rel=1e-10)
        bends = [smoothness(flow(clip[None, :, i], clip[None, :, j]), clip[None, :, i], 20.0) for i, j in forward]
        assert float(smooth[b]) == pytest.approx(float(torch.cat(bends).mean()), rel=1e-10)
    torch.testing.assert_close(loss(clips), photo + 0.7 * smooth)
    single = MotionLoss(flow, similarity=similarity, smooth=0.7, edge=20.0)
    torch.testing.assert_close(single.terms(clips)[1], smooth)
    reversed_loss = MotionLoss(flow, ("backward",), similarity=similarity, smooth=0.0)
    forward_loss = MotionLoss(flow, similarity=similarity, smooth=0.0)
    torch.testing.assert_close(reversed_loss(clips), forward_loss(clips.flip(2)))


@torch.no_grad()
@pytest.mark.parametrize("frames", [64, 6])
def test_every_pair_weighs_the_same_as_equations_1_and_10_have_it(frames: int) -> None:
    """Frames of one grey each, a step brighter every time: neighbours differ by a step whatever the flow says, and
    those half a clip apart by half a clip of steps. Of 64 frames, 63 steps, 63 steps and 32 times 32 steps, over 63."""
    step, half = 0.9 / frames, frames // 2
    clip = (step * torch.arange(frames, dtype=torch.float64)).view(1, 1, -1, 1, 1).expand(1, 3, -1, 8, 8).contiguous()
    flow, pairs = miniature(), frames - 1

    def value(*constraints: str) -> float:
        return float(MotionLoss(flow, constraints, smooth=0.0)(clip))

    assert value("forward") == pytest.approx(step)
    assert value("long") == pytest.approx(half * step)
    assert value("forward", "backward", "long") == pytest.approx((pairs + pairs + half**2) * step / pairs)
    loss = MotionLoss(flow, ("forward", "backward", "long"), smooth=0.0)
    with torch.enable_grad():
        slope_of_frames = loss.gradient(clip).sum((0, 1, 3, 4))
    # A frame is raised by the pairs in which it is the brighter one and lowered by the others; inner pairs cancel.
    pull = torch.zeros(frames, dtype=torch.float64)
    for i, j, times in [*((i, i + 1, 2) for i in range(pairs)), *((i, i + half, 1) for i in range(half))]:
        pull[j] += times / pairs
        pull[i] -= times / pairs
    torch.testing.assert_close(slope_of_frames, pull)


@torch.no_grad()
def test_the_long_range_may_be_given() -> None:
    flow, clips = miniature(), draw(1, 3, 6, 8, 8)
    loss = MotionLoss(flow, ("long",), distance=4, smooth=0.0)
    assert float(loss(clips)) == pytest.approx(float(plain(flow, clips[0], [(0, 4), (1, 5)])))


@pytest.mark.parametrize(("at_once", "chunks"), [(0, [6]), (4, [4, 2])])
def test_each_frame_is_encoded_once_for_all_constraints(at_once: int, chunks: list[int]) -> None:
    flow, seen = miniature(), [0]
    flow.encode_fine.register_forward_pre_hook(lambda _, x: seen.append(len(x[0])))
    loss = MotionLoss(flow, ("forward", "backward", "long"), pairs_at_once=at_once)
    loss(draw(2, 3, 6, 8, 8))
    assert seen == [0, *chunks, *chunks]
    seen.clear()
    loss.gradient(draw(1, 3, 6, 8, 8))
    # Once, and where it is not kept once more on the way back.
    assert sorted(seen) == sorted(chunks * (2 if at_once else 1))


def test_a_gradient_is_the_same_to_the_last_bit_whether_or_not_it_is_differentiated() -> None:
    """The judge does not differentiate, the attacker does: the defence takes the sign of what both see."""
    clips = draw(2, 3, 5, 16, 16).float()
    loss = MotionLoss(miniature().float(), ("forward", "long"), pairs_at_once=3)
    tracked = loss.gradient(clips.clone().requires_grad_(True))
    assert tracked.requires_grad
    assert torch.equal(tracked.detach(), loss.gradient(clips))


SETTINGS: list[dict[str, Any]] = [
    {},
    {"constraints": ("forward", "backward", "long"), "similarity": "ssim", "smooth": 0.1},
    {"similarity": "l2", "smooth": 2.0, "edge": 10.0, "pairs_at_once": 2},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_gradient_is_exact_and_so_is_its_own(settings: dict[str, Any]) -> None:
    loss = MotionLoss(miniature(), **settings)
    clips, direction = 0.2 + 0.6 * draw(2, 3, 4, 8, 8), normal(2, 3, 4, 8, 8, seed=5)
    expected = slope(lambda x: loss(x).sum(), clips, direction)
    with torch.no_grad():
        gradient = loss.gradient(clips)
    assert not gradient.requires_grad
    assert float((gradient * direction).sum()) == pytest.approx(expected, rel=1e-6)

    weight, x = normal(2, 3, 4, 8, 8, seed=6), clips.clone().requires_grad_(True)
    (second,) = torch.autograd.grad((loss.gradient(x) * weight).sum(), x)
    expected = slope(lambda x: (loss.gradient(x) * weight).sum(), clips, direction, 1e-8)
    assert abs(expected) > 1e-3
    assert float((second * direction).sum()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_clip_is_the_same_in_any_batch_and_pairs_in_any_group(settings: dict[str, Any]) -> None:
    flow, clips = miniature().float(), draw(3, 3, 5, 16, 16).float()
    loss = MotionLoss(flow, **settings)
    together = loss.gradient(clips)
    for b in range(3):
        assert torch.equal(loss.gradient(clips[b : b + 1]), together[b : b + 1])
    whole = MotionLoss(flow, **{**settings, "pairs_at_once": 0})
    torch.testing.assert_close(MotionLoss(flow, **{**settings, "pairs_at_once": 3})(clips), whole(clips))


def test_a_clip_of_one_colour_has_finite_derivatives() -> None:
    gray = torch.full((1, 3, 3, 8, 8), 0.5, requires_grad=True)
    first = MotionLoss(miniature().float()).gradient(gray)
    (second,) = torch.autograd.grad(first.sum(), gray)
    assert torch.isfinite(first).all()
    assert torch.isfinite(second).all()


def test_the_weight_of_the_smoothness_can_be_balanced() -> None:
    clips, flow = draw(3, 3, 4, 8, 8), miniature()
    weight = MotionLoss(flow, edge=5.0).balanced(clips, share=0.2)
    photo, smooth = MotionLoss(flow, edge=5.0, smooth=weight).terms(clips)
    assert float((weight * smooth).mean()) == pytest.approx(0.2 * float(photo.mean()))


@pytest.mark.parametrize(
    ("settings", "shape", "why"),
    [
        ({}, (1, 3, 1, 8, 8), "needs at least two, not 1"),
        ({}, (1, 2, 4, 8, 8), r"takes RGB clips \(B, 3, T, H, W\), not \(1, 2, 4, 8, 8\).*compute the flow itself"),
        ({}, (3, 4, 8, 8), "takes RGB clips"),
        ({"constraints": ("long",), "distance": 4}, (1, 3, 4, 8, 8), "compares frames 4 apart, but the clips have 4"),
        ({"constraints": ("foward",)}, None, r"Unknown constraint 'foward' \(did you mean 'forward'\?\)"),
        ({"constraints": ()}, None, "each of one or more constraints once"),
        ({"constraints": ("long", "long")}, None, "each of one or more constraints once"),
        ({"weights": (1.0, 2.0)}, None, "one positive weight for each of the constraints forward"),
        ({"weights": (-1.0,)}, None, "one positive weight"),
        ({"similarity": "l3"}, None, "Unknown similarity 'l3'"),
        ({"smooth": -0.1}, None, "finite and not negative"),
        ({"distance": -1}, None, "distance must be a whole number of at least 0"),
    ],
)
def test_refusals(settings: dict[str, Any], shape: tuple[int, ...] | None, why: str) -> None:
    with pytest.raises(BenchError, match=why):
        MotionLoss(miniature(), **settings).gradient(draw(*shape or (1, 3, 4, 8, 8)))
