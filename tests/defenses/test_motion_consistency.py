"""The motion-consistency defence: against a plain descent, its bounds, its gradients, its detector; and the noise."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

import pytest
import torch
from kit.double import draw, normal, slope
from kit.flows import miniature
from kit.rendered import clips_of
from torch import Tensor, nn

from bench import BenchError, ClipRandom, DefendedClassifier, evaluate
from bench.defense.defended import why_not
from bench.defenses.motion_consistency import MotionConsistency
from bench.flow.base import FlowEstimator
from bench.flow.losses import photometric, smoothness
from bench.records.metrics import roc_area
from bench.registry import DEFENSES

STEP, BOUND = 2 / 255, 12 / 255


def defence(flow: FlowEstimator | None = None, **settings: Any) -> MotionConsistency:
    """The defence with a miniature flow network in place of the shipped one."""
    found = MotionConsistency(**settings)
    found.loss.flow = found.final_loss.flow = flow or miniature()
    return found


def damaged(clips: Tensor, size: float = 16 / 255) -> Tensor:
    """Clips whose frames no longer agree."""
    return (clips + size * normal(*clips.shape, seed=9).sign().float()).clamp(0, 1)


def purify(defense: MotionConsistency, clips: Tensor) -> Tensor:
    return defense.purify(clips, ClipRandom(range(len(clips))))


# --- what it does ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("constraints", [["forward"], ["forward", "backward", "long"]])
def test_it_is_the_descent_of_the_decisions(constraints: list[str]) -> None:
    """Pair by pair, one call of the flow network each, automatic differentiation of the whole loss at once."""
    flow, clips = miniature(), draw(2, 3, 4, 8, 8)
    clips[0, :, :2] = clips[0, :, :2].round()  # values at the ends of the range
    defense = defence(flow, steps=4, bound=5 / 255, constraints=constraints, smoothness=0.5, edge=20.0)
    pairs = {"forward": [(0, 1), (1, 2), (2, 3)], "backward": [(1, 0), (2, 1), (3, 2)], "long": [(0, 2), (1, 3)]}
    found = purify(defense, clips)
    for b in range(2):
        x = clips[b : b + 1]
        for _ in range(4):
            leaf = x.clone().requires_grad_(True)
            total = torch.zeros((), dtype=torch.float64)
            for name in constraints:
                for i, j in pairs[name]:
                    first, second = leaf[:, :, i], leaf[:, :, j]
                    way = flow(first, second)
                    total = total + photometric(first, second, way).sum() / 3  # equations 1 and 10 sum over pairs
                    if name == "forward":
                        total = total + 0.5 * smoothness(way, first, 20.0).sum() / 3
            (gradient,) = torch.autograd.grad(total, leaf)
            x = x - STEP * gradient.sign()
            x = x.clamp(clips[b : b + 1] - 5 / 255, clips[b : b + 1] + 5 / 255).clamp(0, 1)
        torch.testing.assert_close(found[b : b + 1], x, rtol=0, atol=1e-12)


def test_it_mends_what_was_damaged() -> None:
    clean = clips_of(2, 4, 32)
    defense = MotionConsistency(steps=6, constraints=["forward", "backward", "long"])
    before = defense.measure(damaged(clean))
    after = defense.measure(defense.purify(damaged(clean), ClipRandom(range(len(clean)))))
    assert before.shape == after.shape == (2,)
    assert (after < 0.7 * before).all()
    assert (defense.measure(clean) < before).all()
    torch.testing.assert_close(before, defense.loss(damaged(clean)))


def test_it_stays_in_its_ball_and_in_the_range() -> None:
    clips = damaged(clips_of(2, 4, 32))
    larger: dict[str, Any] = {"step_size": "9/255", "bound": "12/255", "step": "tanh"}
    for settings in ({}, larger):
        found = purify(MotionConsistency(steps=7, **settings), clips)
        moved = (found - clips).abs()
        assert float(moved.max()) == pytest.approx(BOUND, abs=1e-6)
        assert (found >= 0).all()
        assert (found <= 1).all()
        assert found.dtype == torch.float32


def test_no_step_is_the_identity() -> None:
    clips = clips_of(1, 4, 32).requires_grad_(True)
    found = purify(MotionConsistency(steps=0), clips)
    assert torch.equal(found, clips)
    (gradient,) = torch.autograd.grad(found.sum(), clips)
    assert torch.equal(gradient, torch.ones_like(clips))


@pytest.mark.parametrize("step", ["sign", "tanh"])
def test_a_clip_is_purified_alike_in_any_batch_and_every_time(step: Any) -> None:
    clips = damaged(clips_of(3, 4, 32))
    defense = MotionConsistency(steps=2, step=step, constraints=["forward", "long"])
    together = purify(defense, clips)
    assert torch.equal(purify(defense, clips), together)
    for b in (0, 2):
        assert torch.equal(purify(defense, clips[b : b + 1]), together[b : b + 1])
    assert not defense.stochastic


def test_it_works_whatever_the_grad_mode_and_leaves_no_trace() -> None:
    clips, defense = damaged(clips_of(1, 4, 32)), MotionConsistency(steps=1)
    before = clips.clone()
    with torch.no_grad():
        found = purify(defense, clips)
    assert torch.equal(purify(defense, clips), found)
    assert torch.equal(purify(defense, clips.clone().requires_grad_(True)), found)
    assert not torch.equal(found, clips)
    assert torch.equal(clips, before)
    assert all(p.grad is None and not p.requires_grad for p in defense.parameters())


def test_every_setting_counts() -> None:
    clips = damaged(clips_of(1, 4, 32))
    base = purify(MotionConsistency(steps=2), clips)
    changes: list[dict[str, Any]] = [
        {"steps": 3},
        {"step_size": 0.02},
        {"bound": 0.01},
        {"constraints": ["backward"]},
        {"constraints": ["forward", "long"]},
        {"constraints": ["long"], "distance": 3},
        {"similarity": "l2"},
        {"similarity": "ssim"},
        {"smoothness": 50.0},
        {"step": "tanh"},
    ]
    for settings in changes:
        assert not torch.equal(purify(MotionConsistency(**{"steps": 2, **settings}), clips), base), settings


def test_raft_makes_fewer_updates_for_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models.optical_flow import raft_small

    from bench.flow.raft import Raft

    asked: list[tuple[str, Any, int]] = []

    def load(name: str, weights: Any, *, updates: int) -> FlowEstimator:
        asked.append((name, weights, updates))
        return Raft(raft_small().eval(), updates).eval().requires_grad_(False)

    monkeypatch.setattr("bench.flow.losses.load_flow", load)
    defense = MotionConsistency(flow="raft_large")
    MotionConsistency(flow="raft_small", updates=3)
    MotionConsistency(flow="raft_large", flow_weights="C_T_V2")
    assert asked == [("raft_large", "C_T_SKHT_V1", 2), ("raft_small", None, 3), ("raft_large", "C_T_V2", 2)]
    gradients, measure = defense.loss.flow, defense.final_loss.flow
    assert isinstance(gradients, Raft)
    assert isinstance(measure, Raft)
    assert (gradients.updates, measure.updates) == (2, 12)
    assert all(a is b for a, b in zip(gradients.parameters(), measure.parameters(), strict=True))


# --- gradients -------------------------------------------------------------------------------------------------------


def derivative(process: Any, clips: Tensor, step: float = 1e-8) -> tuple[float, float]:
    """Of a random function of the purified clips in a random direction: by autograd, and by central differences."""
    direction, weight = normal(*clips.shape, seed=5), normal(*clips.shape, seed=6)

    def value(x: Tensor) -> Tensor:
        return (process(x, ClipRandom(range(len(x)))).square() * weight).sum()

    x = clips.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(value(x), x)
    return float((gradient * direction).sum()), slope(value, clips, direction, step)


SMOOTH: list[dict[str, Any]] = [
    {},
    {"constraints": ["forward", "backward", "long"], "pairs_at_once": 3},
    {"similarity": "l2", "temperature": 1.0, "smoothness": 0.0},
    {"similarity": "ssim", "bound": 3 / 255},
]


@pytest.mark.parametrize("settings", SMOOTH)
def test_the_exact_gradient_of_smooth_steps_is_exact(settings: dict[str, Any]) -> None:
    """Through all steps, second derivatives of warp and flow network included; some values meet bound and range."""
    defense = defence(steps=3, unroll=3, step="tanh", edge=10.0, **settings)
    clips = draw(2, 3, 4, 8, 8)
    found, expected = derivative(defense.purify, clips)
    assert found == pytest.approx(expected, rel=1e-4)
    # What is differentiated is not merely the identity.
    bound = defence(steps=3, edge=10.0, **{k: v for k, v in settings.items() if k != "temperature"})
    assert abs(derivative(bound.purify, clips)[0] - expected) > 1e-3 * abs(expected)


def test_the_exact_gradient_of_sign_steps_is_the_identity_with_holes() -> None:
    defense = defence(steps=5, edge=10.0, bound=7 / 255)
    clips = draw(2, 3, 4, 8, 8)
    found, expected = derivative(defense.purify, clips, step=1e-10)
    assert found == pytest.approx(expected, rel=1e-4)
    x = clips.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(purify(defense, x).sum(), x)
    assert set(gradient.unique().tolist()) == {0.0, 1.0}
    assert (clips.minimum(1 - clips)[gradient == 0] < 7 / 255).all()  # the holes are where the range cut off
    assert float(gradient.mean()) > 0.9


def test_the_surrogate_is_the_descent_with_smooth_last_steps() -> None:
    clips = 0.1 + 0.8 * draw(1, 3, 4, 8, 8)  # the range stops no value
    hard, smooth = defence(steps=2, unroll=2), defence(steps=2, unroll=2, step="tanh")
    assert torch.equal(hard.surrogate(clips, ClipRandom([0])), purify(smooth, clips))
    found, expected = derivative(hard.surrogate, clips)
    assert found == pytest.approx(expected, rel=1e-4)

    # Of three steps, two in front: these pass the gradient on as it is.
    longer, front = defence(steps=3, unroll=1), purify(defence(steps=2, unroll=1), clips)

    def tail(x: Tensor, rng: ClipRandom) -> Tensor:
        return longer._within(longer._move(front + (x - clips), "tanh"), x).clamp(0, 1)

    torch.testing.assert_close(longer.surrogate(clips, ClipRandom([0])), tail(clips, ClipRandom([0])))
    assert derivative(longer.surrogate, clips)[0] == pytest.approx(derivative(tail, clips)[1], rel=1e-4)


class Kept:
    """A tensor that a graph holds, as long as it does."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


@pytest.mark.parametrize("process", ["purify", "surrogate"])
@pytest.mark.parametrize("step", ["sign", "tanh"])
def test_memory_does_not_grow_with_the_steps(process: str, step: str) -> None:
    """What the graph keeps are a few clips for each unrolled step, never a network's activations."""

    def kept(steps: int, unroll: int) -> float:
        defense = defence(miniature().float(), steps=steps, unroll=unroll, step=step)
        x = draw(1, 3, 4, 16, 16).float().requires_grad_(True)
        alive: WeakSet[Kept] = WeakSet()

        def pack(tensor: Tensor) -> Kept:
            held = Kept(tensor)
            alive.add(held)
            return held

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
            found = getattr(defense, process)(x, ClipRandom([0]))
        assert found.requires_grad
        storages = {k.tensor.untyped_storage().data_ptr(): k.tensor.untyped_storage().nbytes() for k in alive}
        return sum(storages.values()) / (x.numel() * 4)

    assert kept(9, 2) == kept(3, 2)
    assert kept(4, 4) - kept(4, 1) <= 3 * 12


class Corner(nn.Module):
    def forward(self, clips: Tensor) -> Tensor:
        return torch.stack([clips.flatten(1).square().mean(1), clips[:, 0, :2].flatten(1).mean(1)], 1)


def test_every_gradient_reaches_the_clip_and_bpda_is_the_identity() -> None:
    clips, defense = draw(2, 3, 4, 8, 8), defence(steps=2, unroll=1)
    gradients = {}
    for gradient in ("exact", "bpda", "surrogate"):
        x = clips.clone().requires_grad_(True)
        defended = DefendedClassifier(Corner(), defense, gradient)
        logits = defended(x, ClipRandom([0, 1]))
        assert torch.equal(logits, Corner()(purify(defense, clips)))
        (gradients[gradient],) = torch.autograd.grad(logits.log_softmax(-1)[:, 0].sum(), x)
        assert torch.isfinite(gradients[gradient]).all()
        assert gradients[gradient].flatten(1).any(1).all()
    seen = purify(defense, clips).requires_grad_(True)
    (expected,) = torch.autograd.grad(Corner()(seen).log_softmax(-1)[:, 0].sum(), seen)
    torch.testing.assert_close(gradients["bpda"], expected)
    assert not torch.allclose(gradients["surrogate"], expected, rtol=1e-2)
    assert why_not(defense, "diffattack")


def test_a_clip_of_one_colour_has_a_finite_surrogate() -> None:
    gray = torch.full((1, 3, 3, 8, 8), 0.5, requires_grad=True)
    found = defence(miniature().float(), steps=2, unroll=2).surrogate(gray, ClipRandom([0]))
    (gradient,) = torch.autograd.grad(found.sum(), gray)
    assert torch.isfinite(gradient).all()


# --- the detector ----------------------------------------------------------------------------------------------------


def test_the_loss_tells_damaged_clips_from_clean_ones() -> None:
    clips, defense = clips_of(6, 4, 32), MotionConsistency(steps=0)
    assert roc_area(defense.measure(damaged(clips)).tolist(), defense.measure(clips).tolist()) > 0.9


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("motion_consistency(similarity='lpips')", "Unknown similarity 'lpips'"),
        ("motion_consistency(constraints=['backwards'])", r"Unknown constraint 'backwards' \(did you mean 'backward'"),
        ("motion_consistency(weights=[1.0, 1.0])", "one positive weight for each of the constraints forward"),
        ("motion_consistency(smoothness=-1.0)", "smoothness and edge must be finite and not negative"),
        ("motion_consistency(steps=-1)", "steps must be a whole number of at least 0"),
        ("motion_consistency(unroll=0)", "unroll must be a whole number of at least 1"),
        ("motion_consistency(step='adam')", "step must be sign or tanh, not 'adam'"),
        ("motion_consistency(temperature=0)", "temperature must be positive"),
        ("motion_consistency(bound='12/0')", "Cannot read the size '12/0'"),
        ("motion_consistency(flow='flow_tny')", "There is no flow estimator 'flow_tny'"),
        ("motion_consistency(flow_weights='x.pth')", "leave the weights out"),
        ("random_noise(bound=-0.1)", "finite and not negative"),
    ],
)
def test_bad_parameters_are_one_sentence(text: str, why: str) -> None:
    with pytest.raises(BenchError, match=why):
        DEFENSES.create(text)


@pytest.mark.parametrize(
    ("settings", "shape", "why"),
    [
        ({}, (1, 3, 1, 16, 16), "needs at least two, not 1"),
        ({"constraints": ["long"], "distance": 9}, (1, 3, 4, 16, 16), "frames 9 apart, but the clips have 4"),
        ({}, (1, 2, 4, 16, 16), "takes RGB clips.*a classifier of optical flow must compute the flow itself"),
    ],
)
def test_clips_that_it_cannot_take_are_one_sentence(settings: dict[str, Any], shape: tuple[int, ...], why: str) -> None:
    defense = MotionConsistency(steps=1, **settings)
    for ask in (lambda x: purify(defense, x), defense.measure):
        with pytest.raises(BenchError, match=why):
            ask(torch.rand(shape))


def test_it_stands_in_front_of_any_classifier() -> None:
    """Of colours or, like the flow streams, of flow that it computes itself: both get the mended clip."""

    class Looks(nn.Module):
        def forward(self, clips: Tensor) -> Tensor:
            return torch.stack([clips.flatten(1).mean(1), 1 - clips.flatten(1).mean(1)], 1)

    class Motion(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flow = miniature().float()

        def forward(self, clips: Tensor) -> Tensor:
            return self.flow.clip_flow(clips).mean((2, 3, 4))

    clips, labels = clips_of(2, 4, 16), torch.tensor([0, 1])
    for classifier in (Looks(), Motion()):
        frame = evaluate(
            classifier,
            clips,
            labels,
            defense=defence(miniature().float(), steps=1),
            gradient="bpda",
            budget={"steps": 2},
            verbose=False,
        )
        assert frame["status"].tolist() == ["ok", "ok"]
        assert frame["forwards"].max() > 0
