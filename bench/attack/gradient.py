"""The loop shared by iterative gradient attacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from bench.attack.base import Attack, AttackResult
from bench.attack.best import Best
from bench.attack.goals import Goal, aim_at, check_goal
from bench.attack.losses import loss_of
from bench.attack.survivors import Survivors, fetch, upload
from bench.attack.target import Climb, EachVote, Objective, Target
from bench.seeds import ClipRandom
from bench.threat.budgets import Budget


@dataclass
class Run:
    """One run of a gradient attack on a batch: what its hooks may look at, and where they keep what is of this run.

    Attributes:
        target, clips, labels, budget, rng: as :meth:`Attack.run` is given them, of the whole batch.
        restart: number of the start, from 0.
        kept: what :meth:`GradientAttack.prepare` returned.
    """

    target: Target
    clips: Tensor
    labels: Tensor
    budget: Budget
    rng: ClipRandom
    restart: int = 0
    kept: Any = None


class GradientAttack(Attack):
    """The loop shared by iterative gradient attacks: start, then ascend and project.

    A subclass may say where to :meth:`start`, how long a step is, which gradient it climbs (:meth:`ascent`) and how the
    gradient becomes a step (:meth:`direct`). What it needs for one run it makes in :meth:`prepare`; the attack itself
    stays as it is, so that one object can run on several batches. The loop sees to the rest: exactly ``k`` forward and
    ``k`` backward passes for ``k`` steps, no weight gradients, restarts, and clips that leave the batch as soon as they
    are broken.

    The worst iterate counts, not the last. A clip is broken when an evaluated iterate is misclassified (reaches
    the target class, if there is one). On a decisive target that iterate is returned and the clip leaves the
    batch; a clip never seen broken gets its last iterate, which the judge evaluates. Clips made for transfer go on
    climbing, because a defence would undo a perturbation that barely fools the bare classifier: every iterate is
    evaluated, the last one too, and the one of highest loss is returned, a broken one if there is any. One draw of
    a stochastic target proves nothing, so there every clip takes every step, and of several restarts the last
    iterate of the one with the highest mean loss over its second half is returned.

    Args:
        loss: ``ce`` (cross-entropy) or ``margin``.
        target: ``None`` (untargeted), ``runner_up`` or ``least_likely`` (by the clean logits, one forward
            pass more).
        keep: ``worst`` as above, or ``last``: the last iterate is returned, as for a stochastic target.
        momentum: share of the accumulated gradient that is kept; to it, each :meth:`normalise`-d gradient is added.
        votes: of a defence with several candidates, what is climbed: the loss of their mean probability (``pooled``),
            or the mean of their losses (``each``, see :class:`~bench.attack.target.EachVote`).
        enough: with ``each``, the loss of a candidate at which it is left alone; with the loss ``margin`` and a small
            positive number, candidates that are already wrong cost the others nothing.

    Attributes:
        reach: length of all steps together, in radii, where the budget does not say how long one is: 2.5 (Madry et al.,
            2018) lets a start anywhere in the ball reach any other place.
    """

    reach: ClassVar[float] = 2.5

    def __init__(
        self,
        loss: str = "ce",
        target: Goal | None = None,
        keep: Literal["worst", "last"] = "worst",
        momentum: float = 0.0,
        votes: Literal["pooled", "each"] = "pooled",
        enough: float | None = None,
    ) -> None:
        self._loss = loss_of(loss)
        check_goal(target)
        if keep not in ("worst", "last"):
            raise ValueError(f"keep must be worst or last, not {keep!r}")
        if not momentum >= 0:
            raise ValueError(f"momentum must not be negative, not {momentum!r}")
        if votes not in ("pooled", "each"):
            raise ValueError(f"votes must be pooled or each, not {votes!r}")
        if enough is not None and votes != "each":
            raise ValueError("enough is the loss of one candidate: say votes=each with it")
        self.target, self.keep, self.momentum, self.votes, self.enough = target, keep, momentum, votes, enough

    def prepare(self, run: Run) -> Any:
        """What one run needs before its first step, see :attr:`Run.kept`; nothing by default."""

    def start(self, clips: Tensor, budget: Budget, rng: ClipRandom) -> Tensor:
        """The first iterate; the clean clip by default."""
        return clips.clone()

    def begin(self, run: Run, left: Survivors) -> Tensor:
        """:meth:`start`, for an attack that must know the run or which clips of the batch they are."""
        return self.start(left.clips, left.budget, left.rng)

    def ascent(self, run: Run, iterates: Tensor, left: Survivors, aim: Tensor, objective: Objective) -> Climb:
        """What is climbed at ``iterates (b, 3, T, H, W)``: its value, gradient, and the decision there.

        One forward and one backward pass by default.

        Args:
            left: the clips that they are iterates of.
            aim: ``(b,)``, the classes that ``objective`` is given.
        """
        return run.target.gradient(iterates, left.rows, aim, objective)

    def normalise(self, gradient: Tensor) -> Tensor:
        """Brings gradients ``(b, 3, T, H, W)`` to one scale before they accumulate: mean absolute value 1."""
        return gradient / gradient.abs().mean((1, 2, 3, 4), keepdim=True).clamp_min(1e-30)

    def direct(self, gradient: Tensor, budget: Budget) -> Tensor:
        """Turns gradients ``(b, 3, T, H, W)`` into unit steps; steepest ascent by default."""
        return budget.geometry.direction(gradient)

    def advance(self, clips: Tensor, direction: Tensor, budget: Budget) -> Tensor:
        """Iterates after one step along unit steps, before they are projected: added, by default."""
        length = self.step_size(budget)
        if isinstance(length, Tensor):
            length = length.to(clips).reshape(-1, *([1] * (clips.ndim - 1)))
        return clips + length * direction

    def project(self, points: Tensor, left: Survivors) -> Tensor:
        """Brings stepped iterates ``(b, 3, T, H, W)``, which it may change, back into the budget and the cube."""
        return left.project(points)

    def step_size(self, budget: Budget) -> float | Tensor:
        """Length of one step: the budget's, or :attr:`reach` radii over all steps."""
        return budget.step_size if budget.step_size is not None else self.reach * budget.size / budget.steps

    def passes(self, budget: Budget) -> tuple[int, int]:
        gradients = budget.steps * budget.restarts
        checks = budget.restarts if self.keep == "worst" else 0
        return gradients + checks + (self.target is not None), gradients

    def run(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> AttackResult:
        run = Run(target=target, clips=clips, labels=labels, budget=budget, rng=rng)
        run.kept = self.prepare(run)
        aim = aim_at(target, clips, labels, self.target)
        objective = self._objective(1.0 if self.target is None else -1.0)
        velocity = torch.zeros_like(clips) if self.momentum else None
        trace = torch.full((budget.steps * budget.restarts, len(clips)), float("nan"), dtype=torch.float32)
        left, best = Survivors(clips, labels, budget, rng), Best(clips)

        for run.restart in range(budget.restarts):
            if velocity is not None:
                velocity.zero_()
            x, losses = self.begin(run, left), []
            for step in range(budget.steps):
                climb = self.ascent(run, x, left, left.of(aim), objective)
                gradient = climb.gradient
                # The only time that a step waits for the device.
                loss, broken = fetch(climb.value, self._broken(climb.decision, left.of(aim)))
                trace[run.restart * budget.steps + step, left.rows] = loss.float()
                if self._stops(target):
                    if broken.any():
                        done = upload(broken.nonzero()[:, 0], x)
                        best.clips[left.here[done]] = x[done]
                        stay = left.drop(broken > 0)
                        x, gradient = x[stay], gradient[stay]
                        if not len(left):
                            return AttackResult(best.clips, trace)
                elif self._compares(target):
                    best.keep(x, loss, broken)
                losses.append(loss)
                if velocity is not None:
                    velocity[left.here] = gradient = self.momentum * left.of(velocity) + self.normalise(gradient)
                x = self.project(self.advance(x, self.direct(gradient, left.budget), left.budget), left)
            self._finish(run, best, left, x, aim, losses)
            if not len(left):
                break
        return AttackResult(best.clips, trace)

    def _objective(self, sign: float) -> Objective:
        """What is climbed: the loss, or against it, towards a class."""

        def one(logits: Tensor, classes: Tensor) -> Tensor:
            return sign * self._loss(logits, classes)

        return EachVote(one, self.enough) if self.votes == "each" else one

    def _stops(self, target: Target) -> bool:
        """Whether a clip leaves with its first success."""
        return self.keep == "worst" and target.decisive

    def _compares(self, target: Target) -> bool:
        """Whether all iterates are compared, because the clips are made for transfer."""
        return self.keep == "worst" and not target.decisive and not target.stochastic

    def _broken(self, decision: Tensor, aim: Tensor) -> Tensor:
        """Whether decisions ``(b,)`` are what the attack wants: not the true class, or the one to reach."""
        reached = decision.to(aim.device) == aim
        return reached if self.target else ~reached

    def _finish(self, run: Run, best: Best, left: Survivors, x: Tensor, aim: Tensor, losses: Sequence[Tensor]) -> None:
        """Keeps what a start came to, and takes out the clips that need no other one."""
        if self._compares(run.target):
            with torch.no_grad():
                answer = run.target.ask(x, left.rows)
            objective = self._objective(1.0 if self.target is None else -1.0)
            loss = answer.value(objective, left.of(aim))
            best.keep(x, loss, self._broken(answer.decision, left.of(aim)))
        elif self._stops(run.target):
            best.clips[left.here] = x
            if run.restart < run.budget.restarts - 1:  # another start is spent only on clips that need one
                with torch.no_grad():
                    answer = run.target.ask(x, left.rows)
                left.drop(self._broken(answer.decision, left.of(aim)))
        else:
            late = torch.stack(list(losses[run.budget.steps // 2 :])).mean(0)
            best.keep(x, late, torch.zeros_like(late, dtype=torch.bool))
