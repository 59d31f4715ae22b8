"""V-BAD: what is moved as one, where its signs come from, and what it finds where the best clip is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kit.draws import draw
from kit.queried import Two, target_of, zeros
from torch import Tensor, nn

from bench import AttackResult, BenchError, Budget, ClipRandom, Target
from bench.attacks.noise import UniformNoise
from bench.attacks.vbad import VBAD
from bench.data.procedural import render
from bench.registry import Spec
from bench.weights.zoo import build_classifier, zoo_file

SHAPE = (3, 2, 4, 6)


def attack(
    model: nn.Module | Target, clips: Tensor, size: float, labels: Tensor | None = None, **how: Any
) -> AttackResult:
    labels = zeros(len(clips)) if labels is None else labels
    return VBAD(**how)(model, clips, labels, Budget("linf", size), ClipRandom(range(len(clips))))


def patches(values: Tensor, split: int) -> Tensor:
    """``(..., T, H, W)`` to ``(T * split * split, ...)``: the values of each patch of each frame."""
    frames, height, width = values.shape[-3:]
    cut = values.unfold(-2, height // split, height // split).unfold(-2, width // split, width // split)
    return cut.movedim(-5, 0).movedim(-4, 1).movedim(-3, 2).reshape(frames * split * split, -1)


@pytest.mark.parametrize("tentative", ["flat", "random"])
def test_patches_of_frames_move_as_one(tentative: str) -> None:
    """The points of a pair lie on both sides of the iterate, patch by patch at a distance of their own, along signs that
    are equal or drawn value by value; the step is along the same signs, turned patch by patch, and of one length."""
    clips = draw(1, 3, 2, 8, 12, seed=1, low=0.4, high=0.6)
    model = Two(draw(3, 2, 8, 12, seed=2, low=-1), -100.0)
    attack(model, clips, 0.3, queries=8, samples=2, tentative=tentative, split=2)
    start, up, down, moved = (x[0].double() for x in model.seen[:4])
    noise = (up - down) / 2
    torch.testing.assert_close((up + down) / 2, start, rtol=0, atol=1e-6)
    sizes = patches(noise.abs(), 2)
    assert sizes.shape == (8, 3 * 4 * 6)
    torch.testing.assert_close(sizes, sizes[:, :1].expand_as(sizes), rtol=0, atol=1e-6)
    assert len(sizes[:, 0].mul(1e6).round().unique()) == 8
    step = moved - start
    torch.testing.assert_close(step.abs(), torch.full_like(step, 0.06), rtol=0, atol=1e-6)
    turned = patches(step.sign() * noise.sign(), 2)
    assert torch.equal(turned, turned[:, :1].expand_as(turned))
    signs = patches(step.sign(), 2)
    alike = (signs == signs[:, :1]).double().mean(1)
    assert (alike == 1).all() if tentative == "flat" else (alike < 0.8).all()


def test_it_begins_anywhere_in_the_ball() -> None:
    clips, model = draw(1, *SHAPE, low=0.4, high=0.6), Two(torch.zeros(SHAPE), -1.0)
    attack(model, clips, 0.1, queries=4)
    change = (model.seen[0] - clips) / 0.1
    assert 0.9 < float(change.abs().max()) <= 1 + 1e-6
    assert abs(float(change.mean())) < 0.2
    assert float(change.std()) == pytest.approx(3**-0.5, abs=0.08)


def test_it_finds_the_best_clip_of_a_linear_classifier() -> None:
    """Weights that are equal within patches: the corner of the ball that they point to."""
    weight = draw(1, 2, 2, 2, seed=3, low=-1).repeat_interleave(2, 2).repeat_interleave(3, 3).expand(SHAPE)
    clips, model = draw(2, *SHAPE, seed=4, low=0.05, high=0.95), Two(weight, -100.0)
    found = attack(model, clips, 0.1, queries=1500, split=2).clips
    torch.testing.assert_close(found, (clips + 0.1 * weight.sign()).clamp(0, 1), rtol=0, atol=2e-3)


def test_random_signs_find_more_than_chance() -> None:
    """Weights of single values: of those, signs drawn patch by patch only ever see a projection."""
    weight = draw(*SHAPE, seed=5, low=-1)
    clips, model = draw(4, *SHAPE, seed=6, low=0.2, high=0.8), Two(weight, -100.0)
    gain = {}
    for tentative in ("flat", "random"):
        found = attack(model, clips, 0.1, queries=1500, split=2, tentative=tentative).clips
        gain[tentative] = ((found - clips) * weight).flatten(1).sum(1) / (0.1 * weight.abs().sum())
    assert (gain["random"] > 0.6).all()
    assert (gain["flat"] < 0.6).all()


def shipped(name: str) -> nn.Module:
    return build_classifier(Spec(name), zoo_file(name, "actions12"))


def small(count: int) -> tuple[Tensor, Tensor]:
    """Test clips of ``actions12`` of 8 frames and 32 by 32 pixels, and their classes."""
    from bench import DATASETS

    data = DATASETS.create({"name": "actions12", "frames": 8, "size": 32})
    refs = data.refs()[:count]
    return torch.stack([data.load(r) for r in refs]), torch.tensor([r.label for r in refs])
