"""Attacks on quadratic classifiers, whose worst clip in each norm is written down."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kit.draws import generator
from torch import Tensor, nn

from bench import Budget, ClipRandom, Target
from bench.attacks.fab import FAB
from bench.registry import ATTACKS

SHAPE = (3, 4, 5, 6)
SIZE = 0.03


class Bowl(nn.Module):
    """Class 0 where ``sum w (x - a)^2 < c``, class 1 beyond: logits ``(c - sum w (x - a)^2, 0)``."""

    def __init__(self, centre: Tensor, weights: Tensor, level: float) -> None:
        super().__init__()
        self.centre, self.weights, self.level = centre, weights, level

    def forward(self, clips: Tensor) -> Tensor:
        inside = self.level - (self.weights * (clips - self.centre).square()).flatten(1).sum(1)
        return torch.stack([inside, torch.zeros_like(inside)], 1)


def problem(even: bool, level: float = 8.0) -> tuple[Bowl, Tensor, Tensor]:
    """A bowl, three clips inside it that differ from its centre by 0.05 to 0.15 everywhere, and their labels."""
    offset = 0.05 + 0.1 * torch.rand(3, *SHAPE, generator=generator(1), dtype=torch.float64)
    signs = torch.randint(0, 2, (3, *SHAPE), generator=generator(2)) * 2.0 - 1.0
    weights = torch.ones(SHAPE) if even else 0.2 + torch.rand(SHAPE, generator=generator(3))
    bowl = Bowl(torch.full(SHAPE, 0.5, dtype=torch.float64), weights.double(), level)
    return bowl, 0.5 + offset * signs, torch.zeros(3, dtype=torch.int64)


def lowest(bowl: Bowl, clips: Tensor, norm: str) -> Tensor:
    """The least margin of class 0 within the budget, by hand."""
    away = clips - bowl.centre
    if norm == "l2":  # an even bowl: straight away from the centre
        return bowl.level - (away.flatten(1).norm(dim=1) + SIZE).square()
    here = (bowl.weights * away.square()).flatten(1).sum(1)
    if norm == "flicker":  # one offset per colour and frame; the sum is a parabola in it
        push = SIZE * (bowl.weights * away).sum((3, 4)).sign()
        return bowl.level - (bowl.weights * (away + push[..., None, None]).square()).flatten(1).sum(1)
    gain = bowl.weights * ((away.abs() + SIZE).square() - away.square())
    if norm == "one-frame":
        return bowl.level - here - gain.sum((1, 3, 4)).amax(1)
    return bowl.level - here - gain.flatten(1).sum(1)


CASES: list[tuple[str, str, dict[str, Any], float]] = [
    ("pgd", "linf", {"steps": 20}, 1e-9),
    ("pgd(start='clean')", "l2", {"steps": 20}, 1e-9),
    ("pgd", "l2", {"steps": 20}, 0.03),  # a random start is not wholly forgotten
    ("apgd", "linf", {"steps": 30}, 1e-9),
    ("apgd", "l2", {"steps": 60}, 1e-4),
    ("i_fgsm", "linf", {"steps": 10}, 1e-9),
    ("mi_fgsm", "linf", {"steps": 10}, 1e-9),
    ("fgsm", "linf", {"steps": 1}, 1e-9),
    ("eot(draws=3)", "linf", {"steps": 20}, 1e-9),
    ("one_frame", "one-frame", {"steps": 20}, 1e-9),
    ("flicker(strength=0.0, loss='logit-margin')", "flicker", {"steps": 60, "step_size": 0.005}, 1e-9),
]


@pytest.mark.parametrize(("attack", "norm", "effort", "tolerance"), CASES)
def test_the_worst_clip_is_found(attack: str, norm: str, effort: dict[str, Any], tolerance: float) -> None:
    bowl, clips, labels = problem(even=norm == "l2")
    expected = lowest(bowl, clips, norm)
    found = ATTACKS.create(attack)(bowl, clips, labels, Budget(norm, SIZE, **effort), ClipRandom(range(3))).clips
    margin = bowl(found)[:, 0]
    gain = bowl(clips)[:, 0] - expected
    assert (gain > 0.1 if norm != "l2" else gain > 1e-3).all()
    assert (margin >= expected - 1e-9).all()
    assert (margin <= expected + tolerance * gain + 1e-9).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_square_comes_near_the_worst_clip_and_never_beyond(norm: str) -> None:
    bowl, clips, labels = problem(even=True)
    best = lowest(bowl, clips, norm)
    found = ATTACKS.create("square(queries=1500)")(bowl, clips, labels, Budget(norm, SIZE), ClipRandom(range(3))).clips
    margin, gain = bowl(found)[:, 0], bowl(clips)[:, 0] - best
    assert (margin >= best - 1e-6).all()
    # Squares take one sign for all frames: signs that differ from pixel to pixel are out of its reach.
    assert (margin < bowl(clips)[:, 0] - 0.1 * gain).all()


def test_fab_finds_the_nearest_point_of_the_sphere() -> None:
    """The boundary of an even bowl is a sphere: the way there is its radius less the distance from the centre."""
    bowl, clips, labels = problem(even=True)
    away = clips - bowl.centre
    radius = float(away.flatten(1).norm(dim=1).max()) + 0.05
    bowl.level = radius**2
    distance = radius - away.flatten(1).norm(dim=1)
    found = FAB(targets=1)(Target.of(bowl, 3), clips, labels, Budget("l2", 1.0, steps=40)).clips
    assert (bowl(found).argmax(1) == 1).all()
    torch.testing.assert_close((found - clips).flatten(1).norm(dim=1), distance, rtol=0.01, atol=0)
    assert ((found - clips).flatten(1).norm(dim=1) >= distance - 1e-9).all()
