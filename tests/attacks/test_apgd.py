"""APGD against a plain computation of the paper's algorithm, torchattacks, and classifiers with a known optimum."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
import torchattacks
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.draws import draw
from kit.networks import OnImages, Wavy
from torch import Tensor, nn

from bench import BenchError, Budget, ClipRandom, Target
from bench.attack.losses import cross_entropy, loss_of, targeted_dlr
from bench.attack.target import Answer, Climb, Objective, Transform
from bench.attacks.apgd import APGD, checkpoints
from bench.registry import ATTACKS
from bench.run.judge import violation

SHAPE = (3, 2, 4, 5)
N = math.prod(SHAPE)
few = settings(max_examples=20, deadline=None, derandomize=True, database=None)


class Linear(nn.Module):
    """``W flatten(x) + b``; classes 0 and 1 decide, the others are far behind."""

    def __init__(self, gap: float, seed: int = 0, classes: int = 4) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        signs = torch.randint(0, 2, (N,), generator=generator) * 2.0 - 1.0
        self.pull = 0.01 * signs * (0.5 + torch.rand(N, generator=generator))  # weights of class 1 minus class 0
        self.gap, self.classes = gap, classes
        self.at = torch.full((N,), 0.5)  # where class 0 is ahead by `gap`

    def forward(self, clips: Tensor) -> Tensor:
        ahead = ((clips.flatten(1) - self.at) * self.pull).sum(1) - self.gap
        far = torch.full_like(ahead, -1000.0)
        return torch.stack([torch.zeros_like(ahead), ahead, *(far - k for k in range(self.classes - 2))], 1)


@dataclass
class Log:
    """A target's function that notes everything it is shown and answers."""

    model: nn.Module
    rows: list[list[int]] = field(default_factory=list)
    clips: list[Tensor] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)

    def __call__(self, clips: Tensor, rows: Tensor) -> Tensor:
        logits = self.model(clips)
        self.rows.append(rows.tolist())
        self.clips.append(clips.detach().clone())
        self.logits.append(logits.detach().clone())
        return logits

    def of(self, row: int) -> list[tuple[Tensor, Tensor]]:
        """What one clip of the batch went through: iterates and their logits."""
        return [
            (clips[rows.index(row)], logits[rows.index(row)])
            for rows, clips, logits in zip(self.rows, self.clips, self.logits, strict=True)
            if row in rows
        ]


class Replay(ClipRandom):
    """Hands out given numbers, one tensor ``(B, ...)`` for all draws."""

    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def select(self, rows: Any) -> Replay:
        return Replay(self.numbers[rows])

    def uniform(self, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        return self.numbers

    def normal(self, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        return self.numbers


def attack(
    model: nn.Module | Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom | None = None, **how: Any
) -> Tensor:
    return APGD(**how)(model, clips, labels, budget, rng).clips


# --- the paper's algorithm, the plain way ---------------------------------------------------------------------


def plain_apgd(
    ascent: Callable[[np.ndarray], tuple[float, np.ndarray]],
    clip: np.ndarray,
    budget: Budget,
    start: np.ndarray,
    *,
    as_released: bool = False,
    rho: float = 0.75,
) -> list[np.ndarray]:
    """Algorithm 1 of the paper on one clip: the points it looks at.

    Args:
        ascent: loss and gradient at a point.
        start: the direction of the first point, of any length.
        as_released: with the four deviations of the authors' code.
    """
    size, n = float(budget.size), budget.steps

    def length(v: np.ndarray) -> float:
        return float(np.abs(v).max() if budget.norm == "linf" else np.sqrt((v**2).sum()))

    def project(point: np.ndarray) -> np.ndarray:
        if budget.norm == "linf":
            return np.clip(np.clip(point, clip - size, clip + size), 0, 1)
        return np.clip(clip + (point - clip) * min(1.0, size / max(length(point - clip), 1e-300)), 0, 1)

    def unit(gradient: np.ndarray) -> np.ndarray:
        return np.sign(gradient) if budget.norm == "linf" else gradient / (length(gradient) + 1e-12)

    x = previous = project(clip + size * start / length(start))
    loss, gradient = ascent(x)
    seen, best, top_gradient = [x], (loss, x), gradient
    came_from = 0.0 if as_released else loss
    eta, rises, checked, just_halved = 2 * size, [], loss, as_released
    window, shrink, least = max(int(0.22 * n), 1), max(int(0.03 * n), 1), max(int(0.06 * n), 1)
    for k in range(n):
        share = 0.75 if k else 1.0
        z = project(x + eta * unit(gradient))
        x, previous = project(x + share * (z - x) + (1 - share) * (x - previous)), x
        loss, gradient = ascent(x)
        seen.append(x)
        rises.append(np.float32(loss) > np.float32(came_from) if as_released else loss > came_from)
        came_from = loss
        if loss > best[0]:
            best, top_gradient = (loss, x), gradient
        if len(rises) == window:
            few = sum(rises) <= rho * window if as_released else sum(rises) < rho * window
            just_halved = few or (not just_halved and best[0] == checked)
            checked, rises = best[0], []
            window = max(window - shrink, least)
            if just_halved:
                eta, x, gradient = eta / 2, best[1], top_gradient
                came_from = came_from if as_released else best[0]
    return seen


def ascent_of(model: nn.Module, loss: Objective, label: Tensor, shape: tuple[int, ...]) -> Any:
    def ascent(point: np.ndarray) -> tuple[float, np.ndarray]:
        x = torch.from_numpy(point).reshape(1, *shape).requires_grad_(True)
        value = loss(model(x), label[None])
        (gradient,) = torch.autograd.grad(value.sum(), x)
        return value.item(), gradient.numpy().ravel()

    return ascent


CASES = [
    ("linf", 10, "ce", 0.06),
    ("linf", 20, "dlr", 0.015),
    ("l2", 10, "dlr", 0.08),
    ("l2", 20, "ce", 0.7),
    ("linf", 13, "targeted-dlr", 0.1),
]


# Frames, height and width: a picture, and a clip, which torchattacks is shown as one.
SHAPES = [(1, 7, 6), (2, 4, 5)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("norm", "steps", "name", "size"), CASES)
def test_every_iterate_is_that_of_the_paper(
    norm: str, steps: int, name: str, size: float, shape: tuple[int, int, int]
) -> None:
    """Plain computation = torchattacks where told to deviate as it does; = ours where not. From the same starts."""
    model = Wavy(5, steepness=0.3).double()
    clips = draw(6, 3, *shape).double()
    shown = clips.flatten(2, 3)
    logits = model(clips).detach()
    labels, aim = logits.argmax(1), logits.topk(2).indices[:, 1]
    budget = Budget(norm, size, steps)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # theirs does the same
        numbers = torch.rand(shown.shape) if norm == "linf" else torch.randn(shown.shape)
        pictures = OnImages(model, shape[0])
        common = {"norm": {"linf": "Linf", "l2": "L2"}[norm], "eps": size, "steps": steps}
        if name == "targeted-dlr":
            torchattacks.APGDT(pictures, n_classes=2, **common)(shown, labels)  # the runner-up only
        else:
            torchattacks.APGD(pictures, loss=name, **common)(shown, labels)
    theirs = torch.stack(pictures.seen[-(steps + 1) :], 1)

    log = Log(model)
    # As for transfer: neither leaves the batch.
    attack(
        Target(log, 6, transfer=True), clips, labels, budget, Replay(numbers.view(clips.shape)), loss=name, targets=1
    )
    ours = torch.stack(log.clips[-(steps + 1) :], 1)

    ways = 2 * numbers - 1 if norm == "linf" else numbers
    agree, compared = 0, 0
    for i in range(6):
        loss: Objective = loss_of(name) if name != "targeted-dlr" else _towards(aim[i : i + 1])
        ascent = ascent_of(model, loss, labels[i], clips.shape[1:])
        clip, way = clips[i].numpy().ravel(), ways[i].double().numpy().ravel()
        released = np.stack(plain_apgd(ascent, clip, budget, way, as_released=True))
        paper = np.stack(plain_apgd(ascent, clip, budget, way))
        if name == "dlr" and max(ascent(point)[0] for point in paper) > 1 - 1e-9:
            continue  # the true class is third: the loss is 1 whatever is done, and its gradient rounding
        compared += 1
        np.testing.assert_allclose(theirs[i].flatten(1), released, rtol=0, atol=1e-6)  # parts of theirs are float32
        np.testing.assert_allclose(ours[i].flatten(1), paper, rtol=0, atol=1e-9)
        if np.array_equal(released, paper):
            agree += 1
            torch.testing.assert_close(ours[i].flatten(2, 3), theirs[i], rtol=0, atol=1e-6)
    assert compared >= 4
    assert agree or name == "dlr" or shape != SHAPES[0]  # theirs never counts the first step


def _towards(aim: Tensor) -> Objective:
    return lambda logits, labels: targeted_dlr(logits, labels, aim)


class Script(Target):
    """Answers with given losses ``(S,)`` and gradients ``(S, N)``, one after another, whatever it is shown."""

    def __init__(self, losses: np.ndarray, gradients: np.ndarray) -> None:
        super().__init__(lambda x, rows: x.flatten(1), 1, transfer=True)
        self.losses, self.gradients = torch.from_numpy(losses), torch.from_numpy(gradients)
        self.seen: list[np.ndarray] = []

    def gradient(
        self,
        clips: Tensor,
        rows: Tensor | None,
        labels: Tensor,
        objective: Objective,
        then: Transform | None = None,
        weights: Tensor | None = None,
    ) -> Climb:
        k = len(self.seen)
        self.seen.append(clips[0].numpy().ravel().copy())
        return Climb(self.losses[k : k + 1], self.gradients[k].reshape(clips.shape), labels)

    def value(self, clips: Tensor, rows: Tensor | None, labels: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
        climb = self.gradient(clips, rows, labels, objective)
        return climb.value, climb.decision


def sawtooth(steps: int) -> np.ndarray:
    """Never again as high as at the start, and rising at every step but the first and those after a return."""
    return np.r_[1000.0, np.arange(steps)]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("script", ["sawtooth", "up and down", "mostly up", "flat"])
def test_step_sizes_follow_the_losses_as_in_the_paper(norm: str, script: str) -> None:
    """Losses that no classifier would give try all ways through the two conditions, with ties and plateaus."""
    for steps, seed in ((100, 0), (30, 1), (17, 2)):
        draws = np.random.default_rng(seed)
        losses = {
            "sawtooth": sawtooth(steps),
            "up and down": draws.integers(-3, 4, steps + 1).cumsum(),
            "mostly up": np.where(draws.random(steps + 1) < 0.8, 1, -4).cumsum(),
            "flat": np.zeros(steps + 1),
        }[script].astype(float)
        gradients = draws.normal(size=(steps + 1, N))
        clips, budget = draw(1, *SHAPE).double(), Budget(norm, 0.1 if norm == "linf" else 1.0, steps)
        way = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(seed))
        target, answers = Script(losses, gradients), iter(zip(losses, gradients, strict=True))
        attack(target, clips, torch.tensor([0]), budget, Replay(way))
        start = (2 * way - 1 if norm == "linf" else way)[0].double().numpy().ravel()
        expected = plain_apgd(lambda point, answers=answers: next(answers), clips[0].numpy().ravel(), budget, start)
        np.testing.assert_allclose(np.stack(target.seen), np.stack(expected), rtol=0, atol=1e-9)


def test_a_stalled_best_halves_the_step_at_every_other_checkpoint() -> None:
    """By hand, for the sawtooth: every window has its rises, and the start stays best, so that only the second
    condition can halve, and not twice in a row: after steps 22, 57, 80 and 93 of 100."""
    target = Script(sawtooth(100), np.ones((101, N)))
    clips, middle = torch.full((1, *SHAPE), 0.5, dtype=torch.float64), torch.full((1, *SHAPE), 0.5)
    # A start in the middle of the ball and short steps, always upwards, which never reach its edge.
    attack(target, clips, torch.tensor([0]), Budget("linf", 0.4, 100, 0.0004), Replay(middle))
    level = np.array([point[0] for point in target.seen])
    assert level.max() < 0.5 + 0.4
    before = np.array([22, 41, 57, 70, 80, 87, 93, 99]) - 1
    expected = 0.0004 * np.array([1, 1 / 2, 1 / 2, 1 / 4, 1 / 4, 1 / 8, 1 / 8, 1 / 16])
    # Within 2 %: what momentum has not forgotten of the return.
    np.testing.assert_allclose(level[before] - level[before - 1], expected, rtol=0.02)


def test_checkpoints_of_the_sheets_and_of_the_paper() -> None:
    assert checkpoints(10) == [2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert checkpoints(1) == [1]
    for steps in (100, 200, 1000):  # where no share of the steps has to be rounded
        before, now, expected = Fraction(0), Fraction(22, 100), []
        while now <= 1:
            expected.append(math.ceil(now * steps))
            before, now = now, now + max(now - before - Fraction(3, 100), Fraction(6, 100))
        assert checkpoints(steps) == expected
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]


# --- known optima ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["ce", "dlr", "margin", "targeted-dlr"])
@pytest.mark.parametrize(("norm", "steps", "slack"), [("linf", 5, 0.001), ("l2", 60, 0.01)])
def test_a_linear_classifier_is_lost_exactly_when_the_ball_reaches_the_boundary(
    norm: str, steps: int, slack: float, loss: str
) -> None:
    for seed in range(3):
        gap = 0.1 + 0.05 * seed
        model = Linear(gap, seed)
        clips, labels = torch.full((2, *SHAPE), 0.5), torch.tensor([0, 0])
        # Hoelder: a change d moves the margin by at most |d| times the dual norm of the weights.
        pull = model.pull.double()
        critical = gap / float(pull.abs().sum() if norm == "linf" else pull.norm())
        move = critical * (1.0 if norm == "linf" else float(pull.abs().max() / pull.norm()))
        assert move < 0.45  # the box is not in the way
        sizes = torch.tensor([critical * (1 - slack), critical * (1 + slack)], dtype=torch.float64)
        found = attack(model, clips, labels, Budget(norm, sizes, steps), loss=loss, targets=1)
        assert model(found).argmax(1).tolist() == [0, 1]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_loss_climbs_as_high_as_the_ball_allows(norm: str) -> None:
    """Never misclassified, so the iterate of highest loss comes back: the margin there is known in closed form."""
    model, size = Linear(50.0), 0.1 if norm == "linf" else 0.5
    clips = torch.full((3, *SHAPE), 0.5)
    found = attack(model, clips, torch.zeros(3, dtype=torch.int64), Budget(norm, size, 50), loss="margin")
    pull = model.pull.double()
    gain = ((found - clips).double().flatten(1) * pull).sum(1)
    best = size * float(pull.abs().sum() if norm == "linf" else pull.norm())
    assert gain.tolist() == pytest.approx([best] * 3, rel=1e-3 if norm == "l2" else 1e-5)


def test_the_start_lies_on_the_edge_of_the_ball() -> None:
    for norm, size in (("linf", 0.05), ("l2", 0.8)):
        log = Log(Linear(50.0))
        clips = torch.full((2, *SHAPE), 0.5)
        sizes = torch.tensor([size, size / 2])
        target = Target(log, 2)
        attack(target, clips, torch.zeros(2, dtype=torch.int64), Budget(norm, sizes, 1, restarts=2))
        first, again = log.clips[0], log.clips[2]
        assert not torch.equal(first, again)
        for start in (first, again):
            delta = (start - clips).double().flatten(1)
            reached = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
            torch.testing.assert_close(reached, sizes.double(), rtol=1e-5, atol=0)
            if norm == "linf":  # uniform, not all at the edge
                assert 0.3 < float((delta[0].abs() < size / 2).double().mean()) < 0.7


def test_the_budgets_step_size_is_the_first_one() -> None:
    model = Linear(50.0)
    clips = torch.full((1, *SHAPE), 0.5)
    for step_size, length in ((None, 0.2), (0.01, 0.01)):
        log = Log(model)
        attack(Target(log, 1), clips, torch.tensor([0]), Budget("linf", 0.1, 1, step_size))
        full = (log.clips[0] + length * model.pull.sign().reshape(SHAPE) - clips).clamp(-0.1, 0.1) + clips
        torch.testing.assert_close(log.clips[1], full, rtol=0, atol=1e-6)


# --- what is returned -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["decisive", "transfer", "stochastic"])
@pytest.mark.parametrize("loss", ["ce", "targeted-dlr"])
def test_each_kind_of_target_gets_the_iterate_it_should(kind: str, loss: str) -> None:
    """The rule is applied here to the log of all that the target was shown."""
    model = Wavy(5, steepness=2.0)
    clips = draw(8, *SHAPE)
    labels = model(clips).detach().argmax(1)
    log = Log(model)
    target = Target(log, 8, stochastic=kind == "stochastic", transfer=kind == "transfer")
    budget = Budget("linf", 0.02, steps=6, restarts=2)
    result = APGD(loss=loss, targets=2)(target, clips, labels, budget)
    targeted = loss == "targeted-dlr"
    order = model(clips).detach().scatter(1, labels[:, None], -torch.inf).argsort(1, descending=True)
    broken = 0
    assert result.trace is not None
    for i in range(8):
        seen = log.of(i)[1:] if targeted else log.of(i)  # without the pass that ranks the classes
        values = []
        for k, (_, logits) in enumerate(seen):
            aim = order[i, k // (7 * 2)]
            one = labels[i : i + 1]
            value = targeted_dlr(logits[None], one, aim[None]) if targeted else cross_entropy(logits[None], one)
            values.append(float(value))
        fooled = [k for k, (_, logits) in enumerate(seen) if int(logits.argmax()) != int(labels[i])]
        highest = max(range(len(seen)), key=values.__getitem__)
        broken += bool(fooled)
        if kind == "decisive":
            expected = fooled[0] if fooled else highest
            assert not fooled or fooled[0] == len(seen) - 1  # the clip left the batch
        elif kind == "transfer":
            expected = max(fooled, key=values.__getitem__) if fooled else highest
        else:
            expected = highest
        if kind != "decisive" or not fooled:
            assert len(seen) == 7 * 2 * (2 if targeted else 1)
        assert torch.equal(result.clips[i], seen[expected][0])
        trace = result.trace[:, i]
        assert trace[~trace.isnan()].tolist() == pytest.approx(values, rel=1e-5)
        assert int((~trace.isnan()).sum()) == len(seen)
    assert 2 <= broken <= 6  # both kinds of clips were there
    assert len(result.trace) == 7 * 2 * (2 if targeted else 1)


def test_a_lucky_draw_is_no_success() -> None:
    """The hard decision is wrong at the first look and right ever after, while the loss goes up step by step."""
    clips, labels = torch.full((1, *SHAPE), 0.5), torch.tensor([0])
    budget = Budget("linf", 0.05, steps=4)
    for stochastic, passes, top in ((False, 1, None), (True, 5, 0.55)):
        asked = []

        def look(x: Tensor, rows: Tensor, asked: list[int] = asked) -> Answer:
            asked.append(1)
            level = x.flatten(1).mean(1)
            return Answer(torch.stack([torch.zeros_like(level), level - 1], 1), torch.tensor([int(len(asked) == 1)]))

        target = Target(look, 1, stochastic=stochastic)
        found = attack(target, clips, labels, budget, loss="margin")
        assert int(target.forwards) == passes
        if top is None:
            assert float((found - clips).abs().min()) < 0.049  # the start, which the first look was at
        else:
            torch.testing.assert_close(found, torch.full_like(found, top), rtol=0, atol=1e-6)


def test_restarts_and_targets_are_spent_on_clips_that_need_them() -> None:
    """Clip 0 is lost to its runner-up at once, clip 1 never; with three classes behind, there are three targets."""
    easy, hard = Linear(1e-6), Linear(50.0)

    def look(x: Tensor, rows: Tensor) -> Tensor:
        return torch.stack([(easy if r == 0 else hard)(x[k : k + 1])[0] for k, r in enumerate(rows.tolist())])

    clips, labels = torch.full((2, *SHAPE), 0.5), torch.tensor([0, 0])
    target = Target(look, 2)
    result = APGD("targeted-dlr", targets=9)(target, clips, labels, Budget(size=0.05, steps=3, restarts=2))
    assert int(target.forwards[0]) <= 3
    assert target.forwards[1] == 1 + 3 * 2 * 4
    assert target.backwards[1] == 3 * 2 * 3
    assert result.trace is not None
    assert result.trace.shape == (3 * 2 * 4, 2)


# --- passes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["decisive", "transfer", "stochastic"])
@pytest.mark.parametrize("how", [{}, {"loss": "dlr"}, {"loss": "targeted-dlr", "targets": 2}])
@pytest.mark.parametrize(("steps", "restarts"), [(1, 1), (7, 3)])
def test_an_unbroken_clip_costs_exactly_what_is_promised(
    kind: str, how: dict[str, Any], steps: int, restarts: int
) -> None:
    counted = [0, 0]

    def look(x: Tensor, rows: Tensor) -> Tensor:
        counted[0] += 1
        if x.requires_grad:
            x.register_hook(lambda gradient: counted.__setitem__(1, counted[1] + 1))
        return Linear(50.0)(x)

    target = Target(look, 2, stochastic=kind == "stochastic", transfer=kind == "transfer")
    budget = Budget(size=0.01, steps=steps, restarts=restarts)
    APGD(**how)(target, torch.full((2, *SHAPE), 0.5), torch.tensor([0, 0]), budget)
    promised = APGD(**how).passes(budget)
    assert target.forwards.tolist() == [promised[0]] * 2
    assert target.backwards.tolist() == [promised[1]] * 2
    assert tuple(counted) == promised
    runs = restarts * how.get("targets", 1)
    assert promised == ((steps + 1) * runs + ("targets" in how), steps * runs)


# --- every way of asking goes through the target --------------------------------------------------------------


class Averaging(Target):
    """The mean over two draws that add opposite noise, shown in an order of its own: one draw, clips backwards."""

    def gradient(
        self,
        clips: Tensor,
        rows: Tensor | None,
        labels: Tensor,
        objective: Objective,
        then: Transform | None = None,
        weights: Tensor | None = None,
    ) -> Climb:
        assert rows is not None
        order = torch.arange(len(clips)).flip(0).repeat_interleave(2)
        climb = super().gradient(clips[order], rows[order], labels[order], objective, then, weights)
        gradient = climb.gradient.unflatten(0, (-1, 2)).mean(1).flip(0)
        return Climb(climb.value[::2].flip(0), gradient, climb.decision[::2].flip(0))

    def value(self, clips: Tensor, rows: Tensor | None, labels: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
        assert rows is not None
        order = torch.arange(len(clips)).flip(0).repeat_interleave(2)
        value, decision = super().value(clips[order], rows[order], labels[order], objective)
        return value[::2].flip(0), decision[::2].flip(0)


@pytest.mark.parametrize("loss", ["ce", "targeted-dlr"])
def test_a_target_may_repeat_and_reorder_clips(loss: str) -> None:
    model = Wavy(6, steepness=2.0)
    clips = draw(4, *SHAPE)
    labels = model(clips).detach().argmax(1)
    budget = Budget(size=0.02, steps=5)
    plain, other = Target.of(model, 4), Averaging(lambda x, rows: model(x), 4)
    assert torch.equal(
        attack(plain, clips, labels, budget, loss=loss, targets=2),
        attack(other, clips, labels, budget, loss=loss, targets=2),
    )
    ranking = int(loss == "targeted-dlr")
    assert (other.forwards - ranking).tolist() == (2 * (plain.forwards - ranking)).tolist()


def test_a_second_objective_is_climbed_too() -> None:
    """``diffattack``: what the target adds to the objective is part of the loss, of the trace and of the choice."""

    def look(x: Tensor, rows: Tensor) -> Answer:
        logits = torch.zeros(len(x), 3) + torch.tensor([1.0, 0.0, 0.0]) + 0 * x.sum()
        return Answer(logits, logits.detach().argmax(1), 3 * x.flatten(1).mean(1))

    clips = torch.full((1, *SHAPE), 0.5)
    result = APGD("margin")(Target(look, 1), clips, torch.tensor([0]), Budget(size=0.1, steps=5))
    torch.testing.assert_close(result.clips, clips + 0.1, rtol=0, atol=1e-6)
    assert result.trace is not None
    assert float(result.trace[-1]) == pytest.approx(-1 + 3 * 0.6, rel=1e-5)


def test_weights_take_no_gradient_and_input_is_left_alone() -> None:
    model, clips = Wavy(), draw(2, *SHAPE)
    before = clips.clone()
    found = attack(model, clips, torch.tensor([0, 1]), Budget(steps=3))
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(clips, before)
    assert not found.requires_grad


# --- any clip, any budget -------------------------------------------------------------------------------------


@few
@given(st.data())
def test_it_stays_inside_every_budget(data: st.DataObject) -> None:
    batch, *shape = (data.draw(st.integers(1, n)) for n in (3, 4, 7, 7))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    norm = data.draw(st.sampled_from(["linf", "l2"]))
    size = data.draw(st.floats(0, 0.6 if norm == "linf" else 4.0))
    steps, restarts = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 2))
    kind = data.draw(st.sampled_from(["decisive", "transfer", "stochastic"]))
    how: dict[str, Any] = {"loss": data.draw(st.sampled_from(["ce", "dlr", "margin", "targeted-dlr"])), "targets": 2}
    # Black and white, where the box is in the way, as well as gray.
    clips = draw(batch, 3, *shape, seed=steps, low=-0.3, high=1.3).clamp(0, 1).to(dtype)
    model = Wavy(4, steepness=3.0)
    labels = model(clips).detach().argmax(1)
    target = Target(lambda x, rows: model(x), batch, stochastic=kind == "stochastic", transfer=kind == "transfer")
    budget = Budget(norm, size, steps, restarts=restarts)
    found = attack(target, clips, labels, budget, **how)
    assert (found.dtype, found.shape) == (dtype, clips.shape)
    assert [violation(c, f, budget) for c, f in zip(clips, found, strict=True)] == [None] * batch
    forwards, backwards = APGD(**how).passes(budget)
    assert int(target.forwards.max()) <= forwards
    assert int(target.backwards.max()) <= backwards


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("how", [{}, {"loss": "targeted-dlr", "targets": 2}])
@pytest.mark.parametrize("kind", ["decisive", "stochastic"])
def test_the_result_does_not_depend_on_the_batch(norm: str, how: dict[str, Any], kind: str) -> None:
    model = Wavy(5, steepness=2.0)
    clips = draw(3, 3, 1, 5, 7)
    labels = model(clips).detach().argmax(1)
    sizes = torch.tensor([0.02, 0.01, 0.03]) * (1 if norm == "linf" else 8)

    def run(rows: list[int]) -> Tensor:
        target = Target(lambda x, _: model(x), len(rows), stochastic=kind == "stochastic")
        budget = Budget(norm, sizes[rows], steps=6, restarts=2)
        return attack(target, clips[rows], labels[rows], budget, ClipRandom([7 + r for r in rows]), **how)

    together = run([0, 1, 2])
    assert not torch.equal(together, clips)
    for i in range(3):
        assert torch.equal(together[i], run([i])[0])
    assert torch.equal(run([2, 0])[0], together[2])


# --- bad input ------------------------------------------------------------------------------------------------


def test_it_is_registered_with_its_source() -> None:
    made = ATTACKS.create("apgd(loss='targeted-dlr', targets=3, rho=0.5)")
    assert isinstance(made, APGD)
    assert (made.loss, made.targets, made.rho) == ("targeted-dlr", 3, 0.5)
    assert "2003.01690" in ATTACKS.get("apgd").source


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"loss": "dlrr"}, r"Unknown loss 'dlrr' \(did you mean 'dlr'\?\); known: .*targeted-dlr"),
        ({"targets": 0}, r"targets must be a whole number of at least 1, not 0"),
        ({"rho": 0.0}, r"rho must be above 0 and at most 1, not 0\.0"),
        ({"rho": float("nan")}, r"rho must be above 0"),
    ],
)
def test_unknown_options_are_refused(how: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        ATTACKS.create({"name": "apgd", **how})


@pytest.mark.parametrize(("loss", "classes", "least"), [("targeted-dlr", 3, 4), ("dlr", 2, 3)])
def test_too_few_classes_are_one_sentence(loss: str, classes: int, least: int) -> None:
    target = Target.of(Linear(50.0, classes=classes), 1)
    with pytest.raises(BenchError, match=rf"{loss} compares the {least} largest logits, .* {classes} classes: choose"):
        attack(target, torch.full((1, *SHAPE), 0.5), torch.tensor([0]), Budget(), loss=loss)
    assert target.backwards.tolist() == [0]
