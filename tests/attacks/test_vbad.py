"""V-BAD: what is moved as one, where its signs come from, and what it finds where the best clip is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kit.draws import draw
from kit.queried import Two, left_of_close_calls, shipped, target_of, zeros
from torch import Tensor, nn

from bench import AttackResult, BenchError, Budget, ClipRandom, Target
from bench.attacks.noise import UniformNoise
from bench.attacks.vbad import VBAD
from bench.weights.zoo import zoo_file

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


def one_per_patch(values: Tensor, free: Tensor) -> Tensor:
    """The value of each of two by two patches of each frame, which must be one."""
    found = patches(torch.where(free, values, torch.nan), 2)
    torch.testing.assert_close(found.nan_to_num(nan=-9).amax(1), found.nan_to_num(nan=9).amin(1), rtol=0, atol=1e-6)
    return found.nanmean(1)


@pytest.mark.parametrize("tentative", ["flat", "random"])
def test_patches_of_frames_move_as_one(tentative: str) -> None:
    """The points of a pair lie on both sides of the iterate, patch by patch at a distance of their own, along signs
    that are equal or drawn value by value; the step is along the same signs, turned by the patch, and of one length."""
    clips = draw(1, 3, 2, 8, 12, seed=1, low=0.4, high=0.6)
    model = Two(draw(3, 2, 8, 12, seed=2, low=-1), -100.0)
    attack(model, clips, 0.3, queries=8, samples=2, tentative=tentative, split=2)
    start, up, down, moved = (x[0].double() for x in model.seen[:4])
    free = (start - clips[0]).abs() < 0.23  # what is not cut off at the edge of the ball
    noise, step = (up - down) / 2, moved - start
    torch.testing.assert_close(((up + down) / 2)[free], start[free], rtol=0, atol=1e-6)
    distances = one_per_patch(noise.abs(), free)
    assert len(distances.mul(1e6).round().unique()) == 8
    torch.testing.assert_close(step.abs()[free], torch.full_like(step, 0.06)[free], rtol=0, atol=1e-6)
    one_per_patch(step.sign() * noise.sign(), free)
    signs = patches(torch.where(free, step.sign(), torch.nan), 2)
    alike = signs.nanmean(1).abs()
    assert (alike == 1).all() if tentative == "flat" else (alike < 0.7).all()


def test_it_begins_anywhere_in_the_ball() -> None:
    clips, model = draw(1, *SHAPE, low=0.4, high=0.6), Two(torch.zeros(SHAPE), -1.0)
    attack(model, clips, 0.1, queries=4)
    change = (model.seen[0] - clips) / 0.1
    assert 0.9 < float(change.abs().max()) <= 1 + 1e-6
    assert abs(float(change.mean())) < 0.2
    assert float(change.std()) == pytest.approx(3**-0.5, abs=0.08)


def test_it_finds_the_best_clip_of_a_linear_classifier() -> None:
    """Weights that are equal within patches: the corner of the ball that they point to."""
    each = draw(1, 2, 2, 2, seed=3, low=0.5) * (2 * draw(1, 2, 2, 2, seed=8).round() - 1)
    weight = each.repeat_interleave(2, 2).repeat_interleave(3, 3).expand(SHAPE)
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
    assert (gain["random"] > 0.4).all()
    assert (gain["flat"] < 0.3).all()


def test_signs_are_transferred_from_another_classifier() -> None:
    """Those of its cross-entropy at the iterate, by autograd alone; patches are then turned as a whole."""
    other = shipped("resnet3d_tiny")
    clips, labels = draw(2, 3, 8, 32, 32, seed=9, low=0.2, high=0.8), zeros(2)
    model = Two(draw(3, 8, 32, 32, seed=7, low=-1), -1e4)
    target = Target(lambda x, rows: torch.cat([model(x), torch.full((len(x), 10), -1e6).double()], 1), 2)
    attack(target, clips, 0.1, labels, queries=8, samples=2, tentative="resnet3d_tiny")
    start, up, down, moved = model.seen[:4]
    x = start.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(F.cross_entropy(other(x), labels, reduction="sum"), x)
    for i in range(2):
        signs = gradient[i].sign()
        inside = ((start[i] - clips[i]).abs() < 0.07) & (start[i] > 0.03) & (start[i] < 0.97)
        for seen in (up[i] - down[i], moved[i] - start[i]):
            turned = torch.where(inside, seen.sign() * signs, torch.nan)
            for patch in patches(turned, 8):
                assert len(patch[~patch.isnan() & (patch != 0)].unique()) <= 1
            assert {-1.0, 1.0} <= set(turned[~turned.isnan()].tolist())


def test_its_weights_are_files_of_the_attack() -> None:
    assert VBAD().files == ()
    assert VBAD(tentative="slowfast_tiny").files == (zoo_file("slowfast_tiny", "actions12"),)


def test_it_breaks_clips_that_noise_does_not() -> None:
    assert left_of_close_calls(VBAD(queries=295)) < left_of_close_calls(UniformNoise())


def test_what_cannot_be_transferred_is_refused() -> None:
    with pytest.raises(BenchError, match="No weights of nl_r50 are shipped for actions12: transfer from another"):
        VBAD(tentative="nl_r50")
    with pytest.raises(BenchError, match="split must be a whole number of at least 1"):
        VBAD(split=0)
    many = Target(lambda x, rows: torch.eye(20)[19].expand(len(x), 20), 1)
    with pytest.raises(BenchError, match="slowfast_tiny knows 12 classes, too few to transfer from: class 19"):
        attack(many, draw(1, 3, 8, 32, 32), 0.1, torch.tensor([19]), tentative="slowfast_tiny")


@pytest.mark.parametrize("tentative", ["flat", "random", "resnet3d_tiny"])
def test_result_does_not_depend_on_the_batch(tentative: str) -> None:
    clips, weight = draw(3, 3, 8, 16, 16, seed=14), draw(3, 8, 16, 16, seed=15, low=-1)
    scores = (clips.double() * weight.double()).flatten(1).sum(1)
    model = Two(weight, -float(scores.median()) - 1.0)
    how = {"queries": 40, "samples": 8, "tentative": tentative}
    target = target_of(model, 3, "decisive")
    together = attack(target, clips, 0.03, **how).clips
    again = attack(target_of(model, 3, "decisive"), clips, 0.03, **how).clips
    assert torch.equal(together, again)
    assert len(set(target.forwards.tolist())) > 1
    for i in range(3):
        alone = VBAD(**how)(model, clips[i : i + 1], zeros(1), Budget("linf", 0.03), ClipRandom([i])).clips
        if tentative == "resnet3d_tiny":  # convolutions round differently in a batch, and a gradient of 0 has no sign
            assert float((together[i : i + 1] - alone).ne(0).double().mean()) < 0.02
        else:
            assert torch.equal(together[i : i + 1], alone)
