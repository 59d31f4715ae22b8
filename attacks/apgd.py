"""Auto-PGD: projected gradient ascent that finds its own step size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from bench import (
    LOSSES,
    Attack,
    AttackResult,
    BenchError,
    Best,
    Budget,
    ClipRandom,
    Objective,
    Survivors,
    Target,
    at_least,
    fetch,
    loss_of,
    nearest,
    register,
    targeted_dlr,
    upload,
)

_TARGETED = "targeted-dlr"
# Share of a step that follows the gradient; the rest is the last move once more. The first step has none.
_PLAIN = 0.75


@register(
    "apgd",
    source="Croce and Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free "
    "Attacks, ICML 2020 (arXiv 2003.01690), sections 3 and 4",
)
class APGD(Attack):
    """Auto-PGD in the linf or l2 ball: the only free parameter is the number of steps.

    From a random point on the edge of the ball, ``z = project(x + a * direction(gradient))`` and
    ``x <- project(x + .75 (z - x) + .25 (x - previous x))``, where ``a`` starts at ``2 * size`` (or the budget's step
    size). At checkpoints that come ever faster (:func:`checkpoints`), ``a`` is halved and the walk goes back to its
    best point if too few steps since the last checkpoint raised the loss, or if the best loss is what it was then and
    ``a`` was not halved there.

    The first iterate that is misclassified is returned, and its clip leaves the batch. For transfer every step is
    taken, and of the misclassified iterates the one of highest loss is returned. On a randomised target one wrong
    answer proves nothing, so the iterate of highest loss is returned, whatever the answers were; put ``eot`` around it
    to climb the expectation.

    A run of ``k`` steps looks at ``k + 1`` points, for a forward pass each, and a backward pass at all but the last; so
    does each restart, and each target class. ``targeted-dlr`` costs one forward pass more, to rank the classes.

    The rule is the paper's. The authors' code differs: it compares the first step with a loss of zero instead of the
    start's, and the step after a return with the point that was left instead of the best one; it also halves where
    *exactly* the share ``rho`` of the steps rose, and never for a stalled best loss at the first checkpoint.

    Args:
        loss: ``ce``, ``dlr`` (difference of logits ratio), ``margin``, or ``targeted-dlr``: the ratio towards one wrong
            class, tried with several in turn.
        targets: how many wrong classes ``targeted-dlr`` tries, the likeliest first; all there are, if fewer.
        rho: share of the steps between two checkpoints that must raise the loss.
    """

    def __init__(self, loss: str = "ce", targets: int = 9, rho: float = 0.75) -> None:
        known = [*LOSSES, _TARGETED]
        if loss not in known:
            raise BenchError(f"Unknown loss {loss!r}{nearest(loss, known)}; known: {', '.join(known)}.")
        at_least("targets", targets, 1)
        if not 0 < rho <= 1:
            raise ValueError(f"rho must be above 0 and at most 1, not {rho!r}")
        self.loss, self.targets, self.rho = loss, targets, rho

    def passes(self, budget: Budget) -> tuple[int, int]:
        targeted = self.loss == _TARGETED
        runs = budget.restarts * (self.targets if targeted else 1)
        return (budget.steps + 1) * runs + targeted, budget.steps * runs

    def run(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> AttackResult:
        best, left = Best(clips, of_equals="earlier"), Survivors(clips, labels, budget, rng)
        due = checkpoints(budget.steps)
        traces = []
        for classes, objective in self._climbs(target, clips, labels):
            for _ in range(budget.restarts):
                traces.append(torch.full((budget.steps + 1, len(clips)), float("nan"), dtype=torch.float32))
                if len(left):
                    self._climb(target, left, best, traces[-1], classes, objective, due)
        return AttackResult(best.clips, torch.cat(traces))

    def _climb(
        self,
        target: Target,
        left: Survivors,
        best: Best,
        trace: Tensor,
        classes: Tensor,
        objective: Objective,
        due: list[int],
    ) -> None:
        """One start: ``steps + 1`` looks, and a move after each but the last."""
        checked, last = 0, len(trace) - 1
        walk = _Walk.start(left.clips, left.budget, left.rng)
        for step in range(len(trace)):
            aim = left.of(classes)
            if step < last:
                value, gradient, decision = target.gradient(walk.x, left.rows, aim, objective)
            else:  # nothing is climbed any more
                (value, decision), gradient = target.value(walk.x, left.rows, aim, objective), walk.gradient
            # The only time that a step waits for the device.
            loss, wrong = fetch(value, left.wrong(decision))
            trace[step, left.rows] = loss.float()
            best.keep(walk.x, loss, wrong * (not target.stochastic), left.rows)
            if target.decisive and bool(wrong.any()):
                right = left.drop(wrong > 0)
                walk, loss, gradient = walk.select(right), loss[wrong == 0], gradient[right]
                if not len(left):
                    return
            if step == last:
                return
            walk.look(loss, gradient)
            if step in due:
                walk.check(self.rho * (step - checked))
                checked = step
            walk.move(left, _PLAIN if step else 1.0)

    def _climbs(self, target: Target, clips: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Objective]]:
        """What is climbed, in turn: an objective, and the ``(B,)`` classes that it is given."""
        if self.loss != _TARGETED:
            yield labels, loss_of(self.loss)
            return
        with torch.no_grad():
            logits = target(clips)
        targeted_dlr(logits, labels, labels)  # complains before any effort if there are too few classes
        count = logits.shape[1]
        wrong = logits.double().scatter(1, labels[:, None], float("-inf"))
        for goal in wrong.topk(min(self.targets, count - 1), dim=1).indices.unbind(1):
            # Two classes in one number: whoever repeats or reorders clips for this objective cannot part them.
            yield labels * count + goal, _towards


def checkpoints(steps: int) -> list[int]:
    """After which steps the step size is looked at: first after 22 % of them, then after ever shorter windows.

    Each window is 3 % of the steps shorter than the one before, down to 6 %, each share rounded down to whole steps and
    at least one; 100 steps give 22, 41, 57, 70, 80, 87, 93, 99.

    Source: section 3 of the paper, in whole steps as in the authors' code.
    """
    window, shrink, least = (max(percent * steps // 100, 1) for percent in (22, 3, 6))
    found = []
    at = window
    while at <= steps:
        found.append(at)
        window = max(window - shrink, least)
        at += window
    return found


def _towards(logits: Tensor, classes: Tensor) -> Tensor:
    """:func:`targeted_dlr` of two classes in one number: ``true * K + goal``."""
    count = logits.shape[1]
    return targeted_dlr(logits, classes // count, classes % count)


@dataclass
class _Walk:
    """Where a run stands; one row per clip that is still in it. What is of one number a clip is on the CPU.

    Attributes:
        x, previous: this iterate and the one it was made from, ``(b, 3, T, H, W)``. They are never changed in place.
        length: of a step, ``(b,)``.
        gradient: at ``x``. loss: at ``x``, ``float64 (b,)``.
        top, top_gradient, top_loss: the iterate of highest loss so far.
        checked: ``top_loss`` at the last checkpoint.
        rises: steps since then that raised the loss.
        halved: whether the step size was halved there.
        owned: whether ``top`` and ``top_gradient`` are this run's own, and may be changed in place.
    """

    x: Tensor
    previous: Tensor
    length: Tensor
    gradient: Tensor
    loss: Tensor
    top: Tensor
    top_gradient: Tensor
    top_loss: Tensor
    checked: Tensor
    rises: Tensor
    halved: Tensor
    owned: bool = False

    @classmethod
    def start(cls, clips: Tensor, budget: Budget, rng: ClipRandom) -> _Walk:
        """A random point on the edge of the ball: a direction, stretched until it is as long as the ball allows."""
        size = torch.as_tensor(budget.size, dtype=clips.dtype).cpu().expand(len(clips))
        if budget.norm == "linf":
            way = 2 * rng.uniform(*clips.shape[1:], device=clips.device).to(clips.dtype) - 1
            reach = way.flatten(1).abs().amax(1)
        else:
            way = rng.normal(*clips.shape[1:], device=clips.device).to(clips.dtype)
            reach = way.flatten(1).norm(dim=1)
        stretch = upload(size, clips) / reach.clamp_min(1e-30)
        x = budget.geometry.project(clips + way * _column(stretch), clips, budget.size)
        length = 2 * size if budget.step_size is None else torch.full_like(size, budget.step_size)
        none = torch.zeros(len(x), dtype=torch.int64)
        unknown = torch.full((len(x),), float("nan"), dtype=torch.float64)
        return cls(x, x, length, x, unknown, x, x, unknown, unknown, none, none.bool())

    def select(self, which: Tensor) -> _Walk:
        """The same, of some of the clips: ``int64``, on their device."""
        cpu = which.cpu()
        rows = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "owned"}
        return _Walk(**{k: v[which if v.ndim > 1 else cpu] for k, v in rows.items()}, owned=True)

    def look(self, loss: Tensor, gradient: Tensor) -> None:
        """Takes note of loss and gradient at ``x``."""
        first = self.top_loss.isnan()
        self.rises = self.rises + (loss > self.loss)  # never at the start: the loss before it is not a number
        higher = first | (loss > self.top_loss)
        self.top_loss = torch.where(higher, loss, self.top_loss)
        self.checked = torch.where(first, loss, self.checked)
        self.loss, self.gradient = loss, gradient
        if higher.all():
            self.top, self.top_gradient, self.owned = self.x, gradient, False
        elif higher.any():
            if not self.owned:
                self.top, self.top_gradient, self.owned = self.top.clone(), self.top_gradient.clone(), True
            rows = upload(higher.nonzero()[:, 0], self.x)
            self.top[rows], self.top_gradient[rows] = self.x[rows], gradient[rows]

    def check(self, enough: float) -> None:
        """A checkpoint: shorter steps, from the best point, where fewer than ``enough`` steps raised the loss."""
        stalled = (self.top_loss == self.checked) & ~self.halved
        self.halved = stalled | (self.rises < enough)
        self.length = torch.where(self.halved, self.length / 2, self.length)
        self.loss = torch.where(self.halved, self.top_loss, self.loss)
        self.checked, self.rises = self.top_loss, torch.zeros_like(self.rises)
        back = _column(upload(self.halved, self.x))
        self.x = torch.where(back, self.top, self.x)
        self.gradient = torch.where(back, self.top_gradient, self.gradient)

    def move(self, left: Survivors, plain: float) -> None:
        """One step, ``plain`` of which follows the gradient and the rest the last move."""
        direction = left.budget.geometry.direction(self.gradient)
        onward = left.project(torch.addcmul(self.x, direction, _column(upload(self.length, self.x))))
        if plain < 1:
            # x + plain (aim - x) + (1 - plain) (x - previous), in place.
            onward.mul_(plain).add_(self.x, alpha=2 - 2 * plain).sub_(self.previous, alpha=1 - plain)
            onward = left.project(onward)
        self.previous, self.x = self.x, onward


def _column(values: Tensor) -> Tensor:
    """One value per clip ``(b,)``, shaped to meet clips ``(b, 3, T, H, W)``."""
    return values[:, None, None, None, None]
