"""The joint attack: plain PGD where the weight is zero, and a flow error whose gradient is known where it is not."""

from __future__ import annotations

from collections.abc import Sequence
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
from bench.attacks import joint_flow
from bench.attacks.joint_flow import JointFlow
from bench.attacks.pgd import PGD
from bench.flow.base import Features, FlowEstimator, endpoint_error
from bench.flow.estimators import load_flow
from bench.run.judge import violation

SHAPE = (3, 3, 8, 8)
EPS = 8 / 255


class Change(FlowEstimator):
    """A "flow" that is linear in the frames: along x the rise of red, along y twice the rise of blue."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def features(self, frames: Tensor) -> Features:
        self.asked += 1
        return (torch.stack([frames[:, 0], 2 * frames[:, 2]], 1),)

    def match(self, first: Features, second: Features) -> Tensor:
        return second[0] - first[0]


@pytest.fixture
def change(monkeypatch: pytest.MonkeyPatch) -> Change:
    """Puts the linear flow in place of the network."""
    flow = Change()
    monkeypatch.setattr(joint_flow, "load_flow", lambda name, weights: flow)
    return flow


def error_gradient(clip: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Of the mean end-point error of :class:`Change`, pixel by pixel in plain loops; clips ``(3, T, H, W)``."""
    _, frames, height, width = clip.shape
    gradient = np.zeros_like(clip)
    for t in range(frames - 1):
        for y in range(height):
            for x in range(width):
                rise = (clip - clean)[:, t + 1, y, x] - (clip - clean)[:, t, y, x]
                length = np.hypot(rise[0], 2 * rise[2]) * (frames - 1) * height * width
                for frame, sign in ((t + 1, 1), (t, -1)):
                    gradient[0, frame, y, x] += sign * rise[0] / length
                    gradient[2, frame, y, x] += sign * 4 * rise[2] / length
    return gradient


def attack(model: nn.Module | Target, clips: Tensor, budget: Budget, **how: Any) -> AttackResult:
    labels = torch.zeros(len(clips), dtype=torch.int64)
    return JointFlow(**how)(model, clips, labels, budget, ClipRandom(range(len(clips))))


def fixed(model: nn.Module, count: int, kind: str) -> Target:
    return Target(lambda x, rows: model(x), count, **({} if kind == "decisive" else {kind: True}))


@pytest.mark.parametrize("kind", ["decisive", "transfer", "stochastic"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_without_weight_it_is_pgd(norm: str, kind: str) -> None:
    """Start, every iterate, passes, trace and result, to the last bit; and also where other weights follow."""
    clips, labels = draw(3, *SHAPE), torch.zeros(3, dtype=torch.int64)
    weight = draw(*SHAPE, seed=1, low=-1)
    scores = (clips * weight).flatten(1).sum(1)
    budget = Budget(norm, EPS if norm == "linf" else 0.4, steps=5, restarts=2)
    reach = EPS * weight.abs().sum() if norm == "linf" else 0.4 * weight.norm()
    model = Two(weight, -float(scores.median()) - 0.5 * float(reach))  # some are broken, some are not
    target = fixed(model, 3, kind)
    expected = PGD()(target, clips, labels, budget, ClipRandom([0, 1, 2]))
    iterates, model.seen = model.seen, []
    again = fixed(model, 3, kind)
    found = attack(again, clips, budget, mus=[0.0])
    assert len(model.seen) == len(iterates)
    assert all(torch.equal(a, b) for a, b in zip(model.seen, iterates, strict=True))
    assert torch.equal(found.clips, expected.clips)
    assert found.trace is not None
    assert expected.trace is not None
    assert torch.equal(found.trace.nan_to_num(), expected.trace.nan_to_num())
    assert torch.equal(again.forwards, target.forwards)
    assert torch.equal(again.backwards, target.backwards)
    model.seen = []
    attack(fixed(model, 3, kind), clips, budget, mus=[0.0, 0.5])
    assert all(torch.equal(a, b) for a, b in zip(model.seen, iterates, strict=False))
    if kind == "decisive":
        assert 0 < int((model(found.clips).argmax(1) == 1).sum()) < 3


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_one_step_follows_the_sum_of_both_gradients(norm: str, change: Change) -> None:
    clips = draw(2, *SHAPE, seed=2, low=0.3, high=0.7).double()
    weight, mu = draw(*SHAPE, seed=3, low=-1).double() * 1e-3, 0.5
    model = Two(weight, 0.0)  # undecided: the cross-entropy grows by about half the lead
    budget = Budget(norm, EPS if norm == "linf" else 0.3, 1, 1e-3)
    target = fixed(model, 2, "stochastic")
    found = attack(target, clips, budget, mus=[mu]).clips
    start = model.seen[0]
    for i in range(2):
        x = start[i].numpy()
        lead = float((x * weight.numpy()).sum())
        ce = weight.numpy() / (1 + np.exp(-lead))  # d/dx log(1 + exp(lead))
        whole = ce + mu * error_gradient(x, clips[i].numpy())
        assert np.abs(np.sign(whole) - np.sign(ce)).mean() > 0.1  # the flow has a say
        step = np.sign(whole) if norm == "linf" else whole / np.sqrt((whole**2).sum())
        moved = x + 1e-3 * step - clips[i].numpy()
        if norm == "linf":
            moved = np.clip(moved, -EPS, EPS)
        else:
            moved *= min(1.0, 0.3 / np.sqrt((moved**2).sum()))
        np.testing.assert_allclose(found[i].numpy(), clips[i].numpy() + moved, rtol=0, atol=1e-7)


def test_weights_are_taken_in_turn_with_the_restarts_of_the_budget(change: Change) -> None:
    clips, model = draw(2, *SHAPE, low=0.3, high=0.7), Two(torch.zeros(SHAPE), -5.0)  # no gradient but that of the flow
    budget = Budget("linf", EPS, 1, EPS / 10, restarts=2)
    target = fixed(model, 2, "transfer")
    attack(target, clips, budget, mus=[0.0, 1.0, 0.0])
    assert len(model.seen) == 12  # six runs: a step and a look at the last iterate
    starts, ends = model.seen[0::2], model.seen[1::2]
    assert [torch.equal(a, b) for a, b in zip(starts, ends, strict=True)] == [True, True, False, False, True, True]
    assert change.asked == 1 + 2  # of the clean clips, and one in each step with a weight


def test_the_real_network_sees_another_motion() -> None:
    """From the same starts, a weight multiplies the end-point error; without one it is left to chance."""
    clips = torch.nn.functional.interpolate(draw(2, 3, 3, 6, 6, seed=4), size=(3, 24, 24), mode="trilinear")
    model = Two(1e-3 * draw(3, 3, 24, 24, seed=5, low=-1), -1.0)
    flow, errors, budget = load_flow(), [], Budget("linf", 4 / 255, steps=5)
    for mu in (0.0, 1.0):
        found = attack(fixed(model, 2, "stochastic"), clips, budget, mus=[mu]).clips
        assert [violation(x, y, budget) for x, y in zip(clips, found, strict=True)] == [None, None]
        errors.append(endpoint_error(flow.clip_flow(found), flow.clip_flow(clips)).mean((1, 2, 3)))
    assert (errors[1] > 2 * errors[0]).all()


def test_a_broken_clip_is_spared_the_other_weights(change: Change) -> None:
    clips = torch.full((2, *SHAPE), 0.5)
    clips[1] = 0.2
    model = Two(torch.ones(SHAPE), -0.52 * clips[0].numel())
    target = Target.of(model, 2)
    found = attack(target, clips, Budget("linf", EPS, steps=4), mus=[0.0, 0.1, 1.0]).clips
    assert model(found).argmax(1).tolist() == [1, 0]
    assert int(target.forwards[0]) <= 4
    assert int(target.forwards[1]) == 3 * 4 + 2


def test_of_several_weights_the_cross_entropy_chooses(change: Change) -> None:
    """A large weight makes the climbed sum large and the attack weak: the first run is the one to keep."""
    clips = draw(1, *SHAPE, seed=6, low=0.3, high=0.7)
    weight = draw(*SHAPE, seed=7, low=-1)
    model = Two(weight, -float((clips[0] * weight).sum()) - 8)  # out of reach, but not of sight
    for kind in ("transfer", "stochastic"):
        budget = Budget("linf", EPS, steps=5)
        both = attack(fixed(model, 1, kind), clips, budget, mus=[0.0, 1e6])
        plain = attack(fixed(model, 1, kind), clips, budget, mus=[0.0])
        assert torch.equal(both.clips, plain.clips)
        other = attack(fixed(model, 1, kind), clips, budget, mus=[1e6, 0.0])
        assert both.trace is not None
        assert other.trace is not None
        assert 0 < float(other.trace[4]) < float(other.trace[9]) < 10  # traced is the cross-entropy, not the sum


@pytest.mark.parametrize(("mus", "restarts"), [((0.0,), 1), ((0.0, 0.1, 1.0), 1), ((0.0, 0.1), 2)])
def test_passes_are_those_promised(mus: Sequence[float], restarts: int, change: Change) -> None:
    budget, runs = Budget(steps=3, restarts=restarts), len(mus) * restarts
    model = Two(torch.zeros(SHAPE), -1.0)
    assert JointFlow(mus).passes(budget) == (4 * runs, 3 * runs)
    for kind, forwards in (("transfer", 4 * runs), ("decisive", 4 * runs - 1), ("stochastic", 3 * runs)):
        target = fixed(model, 2, kind)
        attack(target, draw(2, *SHAPE), budget, mus=mus)
        assert target.forwards.tolist() == [forwards] * 2
        assert target.backwards.tolist() == [3 * runs] * 2


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_result_does_not_depend_on_the_batch(norm: str, change: Change) -> None:
    clips, labels = draw(3, *SHAPE, seed=8), torch.zeros(3, dtype=torch.int64)
    weight = draw(*SHAPE, seed=9, low=-1)
    scores = (clips * weight).flatten(1).sum(1)
    model = Two(weight, -float(scores.median()) - 0.5)
    attacker, budget = JointFlow([0.0, 0.2]), Budget(norm, 0.01 if norm == "linf" else 0.1, steps=4)
    target = Target.of(model, 3)
    together = attacker(target, clips, labels, budget, ClipRandom([4, 5, 6])).clips
    assert len(set(target.forwards.tolist())) > 1
    for i in range(3):
        alone = attacker(model, clips[i : i + 1], labels[:1], budget, ClipRandom([4 + i])).clips
        assert torch.equal(together[i : i + 1], alone)


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(
    st.tuples(st.integers(1, 2), st.just(3), st.integers(2, 3), st.integers(4, 9), st.integers(4, 9)),
    st.floats(0.0, 1.0),
    st.sampled_from(["linf", "l2"]),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from(["decisive", "transfer", "stochastic"]),
    st.integers(0, 1000),
)
def test_the_judge_accepts_what_comes_out(
    shape: tuple[int, ...], size: float, norm: str, dtype: torch.dtype, kind: str, seed: int
) -> None:
    clips = (1.4 * draw(*shape, seed=seed) - 0.2).clamp(0, 1).to(dtype)
    model = Two(draw(*shape[1:], seed=seed + 1, low=-1), 0.0)
    budget = Budget(norm, size, 2)
    found = attack(fixed(model, shape[0], kind), clips, budget, mus=[0.0, 1.0]).clips
    assert found.dtype == dtype
    assert [violation(x, y, budget) for x, y in zip(clips, found, strict=True)] == [None] * shape[0]


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(BenchError, match="JointFlow takes linf or l2 budgets, not flicker"):
        JointFlow([0.0]).check(Budget("flicker"))
    for mus in ([], "0.1", 0.1, [-1.0], [float("nan")], [float("inf")], ["a"], [True]):
        with pytest.raises(ValueError, match="mus must be"):
            JointFlow(mus)  # type: ignore[arg-type]
    with pytest.raises(BenchError, match="There is no flow estimator 'rapt'"):
        JointFlow(flow="rapt")
    with pytest.raises(BenchError, match="leave the weights out"):
        JointFlow(flow_weights="C_T_V1")
    model, one_frame = Two(torch.zeros(3, 1, 4, 4), -1.0), draw(1, 3, 1, 4, 4)
    with pytest.raises(BenchError, match=r"A clip of one frame has no flow to attack: say mus=\[0\.0\], or take pgd\."):
        attack(model, one_frame, Budget(steps=1))
    assert attack(model, one_frame, Budget(steps=1), mus=[0.0]).clips.shape == one_frame.shape
