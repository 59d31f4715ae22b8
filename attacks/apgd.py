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
    loss_of,
    nearest,
    register,
    targeted_dlr,
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

    A run of ``k`` steps looks at ``k + 1`` points, one forward and one backward pass each; so does each restart, and
    each target class. ``targeted-dlr`` costs one forward pass more, to rank the classes.

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
        looks = (budget.steps + 1) * budget.restarts * (self.targets if targeted else 1)
        return looks + targeted, looks

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
        checked = 0
        walk = _Walk.start(left.clips, left.budget, left.rng)
        for step in range(len(trace)):
            loss, gradient, decision = target.gradient(walk.x, left.rows, classes[left.rows], objective)
            loss = loss.double()
            trace[step, left.rows] = loss.float().cpu()
            wrong = left.wrong(decision)
            best.keep(walk.x, loss, wrong & (not target.stochastic), left.rows)
            if target.decisive and bool(wrong.any()):
                right = left.drop(wrong)
                walk, loss, gradient = walk.select(right), loss[right], gradient[right]
                if not len(left):
                    return
            walk.look(loss, gradient)
            if step in due:
                walk.check(self.rho * (step - checked))
                checked = step
            if step < len(trace) - 1:
                walk.move(left.clips, left.budget, _PLAIN if step else 1.0)

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
    """Where a run stands; one row per clip that is still in it.

    Attributes:
        x, previous: this iterate and the one it was made from, ``(b, 3, T, H, W)``.
        length: of a step, ``(b,)``.
        gradient: at ``x``. loss: at ``x``, ``float64 (b,)``.
        top, top_gradient, top_loss: the iterate of highest loss so far.
        checked: ``top_loss`` at the last checkpoint.
        rises: steps since then that raised the loss.
        halved: whether the step size was halved there.
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

    @classmethod
    def start(cls, clips: Tensor, budget: Budget, rng: ClipRandom) -> _Walk:
        """A random point on the edge of the ball: a direction, stretched until it is as long as the ball allows."""
        size = torch.as_tensor(budget.size, dtype=clips.dtype, device=clips.device).expand(len(clips))
        if budget.norm == "linf":
            way = 2 * rng.uniform(*clips.shape[1:], device=clips.device).to(clips.dtype) - 1
            reach = way.flatten(1).abs().amax(1)
        else:
            way = rng.normal(*clips.shape[1:], device=clips.device).to(clips.dtype)
            reach = way.flatten(1).norm(dim=1)
        x = budget.geometry.project(clips + way * _column(size / reach.clamp_min(1e-30)), clips, budget.size)
        length = 2 * size if budget.step_size is None else torch.full_like(size, budget.step_size)
        nothing, none = torch.zeros_like(x), torch.zeros(len(x), dtype=torch.int64, device=x.device)
        unknown = torch.full((len(x),), float("nan"), dtype=torch.float64, device=x.device)
        return cls(x, x, length, nothing, unknown, x, nothing, unknown, unknown, none, none.bool())

    def select(self, which: Tensor) -> _Walk:
        """The same, of some of the clips."""
        return _Walk(**{f.name: getattr(self, f.name)[which] for f in fields(self)})

    def look(self, loss: Tensor, gradient: Tensor) -> None:
        """Takes note of loss and gradient at ``x``."""
        first = self.top_loss.isnan()
        self.rises = self.rises + (loss > self.loss)  # never at the start: the loss before it is not a number
        higher = first | (loss > self.top_loss)
        self.top = torch.where(_column(higher), self.x, self.top)
        self.top_gradient = torch.where(_column(higher), gradient, self.top_gradient)
        self.top_loss = torch.where(higher, loss, self.top_loss)
        self.checked = torch.where(first, loss, self.checked)
        self.loss, self.gradient = loss, gradient

    def check(self, enough: float) -> None:
        """A checkpoint: shorter steps, from the best point, where fewer than ``enough`` steps raised the loss."""
        stalled = (self.top_loss == self.checked) & ~self.halved
        self.halved = stalled | (self.rises < enough)
        self.length = torch.where(self.halved, self.length / 2, self.length)
        self.x = torch.where(_column(self.halved), self.top, self.x)
        self.gradient = torch.where(_column(self.halved), self.top_gradient, self.gradient)
        self.loss = torch.where(self.halved, self.top_loss, self.loss)
        self.checked, self.rises = self.top_loss, torch.zeros_like(self.rises)

    def move(self, clips: Tensor, budget: Budget, plain: float) -> None:
        """One step, ``plain`` of which follows the gradient and the rest the last move."""
        ball = budget.geometry
        aim = ball.project(self.x + _column(self.length) * ball.direction(self.gradient), clips, budget.size)
        onward = self.x + plain * (aim - self.x) + (1 - plain) * (self.x - self.previous)
        self.previous, self.x = self.x, ball.project(onward, clips, budget.size)


def _column(values: Tensor) -> Tensor:
    """One value per clip ``(b,)``, shaped to meet clips ``(b, 3, T, H, W)``."""
    return values[:, None, None, None, None]
