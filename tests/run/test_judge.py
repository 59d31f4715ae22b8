"""The budget verifier catches each kind of violation and no honest clip."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import Budget
from bench.run.judge import distances, violation

CLIP = torch.linspace(0.2, 0.8, 3 * 2 * 4 * 4).reshape(3, 2, 4, 4)
SIZE = 4 / 255
LINF = Budget("linf", SIZE)
L2 = Budget("l2", 0.5)


def test_an_honest_clip_passes() -> None:
    assert violation(CLIP, CLIP, LINF) is None
    assert violation(CLIP, CLIP + SIZE, LINF) is None
    assert violation(CLIP, CLIP + 0.5 / math.sqrt(CLIP.numel()), L2) is None


def _one(value: float) -> torch.Tensor:
    changed = CLIP.clone()
    changed[1, 1, 2, 2] = value
    return changed


@pytest.mark.parametrize(
    ("adversarial", "budget", "says"),
    [
        (_one(float(CLIP[1, 1, 2, 2]) + SIZE + 1e-5), LINF, "exceeds the budget"),
        (CLIP + 0.52 / math.sqrt(CLIP.numel()), L2, "l2 distance"),
        (_one(float("nan")), LINF, "not finite"),
        (_one(float("inf")), L2, "not finite"),
        (_one(-1e-6), Budget("linf", 1.0), "leave [0, 1]"),
        (_one(1 + 1e-6), Budget("linf", 1.0), "leave [0, 1]"),
        (CLIP[:, :1], LINF, "shape"),
        ((CLIP * 255).byte(), LINF, "uint8"),
        (_one(float(CLIP[1, 1, 2, 2]) + 1e-6), None, "no change is allowed"),
    ],
)
def test_each_violation_is_named(adversarial: torch.Tensor, budget: Budget | None, says: str) -> None:
    found = violation(CLIP, adversarial, budget)
    assert found is not None
    assert says in found


def test_distances_have_known_values() -> None:
    found = distances(torch.zeros(3, 1, 2, 2), torch.tensor([0.0, 0.3, 0.4]).repeat(4).reshape(3, 1, 2, 2))
    assert found.linf == pytest.approx(0.4)
    assert found.l2 == pytest.approx(math.sqrt(4 * (0.09 + 0.16)), rel=1e-6)
    assert found.changed == pytest.approx(8 / 12)


ONE_FRAME = Budget("one-frame", SIZE)
FLICKER = Budget("flicker", SIZE)


def _frames(*changes: tuple[int, float]) -> torch.Tensor:
    """The clip with some frames made brighter as a whole."""
    changed = CLIP.clone()
    for frame, by in changes:
        changed[:, frame] += by
    return changed


@pytest.mark.parametrize(
    ("adversarial", "budget", "says"),
    [
        (CLIP, ONE_FRAME, None),
        (_frames((1, SIZE)), ONE_FRAME, None),
        (_one(float(CLIP[1, 1, 2, 2]) - SIZE), ONE_FRAME, None),
        (_frames((1, SIZE + 1e-5)), ONE_FRAME, "linf distance"),
        (_frames((0, 1e-6), (1, SIZE)), ONE_FRAME, "frames 0, 1 are changed where the budget allows one"),
        (_frames((0, 1e-6), (1, 1e-6)), ONE_FRAME, "frames 0, 1 are changed"),
        (CLIP, FLICKER, None),
        (_frames((0, SIZE), (1, -SIZE)), FLICKER, None),
        (_frames((0, SIZE + 1e-5)), FLICKER, "exceeds the budget"),
        (_frames((1, -SIZE - 1e-5)), FLICKER, "of colour 0 in frame 1 exceeds the budget"),
        (_one(float(CLIP[1, 1, 2, 2]) + 1e-3), FLICKER, "colour 1 of frame 1 is not the clean one plus one offset"),
        (CLIP[:, :1], FLICKER, "shape"),
        (_one(float("nan")), ONE_FRAME, "not finite"),
    ],
)
def test_balls_of_whole_frames(adversarial: torch.Tensor, budget: Budget, says: str | None) -> None:
    found = violation(CLIP, adversarial, budget)
    assert (found is None) if says is None else (found is not None and says in found)


def test_a_difference_below_single_precision_is_still_a_difference() -> None:
    double = CLIP.double()
    double[0, 0, 0, 0] += 1e-12
    double[0, 1, 0, 0] += 1e-12
    assert violation(CLIP, double, ONE_FRAME) is not None


@pytest.mark.parametrize(
    ("after", "size", "honest"),
    [
        ([0.3, 0.7, 1.0], 0.1, True),  # 0.95 + 0.1 is cut off
        ([0.3, 0.7, 1.0], 0.0999, False),
        ([0.3, 0.7, 0.99], 0.1, False),  # 0.95 should have reached 1
        ([0.205, 0.605, 1.0], 0.5, False),  # 0.95 + 0.005 does not
        ([1.0, 1.0, 1.0], 0.8, True),  # everything is saturated: 0.8 or more
        ([1.0, 1.0, 1.0], 0.79, False),
        ([0.0, 0.0, 0.15], 0.8, True),
        ([0.0, 0.0, 0.15], 0.79, False),
        ([0.0, 0.0, 1.0], 1.0, False),  # one goes up where the others go down
    ],
)
def test_saturated_pixels_bound_the_offset_from_one_side(after: list[float], size: float, honest: bool) -> None:
    clean = torch.tensor([0.2, 0.6, 0.95]).repeat(3, 1, 1).reshape(3, 1, 1, 3)
    adversarial = clean.clone()
    adversarial[2, 0, 0] = torch.tensor(after)
    assert (violation(clean, adversarial, Budget("flicker", size)) is None) is honest


@settings(deadline=None, max_examples=30, derandomize=True, database=None)
@given(
    size=st.floats(1e-3, 0.5),
    over=st.floats(1.01, 3.0),
    wide=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_flicker_is_measured_whatever_saturates(size: float, over: float, wide: bool, seed: int) -> None:
    """Clips are built from known offsets. Past the budget they are honest only where every pixel is saturated enough
    to hide it: exactly where the excess does not change the clip."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.rand(3, 2, 4, 4, generator=generator)
    if wide:
        clean = (3 * clean - 1).clamp(0, 1)
    offset = size * (2 * torch.rand(3, 2, 1, 1, generator=generator) - 1)
    budget = Budget("flicker", size)
    assert violation(clean, (clean + offset).clamp(0, 1), budget) is None
    offset[1, 1] = over * size
    beyond, within = (clean + offset).clamp(0, 1), (clean + offset.clamp(-size, size)).clamp(0, 1)
    if float((beyond - within).abs().max()) > 1e-5:
        assert violation(clean, beyond, budget) is not None
    else:
        assert violation(clean, beyond, budget) is None


@settings(deadline=None, max_examples=30)
@given(
    norm=st.sampled_from(["linf", "l2"]),
    size=st.floats(1e-3, 0.2),
    over=st.floats(1.01, 3.0),
    seed=st.integers(0, 1000),
)
def test_scaling_a_perturbation_past_the_budget_is_always_caught(
    norm: str, size: float, over: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    clean = 0.5 + 0.1 * (torch.rand(3, 2, 4, 4, generator=generator) - 0.5)
    noise = torch.randn(clean.shape, generator=generator)
    length = noise.abs().max() if norm == "linf" else noise.norm()
    unit = noise / length
    budget = Budget(norm, size)
    assert violation(clean, clean + 0.99 * size * unit, budget) is None
    beyond = clean + over * size * unit
    if float(beyond.min()) >= 0 and float(beyond.max()) <= 1:
        assert violation(clean, beyond, budget) is not None
