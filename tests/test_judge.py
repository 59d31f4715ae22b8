"""The budget verifier catches each kind of violation and no honest clip."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import Budget
from bench.judge import measure, violation

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
    found = measure(torch.zeros(3, 1, 2, 2), torch.tensor([0.0, 0.3, 0.4]).repeat(4).reshape(3, 1, 2, 2))
    assert found.linf == pytest.approx(0.4)
    assert found.l2 == pytest.approx(math.sqrt(4 * (0.09 + 0.16)), rel=1e-6)
    assert found.changed == pytest.approx(8 / 12)


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
