"""Attacks that know the motion-consistency defence: their stated objectives, PGD at weight 0, budget and passes."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kit.flows import miniature
from torch import Tensor, nn

from bench import Attack, BenchError, Budget, ClipRandom, DefendedClassifier, Target
from bench.attacks.motion_adaptive import MotionI, MotionII
from bench.attacks.pgd import PGD
from bench.defenses.motion_consistency import MotionConsistency
from bench.flow.base import FlowEstimator
from bench.flow.losses import MotionLoss
from bench.plan.components import make_component
from bench.registry import ATTACKS, Spec
from bench.weights import zoo

SHAPE, EPS = (3, 4, 16, 16), 8 / 255
KINDS: list[type[MotionI] | type[MotionII]] = [MotionI, MotionII]


@pytest.fixture(scope="module")
def flow() -> FlowEstimator:
    return miniature().float()


@pytest.fixture(autouse=True)
def _small(flow: FlowEstimator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The miniature in place of every flow network."""
    monkeypatch.setattr("bench.flow.losses.load_flow", lambda *_, **__: flow)


def draw(batch: int, seed: int = 0) -> Tensor:
    return 0.2 + 0.6 * torch.rand(batch, *SHAPE, generator=torch.Generator().manual_seed(seed))


class Small(nn.Module):
    """Three classes, not linear; counts its clips.

    Args:
        bias: what speaks for class 0: with a large one, nothing breaks it.
    """

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv, self.fc = nn.Conv3d(3, 4, 3, padding=1), nn.Linear(4 * 4 * 16 * 16, 3)
        self.bias = torch.tensor([bias, 0.0, 0.0])
        self.forwards = 0

    def forward(self, clips: Tensor) -> Tensor:
        self.forwards += len(clips)
        return self.fc(torch.tanh(4 * self.conv(clips)).flatten(1)) + self.bias


def attack(
    attack: Attack, model: nn.Module | Target, clips: Tensor, budget: Budget, labels: Tensor | None = None
) -> Any:
    labels = torch.zeros(len(clips), dtype=torch.int64) if labels is None else labels
    return attack(model, clips, labels, budget, ClipRandom(range(len(clips))))


def transfer(model: nn.Module, batch: int) -> Target:
    return Target(lambda clips, rows: model(clips), batch, transfer=True)


def ascended(found: Tensor, clips: Tensor) -> Tensor:
    """The direction of one l2 step from the clean clips: the gradient of what was climbed, at unit length."""
    return F.normalize((found - clips).flatten(1).double())


# --- the objectives --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("constraints", [["forward"], ["forward", "backward", "long"]])
def test_attack_i_climbs_cross_entropy_less_the_defences_loss(flow: FlowEstimator, constraints: list[str]) -> None:
    model, clips, labels = Small(), draw(2), torch.tensor([0, 2])
    how: dict[str, Any] = {"constraints": constraints, "similarity": "ssim", "smoothness": 0.3, "edge": 20.0}
    made = MotionI(lambdas=[40.0], start="clean", keep="last", **how)
    found = attack(made, model, clips, Budget("l2", 0.01, steps=1, step_size=0.01), labels).clips
    x = clips.clone().requires_grad_(True)
    loss = MotionLoss(flow, constraints, similarity="ssim", smooth=0.3, edge=20.0)
    objective = F.cross_entropy(model(x), labels, reduction="none") - 40 * loss(x)
    (gradient,) = torch.autograd.grad(objective.sum(), x)
    expected = F.normalize(gradient.flatten(1).double())
    assert (ascended(found, clips) * expected).sum(1).tolist() == pytest.approx([1, 1], abs=1e-3)
    (alone,) = torch.autograd.grad(F.cross_entropy(model(x), labels, reduction="sum"), x)
    assert ((F.normalize(alone.flatten(1).double()) * expected).sum(1) < 0.9).all()  # it matters


def test_attack_ii_climbs_cross_entropy_less_the_change_of_the_flow(flow: FlowEstimator) -> None:
    model, clips, labels = Small(), draw(2), torch.tensor([0, 2])
    clean = torch.stack([flow(clips[:, :, i], clips[:, :, i + 1]) for i in range(3)], 2)
    # The first step is that of PGD: on the clean clip, nothing has changed yet. The second one starts off it.
    budget = Budget("l2", 1.0, steps=1, step_size=0.5)
    first = attack(PGD(start="clean", keep="last"), model, clips, budget, labels).clips
    budget = Budget("l2", 1.0, steps=2, step_size=0.5)
    found = attack(MotionII(lambdas=[20.0], start="clean", keep="last"), model, clips, budget, labels).clips
    x = first.clone().requires_grad_(True)
    change = (flow.clip_flow(x) - clean).abs().mean((1, 2, 3, 4))
    objective = F.cross_entropy(model(x), labels, reduction="none") - 20 * change
    (gradient,) = torch.autograd.grad(objective.sum(), x)
    step = F.normalize(gradient.flatten(1)).view_as(clips)
    expected = budget.geometry.project(first + 0.5 * step, clips, 1.0)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)
    plain = attack(PGD(start="clean", keep="last"), model, clips, budget, labels).clips
    assert float((plain - expected).abs().max()) > 2e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_larger_weight_pays_less(kind: type[MotionI] | type[MotionII], flow: FlowEstimator) -> None:
    clips, budget = draw(2), Budget(size=EPS, steps=20, step_size=0.5 / 255)
    paid = []
    for weight in (0.0, 1e4):
        found = attack(kind(lambdas=[weight], keep="last"), Small(), clips, budget).clips
        with torch.no_grad():
            change = (flow.clip_flow(found) - flow.clip_flow(clips)).abs().mean((1, 2, 3, 4))
            paid.append(MotionLoss(flow)(found) if kind is MotionI else change)
    assert (paid[1] < 0.9 * paid[0]).all()


# --- the loop --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", ["uniform", "clean"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_weight_0_is_pgd_to_the_last_bit(kind: Any, start: Any, norm: str) -> None:
    model, clips = Small(bias=1.0), draw(3)
    budget = Budget(norm, EPS if norm == "linf" else 1.0, steps=3, restarts=2)
    for ask in (lambda m: m, lambda m: transfer(m, 3)):
        found = attack(kind(lambdas=[0.0], start=start), ask(model), clips, budget)
        expected = attack(PGD(start=start), ask(model), clips, budget)
        assert torch.equal(found.clips, expected.clips)
        torch.testing.assert_close(found.trace, expected.trace, rtol=0, atol=0, equal_nan=True)
    assert kind(lambdas=[0.0]).passes(budget) == PGD().passes(budget)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_stays_in_the_ball_and_takes_the_passes_it_says(kind: Any, norm: str) -> None:
    made, clips = kind(lambdas=[0.0, 30.0, 1e5]), draw(2)
    budget = Budget(norm, EPS if norm == "linf" else 1.0, steps=2, restarts=2)
    assert made.passes(budget) == (18, 12)
    model = Small(bias=1e3)  # never broken: the last start needs no look at what it left
    target = Target.of(model, 2)
    result = attack(made, target, clips, budget)
    assert (target.forwards.tolist(), target.backwards.tolist()) == ([17, 17], [12, 12])
    assert model.forwards == 34
    target = transfer(Small(), 2)
    for found in (result, attack(made, target, clips, budget)):
        assert (budget.geometry.distance(found.clips, clips) <= budget.size * (1 + 1e-5) + 1e-6).all()
        assert ((found.clips >= 0) & (found.clips <= 1)).all()
        assert found.trace.shape == (12, 2)
    assert (target.forwards.tolist(), target.backwards.tolist()) == ([18, 18], [12, 12])


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_clip_leaves_and_the_next_weight_tries_the_others(kind: Any) -> None:
    """Clip 0 is wrong from the start; clip 1 can never be broken."""

    class OneWrong(Small):
        def forward(self, clips: Tensor) -> Tensor:
            wrong = clips.detach().mean((1, 2, 3, 4), keepdim=False) < 0.3
            return super().forward(clips) + torch.where(wrong[:, None], torch.tensor([-2e3, 0.0, 0.0]), 0.0)

    clips = draw(2)
    clips[0] *= 0.3
    target = Target.of(OneWrong(bias=1e3), 2)
    result = attack(kind(lambdas=[1.0, 2.0]), target, clips, Budget(size=EPS, steps=3))
    assert target.forwards.tolist() == [1, 7]
    assert result.trace[:, 0].isfinite().sum() == 1
    assert result.trace[:, 1].isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_is_attacked_alike_in_any_batch(kind: Any) -> None:
    clips, made = draw(3), kind(lambdas=[100.0], keep="last")
    together = attack(made, Small(), clips, Budget(size=EPS, steps=2)).clips
    alone = made(Small(), clips[2:], torch.zeros(1, dtype=torch.int64), Budget(size=EPS, steps=2), ClipRandom([2]))
    apart = (together[2:] - alone.clips).abs() > 1e-6  # the classifier itself adds up in another order
    assert float(apart.double().mean()) < 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gradient", ["bpda", "surrogate", "exact"])
def test_it_goes_with_every_gradient_of_the_defence(kind: Any, gradient: str) -> None:
    clips = draw(2)
    defended = DefendedClassifier(Small(), MotionConsistency(steps=2, unroll=1), gradient)
    target = defended.target(ClipRandom([0, 1]))
    result = attack(kind(lambdas=[0.0, 10.0]), target, clips, Budget(size=EPS, steps=2))
    assert float((result.clips - clips).abs().max()) <= EPS + 1e-6
    assert torch.isfinite(result.clips).all()


def test_a_randomised_target_gets_every_step() -> None:
    model, clips = Small(), draw(2)
    target = Target(lambda x, rows: model(x + 1e-3 * torch.rand_like(x)), 2, stochastic=True)
    result = attack(MotionI(lambdas=[0.0, 1.0]), target, clips, Budget(size=EPS, steps=2))
    assert target.backwards.tolist() == [4, 4]
    assert result.trace.isfinite().all()


# --- input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("motion_i(lambdas=[])", "lambdas must be a list of weights"),
        ("motion_i(lambdas=300)", "lambdas must be a list of weights, not 300"),
        ("motion_ii(lambdas=[-1.0])", "lambdas must be numbers that are not negative, not -1.0"),
        ("motion_ii(start='gaussian')", "start must be uniform or clean, not 'gaussian'"),
        ("motion_i(keep='best')", "keep must be worst or last"),
        ("motion_i(loss='cw')", "Unknown loss 'cw'"),
        ("motion_i(similarity='mse')", "Unknown similarity 'mse'"),
        ("motion_i(constraints=['for'])", "Unknown constraint 'for'"),
    ],
)
def test_bad_parameters_are_one_sentence(text: str, why: str) -> None:
    with pytest.raises(BenchError, match=why):
        ATTACKS.create(text)


@pytest.mark.parametrize(
    ("kind", "how", "frames", "why"),
    [
        (MotionI, {}, 1, "needs at least two, not 1"),
        (MotionI, {"constraints": ["long"], "distance": 4}, 4, "frames 4 apart, but the clips have 4"),
        (MotionII, {}, 1, "A clip of one frame has no flow to keep"),
    ],
)
def test_clips_that_are_too_short_are_one_sentence(kind: Any, how: dict[str, Any], frames: int, why: str) -> None:
    model = Small()
    with pytest.raises(BenchError, match=why):
        attack(kind(**how), model, draw(1)[:, :, :frames], Budget(size=EPS, steps=1))
    assert model.forwards == 0


def test_the_sweeps_are_those_of_the_decisions() -> None:
    assert MotionI().lambdas == (0, 1, 10, 100, 300, 1000)
    assert MotionII().lambdas == (0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6)


@pytest.mark.parametrize("attack", ["motion_i", "motion_ii", "joint_flow"])
def test_other_weights_of_the_shipped_flow_network_are_another_identity(
    attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (name,) = (name for name, entry in zoo.manifest().items() if entry["model"] == "flow_tiny")
    entry, content = zoo.manifest()[name], Path(zoo.__file__).parents[1].joinpath("zoo", name).read_bytes()
    assert sha256(content).hexdigest() == entry["sha256"]
    shipped = make_component(Spec(attack), ATTACKS).identity
    assert shipped.files == {name: entry["sha256"]}
    other = content[:-1] + bytes([content[-1] ^ 1])  # the last digit of one weight
    (tmp_path / name).write_bytes(other)
    (tmp_path / "manifest.json").write_text(json.dumps({name: {**entry, "sha256": sha256(other).hexdigest()}}))
    monkeypatch.setattr(zoo.resources, "files", lambda package: tmp_path)
    trained = make_component(Spec(attack), ATTACKS).identity
    assert trained.files == {name: sha256(other).hexdigest()}
    assert trained.stream() == shipped.stream()


def test_an_attack_without_a_shipped_flow_network_reads_no_file() -> None:
    assert make_component(Spec("motion_i", {"flow": "raft_small"}), ATTACKS).identity.files == {}
    assert make_component(Spec("joint_flow", {"mus": [0.0]}), ATTACKS).identity.files == {}
