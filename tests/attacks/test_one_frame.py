"""The one-frame attack against classifiers whose weakest frame is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.draws import draw
from kit.networks import Two
from torch import Tensor, nn

from bench import AttackResult, BenchError, Budget, ClipRandom, Target
from bench.attacks.one_frame import OneFrame
from bench.run.judge import violation

FRAMES = 4
SHAPE = (3, FRAMES, 3, 4)
EPS = 16 / 255
BUDGET = Budget("one-frame", EPS, 20)


def weights(*scale: float, seed: int = 5) -> Tensor:
    """Weights of random sign; frame ``t`` has sizes of about ``scale[t]``."""
    signs = torch.where(draw(*SHAPE, seed=seed) < 0.5, -1.0, 1.0)
    return signs * draw(*SHAPE, seed=seed + 1, low=0.8, high=1.2) * torch.tensor(scale)[:, None, None]


def unbreakable(*scale: float) -> Two:
    """Class 0 wherever the clip is, with a loss that does not saturate."""
    return Two(weights(*scale), -1000.0)


def attack(model: nn.Module | Target, clips: Tensor, budget: Budget = BUDGET, **how: Any) -> AttackResult:
    labels = torch.zeros(len(clips), dtype=torch.int64)
    return OneFrame(**{"loss": "margin", **how})(model, clips, labels, budget, ClipRandom(range(len(clips))))


def changed(clips: Tensor, found: Tensor) -> list[list[int]]:
    """Which frames differ, by clip."""
    return [
        [t for t in range(x.shape[1]) if not torch.equal(x[:, t], y[:, t])] for x, y in zip(clips, found, strict=True)
    ]


@pytest.mark.parametrize("weak", range(FRAMES))
def test_the_frame_of_the_largest_gradient_goes_to_the_corner_of_its_ball(weak: int) -> None:
    scale = [0.01] * FRAMES
    scale[weak] = 0.02
    model, clips = unbreakable(*scale), draw(3, *SHAPE, seed=1)
    found = attack(model, clips).clips
    expected = clips.clone()
    expected[:, :, weak] = (clips[:, :, weak] + EPS * model.weight[:, weak].sign()).clamp(0, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    others = [t for t in range(FRAMES) if t != weak]
    assert torch.equal(found[:, :, others], clips[:, :, others])


def test_the_choice_is_by_the_sum_over_a_frame_and_not_by_its_peak() -> None:
    weight = torch.full(SHAPE, 0.01)
    weight[0, 2, 0, 0] = 0.05
    weight[:, 1] = 0.02
    clips = draw(1, *SHAPE, low=0.3, high=0.7)
    assert changed(clips, attack(Two(weight, -1000.0), clips).clips) == [[1]]


def test_each_clip_has_its_own_weak_frame() -> None:
    class Squares(nn.Module):
        """The gradient is twice the clip: its brightest frame is the weakest."""

        def forward(self, clips: Tensor) -> Tensor:
            score = clips.square().flatten(1).sum(1) - 1000
            return torch.stack([-score, score], 1)

    clips = draw(6, *SHAPE, seed=3)
    sums = np.abs(clips.double().numpy()).sum((1, 3, 4))
    assert len(set(sums.argmax(1).tolist())) > 1
    assert changed(clips, attack(Squares(), clips).clips) == [[int(t)] for t in sums.argmax(1)]


def test_a_step_is_2_255_unless_the_budget_says_otherwise() -> None:
    model, clips = unbreakable(0.01, 0.02, 0.01, 0.01), draw(1, *SHAPE, low=0.3, high=0.7)
    for given_step, expected in ((None, 2 / 255), (0.03, 0.03), (1.0, EPS)):
        found = attack(model, clips, Budget("one-frame", EPS, 1, given_step)).clips
        size = (found - clips)[:, :, 1].abs()
        torch.testing.assert_close(size, torch.full_like(size, expected), rtol=0, atol=1e-6)


def stuck() -> tuple[Two, Tensor]:
    """The largest gradient belongs to frame 0, which is white already; frame 2 could break the clip."""
    weight = torch.zeros(SHAPE)
    weight[:, 0], weight[:, 2] = 0.02, 0.01
    clips = torch.full((1, *SHAPE), 0.5)
    clips[:, :, 0] = 1.0
    score = float((clips[0] * weight).sum())
    return Two(weight, -score - 0.55 * EPS * 0.01 * 36), clips  # 8.8/255 in frame 2 are enough


def test_exhaustive_breaks_a_clip_where_the_gradient_misleads() -> None:
    model, clips = stuck()
    assert model(attack(model, clips).clips).argmax(1).tolist() == [0]
    target = Target.of(model, 1)
    found = attack(target, clips, frame="exhaustive", length=FRAMES).clips
    assert model(found).argmax(1).tolist() == [1]
    assert changed(clips, found) == [[2]]
    # Two frames of 20 steps and a look at the last iterate, then 0, 2, ..., 10/255 in the third.
    assert int(target.forwards) == 2 * 21 + 6
    assert int(target.backwards) == 2 * 20 + 6


def test_a_given_frame_is_the_one_that_is_changed() -> None:
    model, clips = stuck()
    for frame, broken in ((0, 0), (1, 0), (2, 1), (3, 0)):
        found = attack(model, clips, frame=frame).clips
        assert model(found).argmax(1).tolist() == [broken]
        assert changed(clips, found) == ([[2]] if frame == 2 else [[]])


def test_random_frames_are_drawn_from_the_stream_of_the_clip() -> None:
    model, clips = unbreakable(1, 1, 1, 1), draw(60, *SHAPE, low=0.3, high=0.7)
    found = attack(model, clips, Budget("one-frame", EPS, 1), frame="random").clips
    expected = ClipRandom(range(60)).integers(FRAMES).tolist()
    assert changed(clips, found) == [[t] for t in expected]
    assert set(expected) == set(range(FRAMES))


def test_restarts_draw_another_frame_and_stop_when_the_clip_is_broken() -> None:
    model, _ = stuck()
    clips = stuck()[1].repeat(20, 1, 1, 1, 1)
    once = model(attack(model, clips, frame="random").clips).argmax(1)
    target = Target.of(model, 20)
    often = attack(target, clips, Budget("one-frame", EPS, 20, restarts=4), frame="random").clips
    assert 0 < once.sum() < model(often).argmax(1).sum()
    assert (target.forwards[once == 1] == 6).all()


@pytest.mark.parametrize(
    ("how", "restarts"), [({}, 1), ({"frame": 1}, 1), ({"frame": "random"}, 3), ({"frame": "exhaustive"}, 1)]
)
def test_passes_are_those_promised(how: dict[str, Any], restarts: int) -> None:
    model, clips = unbreakable(1, 1, 1, 1), draw(2, *SHAPE)
    budget, how = Budget("one-frame", EPS, 5, restarts=restarts), {"length": FRAMES, **how}
    runs = FRAMES if how.get("frame") == "exhaustive" else restarts
    assert OneFrame(**how).passes(budget) == (runs * 6, runs * 5)
    for kind, forwards in (({"transfer": True}, 6 * runs), ({}, 6 * runs - 1), ({"stochastic": True}, 5 * runs)):
        target = Target(lambda x, rows: model(x), 2, **kind)
        attack(target, clips, budget, **how)
        assert target.forwards.tolist() == [forwards] * 2
        assert target.backwards.tolist() == [5 * runs] * 2


def test_a_lucky_draw_is_not_believed() -> None:
    clips = draw(2, *SHAPE, low=0.3, high=0.7)
    model = Two(weights(0.01, 0.02, 0.01, 0.01), 1000.0)  # wrong from the start
    target = Target(lambda x, rows: model(x), 2, stochastic=True)
    found = attack(target, clips).clips
    assert target.forwards.tolist() == [20, 20]
    assert float((found - clips).abs().max()) == pytest.approx(EPS, abs=1e-6)
    decisive = Target.of(model, 2)
    assert torch.equal(attack(decisive, clips).clips, clips)
    assert decisive.forwards.tolist() == [1, 1]


@pytest.mark.parametrize("frame", ["gradient", "random", "exhaustive", 2])
def test_result_does_not_depend_on_the_batch(frame: str | int) -> None:
    clips = draw(4, *SHAPE, seed=8)
    score = (clips * weights(0.02, 0.01, 0.015, 0.02)).flatten(1).sum(1)
    model = Two(weights(0.02, 0.01, 0.015, 0.02), -float(score.max()) - 0.01)  # some are broken early, some never
    attacker, labels = OneFrame(frame, "margin", FRAMES), torch.zeros(4, dtype=torch.int64)
    target = Target.of(model, 4)
    together = attacker(target, clips, labels, BUDGET, ClipRandom([5, 6, 7, 8])).clips
    assert len(set(target.forwards.tolist())) > 1
    for i in range(4):
        alone = attacker(model, clips[i : i + 1], labels[:1], BUDGET, ClipRandom([5 + i])).clips
        assert torch.equal(together[i : i + 1], alone)


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(
    st.tuples(st.integers(1, 3), st.just(3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)),
    st.floats(0.0, 1.0),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from(["gradient", "random", "exhaustive", 0]),
    st.sampled_from(["decisive", "transfer", "stochastic"]),
    st.integers(0, 1000),
)
def test_the_judge_accepts_what_comes_out(
    shape: tuple[int, ...], size: float, dtype: torch.dtype, frame: str | int, kind: str, seed: int
) -> None:
    clips = (1.4 * draw(*shape, seed=seed) - 0.2).clamp(0, 1).to(dtype)
    model = Two(draw(*shape[1:], seed=seed + 1, low=-1), 0.0)
    target = Target(lambda x, rows: model(x), shape[0], **({} if kind == "decisive" else {kind: True}))
    attacker, labels = OneFrame(frame, length=shape[2]), torch.arange(shape[0]) % 2
    budget = Budget("one-frame", size, 3, step_size=0.1, restarts=2 if frame == "random" else 1)
    found = attacker(target, clips, labels, budget).clips
    assert found.dtype == dtype
    assert [violation(x, y, budget) for x, y in zip(clips, found, strict=True)] == [None] * shape[0]


def test_a_frame_that_is_not_there_is_one_sentence() -> None:
    model, clips = stuck()
    with pytest.raises(BenchError, match=r"^There is no frame 4: the clips have 4 frames, 0 to 3\.$"):
        attack(model, clips, frame=4)
    with pytest.raises(BenchError, match=r"planned for 16, but the clips have 4: say length=4\.$"):
        attack(model, clips, frame="exhaustive")


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(BenchError, match="OneFrame takes one-frame budgets, not linf"):
        OneFrame().check(Budget())
    for frame in ("gradient", "exhaustive", 3):
        with pytest.raises(BenchError, match="it takes 1 restart, not 2"):
            OneFrame(frame).check(Budget("one-frame", restarts=2))
    OneFrame("random").check(Budget("one-frame", restarts=2))
    with pytest.raises(ValueError, match="frame must be gradient, exhaustive, random or a number, not 'best'"):
        OneFrame("best")  # type: ignore[arg-type]
    for how in ({"frame": -1}, {"frame": True}, {"length": 0}, {"loss": "mse"}):
        with pytest.raises(BenchError):
            OneFrame(**how)  # type: ignore[arg-type]
