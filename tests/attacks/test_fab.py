"""FAB against scipy's optimum, torchattacks, and classifiers whose nearest boundary is known."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
import torchattacks
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.draws import draw
from kit.networks import OnImages, Wavy
from scipy import optimize
from torch import Tensor, nn
from torchattacks.attacks.fab import projection_l2, projection_linf

from bench import BenchError, Budget, ClipRandom, Target
from bench.attack.target import Answer
from bench.attacks.fab import FAB, fill_level, onto_plane
from bench.registry import ATTACKS
from bench.run.judge import violation

SHAPE = (3, 2, 3, 4)
N = math.prod(SHAPE)
SHAPES = [(1, 7, 6), (2, 4, 5)]
few = settings(max_examples=20, deadline=None, derandomize=True, database=None)


class Planes(nn.Module):
    """A linear classifier, ``weights (K, N)`` and ``bias (K,)``, summed clip by clip."""

    def __init__(self, weights: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weights, self.bias = weights, bias

    def forward(self, clips: Tensor) -> Tensor:
        return (clips.flatten(1)[:, None] * self.weights.to(clips.dtype)).sum(-1) + self.bias.to(clips.dtype)


def two_classes(gap: float, seed: int = 0) -> Planes:
    """Class 0 is ahead by ``gap`` of class 1 on a clip of middle gray, whatever the weights."""
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (N,), generator=generator) * 2.0 - 1.0
    weights = torch.stack([torch.zeros(N), signs * (0.5 + torch.rand(N, generator=generator))])
    return Planes(weights, torch.tensor([0.0, -gap - 0.5 * float(weights[1].sum())]))


def size_of(moves: Tensor, norm: str) -> Tensor:
    flat = moves.double().flatten(1)
    return flat.abs().amax(1) if norm == "linf" else flat.norm(dim=1)


# --- the projection -------------------------------------------------------------------------------------------


def optimum(point: np.ndarray, normal: np.ndarray, rise: float, norm: str) -> float | None:
    """Length of the shortest move, by scipy; ``None`` if the box is too small."""
    if norm == "linf":  # variables: the move and its largest entry
        n = len(point)
        bound = np.block([[np.eye(n), -np.ones((n, 1))], [-np.eye(n), -np.ones((n, 1))]])
        box = [(-p, 1 - p) for p in point] + [(0, None)]
        found = optimize.linprog(
            np.r_[np.zeros(n), 1], bound, np.zeros(2 * n), np.r_[normal, 0][None], [rise], box, method="highs"
        )
        return float(found.fun) if found.status == 0 else None
    corner = np.where((normal > 0) == (rise > 0), 1 - point, -point)
    if abs(corner @ normal) < abs(rise):
        return None
    found = optimize.minimize(
        lambda d: d @ d,
        corner * (rise / (corner @ normal)),
        jac=lambda d: 2 * d,
        bounds=[(-p, 1 - p) for p in point],
        constraints={"type": "eq", "fun": lambda d: normal @ d - rise, "jac": lambda d: normal},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )
    assert found.success
    return math.sqrt(found.fun)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_projection_is_scipys_optimum(data: st.DataObject) -> None:
    norm = data.draw(st.sampled_from(["linf", "l2"]))
    n = data.draw(st.integers(1, 7))
    tenths = st.integers(0, 10).map(lambda k: k / 10)  # 0 and 1, where there is no room, are likely
    point = np.array(data.draw(st.lists(tenths, min_size=n, max_size=n)))
    normal = np.array(data.draw(st.lists(st.integers(-4, 4).map(float), min_size=n, max_size=n)))
    rise = data.draw(st.integers(-60, 60)) / 16
    one = [torch.tensor(v, dtype=torch.float64)[None] for v in (point, normal, rise)]
    move = onto_plane(*one, norm)[0].numpy()
    assert ((point + move >= 0) & (point + move <= 1)).all()
    assert (move[normal == 0] == 0).all()
    shortest = optimum(point, normal, rise, norm) if rise else 0.0
    if shortest is None:  # then to the corner that comes closest
        expected = np.where(normal == 0, 0, np.where((normal > 0) == (rise > 0), 1 - point, -point))
        np.testing.assert_allclose(move, expected, atol=1e-12)
    else:
        assert normal @ move == pytest.approx(rise, abs=1e-9)
        length = np.abs(move).max() if norm == "linf" else np.linalg.norm(move)
        assert length == pytest.approx(shortest, abs=1e-6)


def test_the_level_is_exact() -> None:
    """Three values of weight 1, 2, 3; the first can take 0.1, the second 1, the third nothing."""
    weight, speed = torch.tensor([[1, 2, 3]]).double(), torch.ones(1, 3).double()
    room = torch.tensor([[0.1, 1, 0]], dtype=torch.float64)
    for amount, level in ((0.0, 0.0), (0.15, 0.05), (0.3, 0.1), (0.9, 0.4), (2.1, 1.0)):
        found = fill_level(weight, speed, room, torch.tensor([amount], dtype=torch.float64))
        assert float(found) == pytest.approx(level, abs=1e-15)
    # At speeds 1, 2, 3: 1 + 4 per unit until the first is full at 0.1, then 4 until the second is at 0.5.
    for amount, level in ((0.25, 0.05), (0.5, 0.1), (0.9, 0.2), (2.1, 0.5)):
        found = fill_level(weight, weight, room, torch.tensor([amount], dtype=torch.float64))
        assert float(found) == pytest.approx(level, abs=1e-15)
    # More than all room, none at all, and no weight: one after another, and together with one that has an answer.
    weight, room = weight.repeat(4, 1), room.repeat(4, 1)
    weight[2], room[1] = 0, 0
    found = fill_level(weight, weight.clamp_min(0.5), room, torch.tensor([5.0, 1.0, 1.0, 0.0]).double())
    assert found[0] >= 0.5
    assert torch.isfinite(found).all()
    assert found[3] == 0


@pytest.mark.parametrize(("norm", "theirs"), [("linf", projection_linf), ("l2", projection_l2)])
def test_projection_equals_torchattacks(norm: str, theirs: Any) -> None:
    points, normal = draw(40, 30).double(), draw(40, 30, seed=1, low=-1, high=1).double()
    rise = draw(40, 1, seed=2, low=-6, high=6).double()[:, 0]
    found = onto_plane(points, normal, rise, norm)
    expected = theirs(points.clone(), normal.clone(), (normal * points).sum(1) + rise)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


# --- known distances ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_linear_boundary_is_found_and_the_budget_decides(norm: str, targeted: bool) -> None:
    for seed, gap in ((0, 1.0), (1, 3.0)):
        model = two_classes(gap, seed)
        pull = model.weights[1].double()
        nearest = gap / float(pull.abs().sum() if norm == "linf" else pull.norm())
        clips, labels = torch.full((2, *SHAPE), 0.5), torch.tensor([0, 0])
        sizes = torch.tensor([0.999, 1.006]).double() * nearest
        found = FAB(targeted=targeted)(model, clips, labels, Budget(norm, sizes, 5)).clips
        assert torch.equal(found[0], clips[0])
        assert model(found).argmax(1).tolist() == [0, 1]
        assert nearest <= float(size_of(found - clips, norm)[1]) <= 1.006 * nearest
        # The first step goes 5 % too far, on purpose.
        once = FAB(targeted=targeted)(model, clips, labels, Budget(norm, 1.06 * nearest, 1)).clips
        assert size_of(once - clips, norm).tolist() == pytest.approx([1.05 * nearest] * 2, rel=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_box_is_in_the_way(norm: str) -> None:
    """Black and white clips, where half of the values cannot move the way that helps: scipy knows the distance."""
    model = two_classes(2.0)
    clips = draw(2, *SHAPE, seed=3, low=-1, high=2).clamp(0, 1)
    assert float(((clips == 0) | (clips == 1)).float().mean()) > 0.5
    with torch.no_grad():
        model.bias[1] -= float(model(clips)[:, 1].max()) + 2.0  # class 0 is ahead by at least 2
    gaps = -model(clips)[:, 1]
    found = FAB()(model, clips, torch.tensor([0, 0]), Budget(norm, 1.0 if norm == "linf" else 100.0, 20)).clips
    assert model(found).argmax(1).tolist() == [1, 1]
    for i in range(2):
        normal = model.weights[1].double().numpy()
        shortest = optimum(clips[i].double().numpy().ravel(), normal, float(gaps[i]), norm)
        assert shortest is not None
        # 1.05 of the way to the boundary is not 1.05 of the distance once values meet the box.
        assert shortest * (1 - 1e-6) <= float(size_of(found - clips, norm)[i]) <= 1.03 * shortest


def test_untargeted_goes_to_the_nearest_boundary_and_targeted_to_the_likeliest_class() -> None:
    """Class 1 is second, but class 2 rises ten times as fast."""
    weights = torch.zeros(3, N)
    weights[1, :], weights[2, :] = 0.1, 1.0
    model = Planes(weights, torch.tensor([0.0, -1.0 - 0.05 * N, -3.0 - 0.5 * N]))
    clips, labels = torch.full((1, *SHAPE), 0.5), torch.tensor([0])
    near, far = 3.0 / N, 1.0 / (0.1 * N)
    for how, distance in (
        ({"targeted": False}, near),
        ({"targets": 2}, near),
        ({"targeted": False, "targets": 1}, far),
    ):
        found = FAB(**how)(model, clips, labels, Budget(size=1.0, steps=1)).clips
        assert float((found - clips).max()) == pytest.approx(1.05 * distance, rel=1e-4), how


# --- torchattacks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_iterate_is_that_of_torchattacks(norm: str, targeted: bool, shape: tuple[int, int, int]) -> None:
    """From the clean clip, where neither draws a random number. Theirs projects in single precision."""
    model = Wavy(5)
    clips = draw(6, 3, *shape)
    labels = model(clips).argmax(1)
    size, steps = (0.3, 15) if norm == "linf" else (4.0, 15)
    images = OnImages(model, shape[0])
    # Two classes make one target: the runner-up.
    how = {"multi_targeted": True, "n_classes": 2} if targeted else {}
    name = {"linf": "Linf", "l2": "L2"}[norm]
    theirs = torchattacks.FAB(images, norm=name, eps=size, steps=steps, **how)(clips.flatten(2, 3), labels)
    shown = OnImages(model, shape[0])
    log = Target(lambda x, rows: shown(x.flatten(2, 3)), 6)
    ours = FAB(targeted=targeted, targets=1 if targeted else 4)(log, clips, labels, Budget(norm, size, steps)).clips
    # Their first calls are three looks at the clean clips (two if untargeted) where ours has one, the last a check.
    begin = 3 if targeted else 2
    assert len(shown.seen) == 1 + 2 * steps
    for mine, other in zip(shown.seen[1:], images.seen[begin : begin + 2 * steps], strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=2e-6)
    mine, other = size_of(ours - clips, norm), size_of(theirs.view_as(clips) - clips, norm)
    torch.testing.assert_close(mine, other, rtol=3e-5, atol=2e-7)
    assert (model(ours).argmax(1) != labels).all()


# --- what is returned, and what it costs ----------------------------------------------------------------------


def test_clips_leave_when_the_first_is_enough() -> None:
    model = two_classes(1.0)
    pull = model.weights[1]
    nearest = 1.0 / float(pull.abs().sum())
    wrong = torch.full(SHAPE, 0.5) + 0.2 * pull.sign().reshape(SHAPE)
    clips, labels = torch.stack([torch.full(SHAPE, 0.5), torch.full(SHAPE, 0.5), wrong]), torch.tensor([0, 0, 0])
    sizes = torch.tensor([1.1, 0.5, 1.0]).double() * nearest
    budget = Budget("linf", sizes, steps=4, restarts=3)
    first, closest = Target.of(model, 3), Target.of(model, 3)
    quick = FAB(keep="first")(first, clips, labels, budget).clips
    slow = FAB()(closest, clips, labels, budget).clips
    for found in (quick, slow):
        assert model(found).argmax(1).tolist() == [1, 0, 1]
        assert torch.equal(found[1:], clips[1:])  # out of reach, and wrong as it was
    assert first.forwards.tolist() == [1 + 2, 1 + 2 * 12, 1]
    assert first.backwards.tolist() == [1, 12, 0]
    assert closest.forwards.tolist() == [1 + 2 * 12, 1 + 2 * 12, 1]
    distances = size_of(torch.stack([quick[0], slow[0]]) - clips[:1], "linf") / nearest
    assert distances.tolist() == pytest.approx([1.05, 1.005], abs=0.004)


def test_the_closest_of_all_runs_is_kept() -> None:
    """Three targets, the likeliest the farthest: each run's result is known, and the middle one is best."""
    weights = torch.zeros(4, N)
    for k, steepness in ((1, 0.1), (2, 1.0), (3, 0.3)):
        weights[k] = steepness
    model = Planes(weights, torch.tensor([0.0, -1.0, -2.0, -3.0]) - 0.5 * weights.sum(1))
    clips, labels = torch.full((1, *SHAPE), 0.5), torch.tensor([0])
    found = FAB(targets=3)(model, clips, labels, Budget(size=1.0, steps=1)).clips
    assert float((found - clips).max()) == pytest.approx(1.05 * 2.0 / N, rel=1e-4)
    assert int(model(found).argmax()) == 2


@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("keep", ["closest", "first"])
def test_an_unbroken_clip_costs_exactly_what_is_promised(targeted: bool, keep: str) -> None:
    counted = [0, 0]
    model = Planes(torch.ones(4, N) * torch.arange(4)[:, None] * 1e-3, torch.tensor([0.0, -9.0, -9.5, -10.0]))

    class Notice(torch.autograd.Function):
        """The identity; counts backward passes, of which one graph may see several."""

        @staticmethod
        def forward(ctx: Any, clips: Tensor) -> Tensor:
            return clips.clone()

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            counted[1] += 1
            return grads[0]

    def look(x: Tensor, rows: Tensor) -> Tensor:
        counted[0] += 1
        return model(Notice.apply(x))

    target, attack = Target(look, 2), FAB(targeted=targeted, targets=3, keep=keep)
    budget = Budget(size=0.01, steps=5, restarts=2)
    attack(target, torch.full((2, *SHAPE), 0.5), torch.tensor([0, 0]), budget)
    promised = attack.passes(budget)
    assert promised == ((1 + 2 * 5 * 2 * 3, 5 * 2 * 3) if targeted else (1 + 2 * 5 * 2, 5 * 2 * 3))
    assert target.forwards.tolist() == [promised[0]] * 2
    assert target.backwards.tolist() == [promised[1]] * 2
    assert tuple(counted) == promised


def test_later_starts_are_random_and_half_as_far_as_the_closest() -> None:
    model = two_classes(1.0)
    nearest = 1.0 / float(model.weights[1].abs().sum())
    seen: list[Tensor] = []

    def look(x: Tensor, rows: Tensor) -> Tensor:
        if x.requires_grad:
            seen.append(x.detach().clone())
        return model(x)

    clips = torch.full((2, *SHAPE), 0.5)
    sizes = torch.tensor([5.0, 0.5]).double() * nearest
    FAB()(Target(look, 2), clips, torch.tensor([0, 0]), Budget("linf", sizes, steps=1, restarts=3))
    assert torch.equal(seen[0], clips)
    for start in seen[1:]:
        reached = size_of(start - clips, "linf") / nearest
        # Half of 1.05, found in the first run, for clip 0; half the size for clip 1.
        assert (reached <= torch.tensor([1.05, 0.5]) / 2 * (1 + 1e-4)).all()
        assert (reached >= torch.tensor([1.05, 0.5]) / 2 * 0.85).all()
    assert not torch.equal(seen[1], seen[2])


def test_a_second_objective_does_not_move_the_boundary() -> None:
    model = Wavy(5)
    clips = draw(3, *SHAPE)
    labels = model(clips).argmax(1)

    def look(x: Tensor, rows: Tensor) -> Answer:
        logits = model(x)
        return Answer(logits, logits.detach().argmax(1), 100 * x.flatten(1).square().sum(1))

    budget = Budget(size=0.2, steps=6)
    assert torch.equal(FAB()(Target(look, 3), clips, labels, budget).clips, FAB()(model, clips, labels, budget).clips)


# --- any clip, any budget -------------------------------------------------------------------------------------


@few
@given(st.data())
def test_it_stays_inside_every_budget(data: st.DataObject) -> None:
    batch, *shape = (data.draw(st.integers(1, n)) for n in (3, 4, 7, 7))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    norm = data.draw(st.sampled_from(["linf", "l2"]))
    size = data.draw(st.floats(0, 0.6 if norm == "linf" else 4.0))
    steps, restarts = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 2))
    how: dict[str, Any] = {
        "targeted": data.draw(st.booleans()),
        "targets": 2,
        "keep": data.draw(st.sampled_from(["closest", "first"])),
    }
    clips = draw(batch, 3, *shape, seed=steps, low=-0.3, high=1.3).clamp(0, 1).to(dtype)
    model = Wavy(4)
    labels = model(clips).argmax(1)
    target, budget = Target.of(model, batch), Budget(norm, size, steps, restarts=restarts)
    found = FAB(**how)(target, clips, labels, budget).clips
    assert (found.dtype, found.shape) == (dtype, clips.shape)
    assert [violation(c, f, budget) for c, f in zip(clips, found, strict=True)] == [None] * batch
    changed = (found != clips).flatten(1).any(1)
    assert ((model(found).argmax(1) != labels) == changed).all()  # broken, or handed back
    forwards, backwards = FAB(**how).passes(budget)
    assert int(target.forwards.max()) <= forwards
    assert int(target.backwards.max()) <= backwards


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("how", [{}, {"targeted": False}, {"keep": "first"}])
def test_the_result_does_not_depend_on_the_batch(norm: str, how: dict[str, Any]) -> None:
    model = Wavy(5)
    clips = draw(3, 3, 1, 5, 7)
    labels = model(clips).argmax(1)
    sizes = torch.tensor([0.02, 0.05, 0.3]) * (1 if norm == "linf" else 8)

    def run(rows: list[int]) -> Tensor:
        budget = Budget(norm, sizes[rows], steps=4, restarts=2)
        return FAB(targets=2, **how)(model, clips[rows], labels[rows], budget, ClipRandom([7 + r for r in rows])).clips

    together = run([0, 1, 2])
    assert not torch.equal(together, clips)
    for i in range(3):
        assert torch.equal(together[i], run([i])[0])


# --- bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ({"stochastic": True}, r"^FAB walks along the boundary .* use eot around apgd, or autoattack"),
        ({"transfer": True}, r"^FAB returns clips that barely fool .* use apgd or pgd"),
    ],
)
def test_targets_it_can_do_nothing_for_are_refused(kind: dict[str, bool], message: str) -> None:
    target = Target(lambda x, rows: two_classes(1.0)(x), 1, **kind)
    with pytest.raises(BenchError, match=message):
        FAB()(target, torch.full((1, *SHAPE), 0.5), torch.tensor([0]), Budget())
    assert target.forwards.tolist() == [0]
    # Plans are told before they are made, also through eot.
    for attack in (FAB(), ATTACKS.create("eot(attack='fab')")):
        said = attack.refuses(**{"stochastic": False, "transfer": False, **kind})
        assert re.search(message, said)
        assert attack.refuses(stochastic=False, transfer=False) is None


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"targets": 0}, r"targets must be a whole number of at least 1"),
        ({"keep": "last"}, r"keep must be closest or first, not 'last'"),
        ({"alpha_max": 1.5}, r"alpha_max must be between 0 and 1, not 1\.5"),
        ({"eta": 0.9}, r"eta must be at least 1, not 0\.9"),
        ({"beta": 1.0}, r"beta must be between 0 and 1, not 1\.0"),
    ],
)
def test_impossible_options_are_refused(how: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        ATTACKS.create({"name": "fab", **how})
