"""The flickering attack: its terms one by one, its path against torch's Adam, its aim against a known optimum."""

from __future__ import annotations

import math
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
from bench.attacks.flicker import Flicker, adversarial_loss, regulariser, roughness, thickness
from bench.run.judge import violation

SHAPE = (3, 5, 3, 4)
few = settings(max_examples=20, deadline=None, derandomize=True, database=None)


class Smooth(nn.Module):
    """Three classes, not linear, computed clip by clip in double precision."""

    def __init__(self, scale: float = 3.0) -> None:
        super().__init__()
        self.first = draw(6, math.prod(SHAPE), seed=1, low=-1).double() * 0.2
        self.second = draw(3, 6, seed=2, low=-1).double() * scale
        self.seen: list[Tensor] = []

    def forward(self, clips: Tensor) -> Tensor:
        self.seen.append(clips.detach().clone())
        hidden = torch.tanh((clips.double().flatten(1)[:, None] * self.first).sum(-1))
        return (hidden[:, None] * self.second).sum(-1)


def attack(model: nn.Module | Target, clips: Tensor, labels: Tensor, budget: Budget, **how: Any) -> AttackResult:
    return Flicker(**how)(model, clips, labels, budget, ClipRandom(range(len(clips))))


def zeros(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.int64)


def fixed(model: nn.Module, count: int, kind: str) -> Target:
    return Target(lambda x, rows: model(x), count, **({} if kind == "decisive" else {kind: True}))


# --- the terms ------------------------------------------------------------------------------------------------


@few
@given(st.integers(1, 3), st.integers(1, 6), st.floats(0, 2), st.floats(0, 2), st.integers(0, 1000))
def test_terms_of_the_regulariser_by_plain_loops(batch: int, frames: int, b1: float, b2: float, seed: int) -> None:
    offsets = draw(batch, 3, frames, 1, 1, seed=seed, low=-0.2, high=0.2).double()
    expected, thick, rough = [], [], []
    for clip in offsets[..., 0, 0].numpy():
        total, size, change = 0.0, 0.0, 0.0
        for colour in range(3):
            for t in range(frames):
                here, before, after = clip[colour, t], clip[colour, t - 1], clip[colour, (t + 1) % frames]
                total += b1 * here**2 + b2 * (here - before) ** 2 + b2 * (after - 2 * here + before) ** 2
                size += abs(here)
                change += abs(here - before)
        expected.append(total / (3 * frames))
        thick.append(100 * size / (3 * frames))
        rough.append(100 * change / (3 * frames))
    np.testing.assert_allclose(regulariser(offsets, b1, b2).numpy(), expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(thickness(offsets).numpy(), thick, rtol=1e-12)
    np.testing.assert_allclose(roughness(offsets).numpy(), rough, rtol=1e-12, atol=1e-15)


def test_metrics_of_a_known_flicker() -> None:
    """A flash of 0.5 in one of four frames: an eighth of the range on average, and two jumps of a half."""
    offsets = torch.zeros(1, 3, 4, 1, 1)
    offsets[:, :, 1] = 0.5
    assert float(thickness(offsets)) == pytest.approx(12.5)
    assert float(roughness(offsets)) == pytest.approx(25.0)


@pytest.mark.parametrize("kind", ["margin", "logit-margin", "ce"])
def test_adversarial_loss_by_plain_arithmetic(kind: str) -> None:
    m = 0.05
    rows = [[3.0, 0.0, -1.0], [0.1, 0.0, -1.0], [0.0, 0.05, 0.0], [0.0, 0.1, 0.02], [-2.0, 1.0, 0.5], [0.0, 0.0, -9.0]]
    expected = []
    for z in rows:
        e = [math.exp(v) for v in z]
        p = [v / sum(e) for v in e]
        if kind == "ce":
            expected.append(-math.log(1 - p[0] + 1e-6))
            continue
        if kind == "margin":
            s, gap = p[0] - (max(p[1:]) - m), m
        else:
            gap = math.log(1 + m / (1e-5 + p[0]))
            s = z[0] - (max(z[1:]) - gap)
        expected.append(max(0.0, min(s * s / gap, s)))
    found = adversarial_loss(torch.tensor(rows), zeros(len(rows)), kind, m)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-9)
    if kind != "ce":  # all three pieces have been visited
        assert expected[4] == 0
        assert expected[0] > 0.5
        assert 0 < expected[2] < 0.5 * adversarial_loss(torch.zeros(1, 3), zeros(1), kind, m)


@pytest.mark.parametrize("kind", ["margin", "logit-margin"])
def test_adversarial_loss_vanishes_where_the_wrong_class_leads_by_the_margin(kind: str) -> None:
    """In probability, for both kinds: a logit gap of ``log(1 + m / p)`` is a lead of ``m``."""
    for lead, flat in ((0.04, False), (0.06, True)):
        p = torch.tensor([0.4, 0.4 + lead, 0.2 - lead])
        assert (float(adversarial_loss(p.log()[None], zeros(1), kind, 0.05)) == 0) is flat


# --- the path -------------------------------------------------------------------------------------------------


def objective(kind: str, logits: Tensor, label: int, delta: Tensor, strength: float, b1: float, b2: float) -> Tensor:
    """Of one clip, as in the paper, for autograd; the regulariser's offsets are ``(3, T, 1, 1)``."""
    p = logits.softmax(0)
    others = [i for i in range(len(p)) if i != label]
    if kind == "ce":
        loss = -torch.log(1 - p[label] + 1e-6)
    else:
        m = (
            torch.tensor(0.05, dtype=torch.float64)
            if kind == "margin"
            else torch.log(1 + 0.05 / (1e-5 + p[label].detach()))
        )
        of = p if kind == "margin" else logits
        s = of[label] - (of[others].max() - m)
        loss = torch.zeros(()).double().maximum(torch.minimum(s * s / m, s))
    previous, following = torch.roll(delta, 1, 1), torch.roll(delta, -1, 1)
    smooth = ((delta - previous) ** 2).mean() + ((following - 2 * delta + previous) ** 2).mean()
    return loss + strength * (b1 * (delta**2).mean() + b2 * smooth)


def saturate(values: Tensor) -> Tensor:
    """Clamps to ``[0, 1]``; a value that is exactly 0 or 1 still moves, else black pixels would stay black for ever
    (versions of PyTorch differ in what ``clamp`` passes back there)."""
    return torch.where((values < 0) | (values > 1), values.detach().clamp(0, 1), values)


@pytest.mark.parametrize("kind", ["margin", "logit-margin", "ce"])
@pytest.mark.parametrize("size", [1.0, 0.03])
def test_the_path_is_that_of_torchs_adam(kind: str, size: float) -> None:
    """Saturated pixels, the bound of the budget and every clip on its own: 30 steps, iterate by iterate."""
    clips = (1.6 * draw(3, *SHAPE, seed=3) - 0.3).clamp(0, 1).double()
    model = Smooth()
    labels = model(clips).argmax(1)
    model.seen.clear()
    budget = Budget("flicker", size, 30, step_size=4e-3)
    how = {"loss": kind, "strength": 3.0, "beta1": 0.7, "beta2": 0.4}
    found = attack(fixed(model, 3, "stochastic"), clips, labels, budget, **how)
    seen = torch.stack([*model.seen, found.clips])
    bound = 0
    for i in range(3):
        delta = torch.zeros(3, SHAPE[1], 1, 1, dtype=torch.float64, requires_grad=True)
        adam = torch.optim.Adam([delta], lr=4e-3)
        for step in range(31):
            moved = saturate(clips[i] + delta)
            torch.testing.assert_close(seen[step, i], moved.detach(), rtol=0, atol=1e-12)
            if step == 30:
                break
            loss = objective(kind, model(moved[None])[0], int(labels[i]), delta, 3.0, 0.7, 0.4)
            assert found.trace is not None
            assert float(found.trace[step, i]) == pytest.approx(-float(loss.detach()), rel=1e-5, abs=1e-7)
            adam.zero_grad()
            loss.backward()
            adam.step()
            with torch.no_grad():
                delta.clamp_(-size, size)
        bound += int((delta.abs() == size).sum())
    assert (bound > 0) is (size < 1)
    assert float((seen[-1] - clips).abs().max()) > 0.02


def test_a_step_is_5e_4_unless_the_budget_says_otherwise() -> None:
    """Adam's first step has the length of the learning rate, along the sign of the sum over each frame."""
    clips = draw(1, *SHAPE, low=0.3, high=0.7)
    model = Two(draw(*SHAPE, seed=4, low=-1), -100.0)
    sign = model.weight.sum((2, 3), keepdim=True).sign()
    for step_size, length in ((None, 5e-4), (0.01, 0.01), (0.5, 0.1)):
        found = attack(model, clips, zeros(1), Budget("flicker", 0.1, 1, step_size), loss="logit-margin").clips
        torch.testing.assert_close(found - clips, (length * sign).expand_as(clips[0])[None], rtol=0, atol=1e-6)


# --- what it finds --------------------------------------------------------------------------------------------


def test_without_a_regulariser_a_linear_classifier_is_driven_to_the_edge() -> None:
    clips = draw(2, *SHAPE, seed=5, low=0.2, high=0.8)
    weight = draw(*SHAPE, seed=6, low=-1)
    model = Two(weight, -100.0)
    found = attack(model, clips, zeros(2), Budget("flicker", 0.1, 60, 4e-3), loss="logit-margin", strength=0.0).clips
    expected = clips + 0.1 * weight.sum((2, 3), keepdim=True).sign()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_the_weakest_flicker_of_a_linear_classifier() -> None:
    """With ``w`` the weights summed over each frame, the shortest offsets that reach the boundary at a distance ``d``
    are ``d w / |w|^2``: nothing successful can have a smaller mean square, and the attack comes close."""
    clips = draw(1, *SHAPE, seed=7, low=0.3, high=0.7)
    weight = draw(*SHAPE, seed=8, low=-1)
    w = weight.sum((2, 3)).double()
    distance = 0.3
    model = Two(weight, -float((clips[0].double() * weight).sum()) - distance)
    least = distance**2 / float(w.square().sum()) / w.numel()  # mean square
    budget = Budget("flicker", 0.3, 300, 1e-3)
    how = {"loss": "margin", "margin": 0.005, "beta1": 1.0, "beta2": 0.0, "strength": 5.0}
    found = attack(model, clips, zeros(1), budget, **how).clips
    assert model(found).argmax(1).tolist() == [1]
    mean_square = float((found - clips)[0, :, :, 0, 0].double().square().mean())
    assert least <= mean_square * (1 + 1e-5)
    assert mean_square < 1.15 * least
    first = attack(model, clips, zeros(1), budget, stop=True, **how).clips
    assert model(first).argmax(1).tolist() == [1]
    assert float((first - clips)[0, :, :, 0, 0].double().square().mean()) > 1.15 * least


def test_roughness_is_traded_for_thickness() -> None:
    """One frame decides. Punished for jumps, the flicker spreads to its neighbours, in a circle."""
    clips, weight = torch.full((1, *SHAPE), 0.5), torch.zeros(SHAPE)
    weight[:, 0] = 1.0
    model = Two(weight, -float((clips[0] * weight).sum()) - 1.0)
    offsets = {}
    for name, b1, b2 in (("thin", 1.0, 0.0), ("smooth", 0.05, 1.0)):
        found = attack(model, clips, zeros(1), Budget("flicker", 0.5, 150, 2e-3), strength=20.0, beta1=b1, beta2=b2)
        assert model(found.clips).argmax(1).tolist() == [1]
        offsets[name] = (found.clips - clips)[..., :1, :1]
    assert float(roughness(offsets["smooth"])) < 0.5 * float(roughness(offsets["thin"]))
    assert float(thickness(offsets["smooth"])) > 2 * float(thickness(offsets["thin"]))
    smooth = offsets["smooth"][0, 0, :, 0, 0]
    assert float(smooth[4]) == pytest.approx(float(smooth[1]), abs=1e-5)  # before the first frame comes the last
    assert float(smooth[1]) > float(smooth[2]) > 0


def test_of_several_successes_the_one_with_the_lowest_regulariser_is_returned() -> None:
    clips, labels = draw(3, *SHAPE, seed=9, low=0.2, high=0.8).double(), zeros(3)
    model = Smooth()
    labels = model(clips).argmax(1)
    target = Target.of(model, 3)
    model.seen.clear()
    budget = Budget("flicker", 0.5, 60, 0.01)
    found = attack(target, clips, labels, budget, loss="logit-margin", margin=0.01, strength=20.0).clips
    seen = torch.stack(model.seen)
    assert len(seen) == 61
    wrong = torch.stack([model(s).argmax(1) != labels for s in seen])
    assert (wrong.sum(0) > 1).all()  # there is a choice
    penalty = torch.stack([regulariser((s - clips)[..., :1, :1], 0.5, 0.5) for s in seen]).where(wrong, math.inf)
    choice = penalty.argmin(0)
    assert (choice > wrong.double().argmax(0)).any()  # and it is not always the first
    torch.testing.assert_close(found, seen[choice, torch.arange(3)], rtol=0, atol=0)


def test_a_clip_leaves_when_it_can_only_get_worse() -> None:
    weight = torch.ones(SHAPE)
    clips = torch.full((3, *SHAPE), 0.5)
    clips[1], clips[2] = 0.49, 0.1
    model = Two(weight, -180 * 0.497)  # the second is wrong once it has risen by 0.007: after four steps
    budget = Budget("flicker", 0.05, 20, 2e-3)
    for stop, forwards in ((False, [1, 21, 21]), (True, [1, 5, 21])):
        target = Target.of(model, 3)
        found = attack(target, clips, zeros(3), budget, loss="logit-margin", stop=stop)
        assert target.forwards.tolist() == forwards
        assert target.backwards.tolist() == [min(f, 20) for f in forwards]
        assert torch.equal(found.clips[0], clips[0])
        assert model(found.clips).argmax(1).tolist() == [1, 1, 0]
        assert float(found.clips[2].mean()) == pytest.approx(0.1 + 20 * 2e-3, abs=1e-3)  # the last iterate
        assert found.trace is not None
        assert found.trace.shape == (20, 3)
        assert (~found.trace.isnan()).sum(0).tolist() == [min(f, 20) for f in forwards]


def test_clips_for_transfer_go_as_far_as_the_loss_does() -> None:
    """Wrong from 0.02 on, but by a margin of 0.9 later only: the weakest success is not handed over."""
    clips = torch.full((1, *SHAPE), 0.5)
    model = Two(torch.ones(SHAPE), -180 * 0.52)
    budget = Budget("flicker", 0.2, 100, 2e-3)
    how = {"loss": "logit-margin", "margin": 0.9}
    target = fixed(model, 1, "transfer")
    far = attack(target, clips, zeros(1), budget, **how).clips
    seen = torch.cat(model.seen)
    near = attack(model, clips, zeros(1), budget, **how).clips
    assert (target.forwards.tolist(), target.backwards.tolist()) == ([101], [100])
    assert model(torch.cat([near, far])).argmax(1).tolist() == [1, 1]
    losses = adversarial_loss(model(torch.cat([near, far])), zeros(2), "logit-margin", 0.9).tolist()
    assert losses[1] == float(adversarial_loss(model(seen), zeros(len(seen)), "logit-margin", 0.9).min())
    assert losses[0] > 10 * losses[1] + 0.1


def test_a_lucky_draw_is_not_believed() -> None:
    clips, model = torch.full((2, *SHAPE), 0.5), Two(0.01 * torch.ones(SHAPE), -0.8)  # wrong from the start
    target = fixed(model, 2, "stochastic")
    found = attack(target, clips, zeros(2), Budget("flicker", 0.1, 15, 2e-3), stop=True, loss="ce").clips
    assert target.forwards.tolist() == target.backwards.tolist() == [15, 15]
    assert float((found - clips).abs().min()) > 0.01


@pytest.mark.parametrize("kind", ["decisive", "transfer", "stochastic"])
def test_passes_are_at_most_those_promised(kind: str) -> None:
    budget, model = Budget("flicker", 0.1, 7), Two(torch.ones(SHAPE), -1000.0)
    target = fixed(model, 2, kind)
    attack(target, draw(2, *SHAPE), zeros(2), budget)
    forwards = 7 if kind == "stochastic" else 8
    assert (target.forwards.tolist(), target.backwards.tolist()) == ([forwards] * 2, [7, 7])
    assert Flicker().passes(budget) == (8, 7)


def test_a_margin_of_logits_moves_where_one_of_probabilities_does_not() -> None:
    """A lead of 30: the gradient of the probability is there, but drowns in that of the regulariser."""
    clips, model = torch.full((1, *SHAPE), 0.5), Two(10 * torch.ones(SHAPE), -900.0 - 30.0)
    budget = Budget("flicker", 0.1, 150, 1e-3)
    broken = [
        int(model(attack(model, clips, zeros(1), budget, loss=k).clips).argmax()) for k in ("margin", "logit-margin")
    ]
    assert broken == [0, 1]


@pytest.mark.parametrize("stop", [False, True])
def test_result_does_not_depend_on_the_batch(stop: bool) -> None:
    clips = draw(4, *SHAPE, seed=11)
    scores = clips.flatten(1).sum(1)
    model = Two(torch.ones(SHAPE), -float(scores.median()) - 0.5)
    budget = Budget("flicker", torch.tensor([0.02, 0.03, 0.04, 0.05]), 25, 2e-3)
    target = Target.of(model, 4)
    together = attack(target, clips, zeros(4), budget, stop=stop, loss="logit-margin").clips
    assert len(set(target.forwards.tolist())) > 1
    for i in range(4):
        one = Budget("flicker", float(budget.select(torch.tensor([i])).size), 25, 2e-3)
        alone = attack(model, clips[i : i + 1], zeros(1), one, stop=stop, loss="logit-margin").clips
        assert torch.equal(together[i : i + 1], alone)


@few
@given(
    st.tuples(st.integers(1, 3), st.just(3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)),
    st.floats(0.0, 1.0),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from(["margin", "logit-margin", "ce"]),
    st.sampled_from(["decisive", "transfer", "stochastic"]),
    st.integers(0, 1000),
)
def test_the_judge_accepts_what_comes_out(
    shape: tuple[int, ...], size: float, dtype: torch.dtype, loss: str, kind: str, seed: int
) -> None:
    clips = (1.4 * draw(*shape, seed=seed) - 0.2).clamp(0, 1).to(dtype)
    model = Two(draw(*shape[1:], seed=seed + 1, low=-1), 0.0)
    budget = Budget("flicker", size, 6, step_size=0.1)
    labels = torch.arange(shape[0]) % 2
    found = attack(fixed(model, shape[0], kind), clips, labels, budget, loss=loss).clips
    assert found.dtype == dtype
    assert [violation(x, y, budget) for x, y in zip(clips, found, strict=True)] == [None] * shape[0]
    if kind == "stochastic" and size > 0.1:  # something has happened at all
        assert float((found - clips).abs().max()) > 0.01


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(BenchError, match="Flicker takes flicker budgets, not linf"):
        Flicker().check(Budget())
    with pytest.raises(BenchError, match="it takes 1 restart, not 3"):
        Flicker().check(Budget("flicker", restarts=3))
    for how in ({"loss": "mse"}, {"margin": 0.0}, {"strength": -1.0}, {"beta1": -0.1}, {"beta2": math.nan}):
        with pytest.raises(ValueError, match=f"{next(iter(how))}.* must"):
            Flicker(**how)  # type: ignore[arg-type]
