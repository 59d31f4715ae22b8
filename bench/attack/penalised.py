"""Attacks on the classifier and on something else at once, with the weight of the other swept."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from bench.attack.base import AttackResult
from bench.attack.gradient import GradientAttack, Run
from bench.attack.survivors import Survivors
from bench.attack.target import Climb, Objective, Target
from bench.seeds import ClipRandom
from bench.threat.budgets import Budget

Slope = Callable[[Tensor, Tensor], Tensor]
"""Iterates ``(b, 3, T, H, W)`` and their rows of the batch ``(b,)`` to a gradient of the iterates' shape."""


class PenalisedAttack(GradientAttack):
    """PGD on ``loss - lambda * penalty``, a full run for every lambda, the worst of which is kept clip by clip.

    The runs are restarts of one attack, in the order of ``lambdas``, with the steps and restarts of the budget each; a
    clip that one has broken takes no part in the next. Runs, and the iterates of a run, are compared by the classifier
    alone, because success is misclassification and nothing else, and the trace is the classifier's loss. A lambda of 0
    is PGD itself, start and trajectory.

    Which lambda is worst shows only behind the defence. Clips that are made on the bare classifier are told apart by
    *its* loss, which mostly picks the smallest lambda: there, give one lambda to a column, and let the grid compute
    their ``worst``.

    The penalty is a function of the attacked clip itself, not of the purified one. Passes of the flow network are not
    passes of the classifier and are not counted.

    Args:
        lambdas: weights of the penalty.
        name: what the attack's own parameter for them is called, for its messages.
        loss: ``ce``, ``margin`` or ``dlr``.
        start: ``uniform`` in the ball, or ``clean``.
        keep: ``worst`` iterate, or the ``last`` one of a run that nothing stops, as the paper's protocol has it.
    """

    def __init__(
        self,
        lambdas: Sequence[float],
        loss: str,
        start: str = "uniform",
        keep: Literal["worst", "last"] = "worst",
        name: str = "lambdas",
    ) -> None:
        super().__init__(loss, keep=keep)
        if not isinstance(lambdas, list | tuple) or not lambdas:
            raise ValueError(f"{name} must be a list of weights, not {lambdas!r}")
        for weight in lambdas:
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
                raise ValueError(f"{name} must be numbers that are not negative, not {weight!r}")
        if start not in ("uniform", "clean"):
            raise ValueError(f"start must be uniform or clean, not {start!r}")
        self.lambdas, self.begins = tuple(lambdas), start

    @abstractmethod
    def slope(self, clips: Tensor) -> Slope:
        """The gradient of the penalty, as a function of iterates; ``clips`` are the clean ones, ``(B, 3, T, H, W)``."""

    def passes(self, budget: Budget) -> tuple[int, int]:
        return super().passes(self._all_runs(budget))

    def run(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> AttackResult:
        return super().run(target, clips, labels, self._all_runs(budget), rng)

    def _all_runs(self, budget: Budget) -> Budget:
        return replace(budget, restarts=budget.restarts * len(self.lambdas))

    def prepare(self, run: Run) -> _Sweep:
        each = run.budget.restarts // len(self.lambdas)
        weights = [weight for weight in self.lambdas for _ in range(each)]
        return _Sweep(weights, self.slope(run.clips) if any(self.lambdas) else None)

    def start(self, clips: Tensor, budget: Budget, rng: ClipRandom) -> Tensor:
        return clips.clone() if self.begins == "clean" else budget.geometry.random_start(clips, budget.size, rng)

    def ascent(self, run: Run, iterates: Tensor, left: Survivors, aim: Tensor, objective: Objective) -> Climb:
        climb = super().ascent(run, iterates, left, aim, objective)
        sweep: _Sweep = run.kept
        weight = sweep.weights[run.restart]
        if sweep.slope is None or not weight:
            return climb
        return climb._replace(gradient=climb.gradient - weight * sweep.slope(iterates, left.rows))


@dataclass(frozen=True)
class _Sweep:
    """Of one run: the weight of each start, and the gradient of the penalty, if any start has one."""

    weights: Sequence[float]
    slope: Slope | None
