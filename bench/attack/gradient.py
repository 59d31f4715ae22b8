"""The loop shared by iterative gradient attacks."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from bench.attack.base import Attack, AttackResult
from bench.attack.best import Best
from bench.attack.losses import loss_of
from bench.attack.target import Objective, Target
from bench.seeds import ClipRandom
from bench.threat.budgets import Budget


class GradientAttack(Attack):
    """The loop shared by iterative gradient attacks: start, then ascend and project.

    A subclass may say where to :meth:`start`, how long a step is, which gradient it climbs (:meth:`ascent`) and how the
    gradient becomes a step (:meth:`direct`). The loop sees to the rest: exactly ``k`` forward and ``k``
    backward passes for ``k`` steps, no weight gradients, restarts, and clips that leave the batch as soon as they are
    broken.

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

    Attributes:
        reach: length of all steps together, in radii, where the budget does not say how long one is: 2.5 (Madry et al.,
            2018) lets a start anywhere in the ball reach any other place.
    """

    reach: ClassVar[float] = 2.5

    def __init__(
        self,
        loss: str = "ce",
        target: Literal["runner_up", "least_likely"] | None = None,
        keep: Literal["worst", "last"] = "worst",
        momentum: float = 0.0,
    ) -> None:
        self._loss = loss_of(loss)
        if target not in (None, "runner_up", "least_likely"):
            raise ValueError(f"target must be runner_up, least_likely or nothing, not {target!r}")
        if keep not in ("worst", "last"):
            raise ValueError(f"keep must be worst or last, not {keep!r}")
        if not momentum >= 0:
            raise ValueError(f"momentum must not be negative, not {momentum!r}")
        self.target, self.keep, self.momentum = target, keep, momentum

    def start(self, clips: Tensor, budget: Budget, rng: ClipRandom) -> Tensor:
        """The first iterate; the clean clip by default."""
        return clips.clone()

    def start_rows(self, clips: Tensor, rows: Tensor, budget: Budget, rng: ClipRandom) -> Tensor:
        """:meth:`start`, for an attack that must know which clips of the batch they are: those still unbroken."""
        return self.start(clips[rows], budget, rng)

    def ascent(
        self, target: Target, clips: Tensor, rows: Tensor, aim: Tensor, objective: Objective, rng: ClipRandom
    ) -> tuple[Tensor, Tensor]:
        """Value ``(b,)`` and gradient of what is climbed; must leave ``target.decision`` as it is on ``clips``.

        One forward and one backward pass by default. ``rng`` has one stream per clip of ``clips``.
        """
        return target.gradient(clips, rows, aim, objective)

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

    def step_size(self, budget: Budget) -> float | Tensor:
        """Length of one step: the budget's, or :attr:`reach` radii over all steps."""
        return budget.step_size if budget.step_size is not None else self.reach * budget.size / budget.steps

    def passes(self, budget: Budget) -> tuple[int, int]:
        gradients = budget.steps * budget.restarts
        checks = budget.restarts if self.keep == "worst" else 0
        return gradients + checks + (self.target is not None), gradients

    def _aim(self, target: Target, clips: Tensor, labels: Tensor) -> Tensor:
        """The class each clip is pushed away from (untargeted) or towards (targeted)."""
        if self.target is None:
            return labels
        with torch.no_grad():
            logits = target(clips).scatter(1, labels[:, None], float("-inf" if self.target == "runner_up" else "inf"))
        return logits.argmax(1) if self.target == "runner_up" else logits.argmin(1)

    def run(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> AttackResult:
        early = self.keep == "worst" and target.decisive
        climb = self.keep == "worst" and not target.decisive and not target.stochastic
        aim = self._aim(target, clips, labels)
        sign = 1.0 if self.target is None else -1.0
        velocity = torch.zeros_like(clips) if self.momentum else None
        trace = torch.full((budget.steps * budget.restarts, len(clips)), float("nan"))
        rows = torch.arange(len(clips))
        best = Best(clips)

        def objective(logits: Tensor, classes: Tensor) -> Tensor:
            return sign * self._loss(logits, classes)

        def is_broken(of: Tensor) -> Tensor:
            hit = target.decision.to(aim.device) == aim[of]
            return hit if self.target else ~hit

        for restart in range(budget.restarts):
            share = budget.select(rows)
            x = self.start_rows(clips, rows, share, rng.select(rows))
            if velocity is not None:
                velocity.zero_()
            losses: list[Tensor] = []
            for step in range(budget.steps):
                loss, gradient = self.ascent(target, x, rows, aim[rows], objective, rng.select(rows))
                loss = loss.double()
                trace[restart * budget.steps + step, rows] = loss.float().cpu()
                if early:
                    broken = is_broken(rows).cpu()
                    best.clips[rows[broken]] = x[broken]
                    rows, x, gradient = rows[~broken], x[~broken], gradient[~broken]
                    if not len(rows):
                        return AttackResult(best.clips, trace)
                    share = budget.select(rows)
                elif climb:
                    best.keep(x, loss, is_broken(rows))
                losses.append(loss)
                if velocity is not None:
                    velocity[rows] = gradient = self.momentum * velocity[rows] + self.normalise(gradient)
                x = self.advance(x, self.direct(gradient, share), share)
                x = share.geometry.project(x, clips[rows], share.size)
            if climb:
                with torch.no_grad():
                    loss = sign * self._loss(target(x, rows), aim[rows]).double()
                best.keep(x, loss, is_broken(rows))
            elif early:
                best.clips[rows] = x
                if restart < budget.restarts - 1:  # another start is spent only on clips that need one
                    with torch.no_grad():
                        target(x, rows)
                    rows = rows[~is_broken(rows).cpu()]
                    if not len(rows):
                        break
            else:
                late = torch.stack(losses[budget.steps // 2 :]).mean(0)
                best.keep(x, late, torch.zeros_like(late, dtype=torch.bool))
        return AttackResult(best.clips, trace)
