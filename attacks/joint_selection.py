"""An attack on MultiBN's selection module and its classifier together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bench import (
    ATTACKS,
    Answer,
    Attack,
    AttackResult,
    BenchError,
    Best,
    Budget,
    ClipRandom,
    Spec,
    Survivors,
    Target,
    Transform,
    Turn,
    cross_entropy,
    in_turn,
    one_look,
    register,
)
from bench.models.multibn import BRANCHES

# Which branch is right for what a budget lets an attacker do (Lo and Patel): whoever leads the selection elsewhere
# wins.
_BRANCH = {"linf": "lp", "l2": "lp", "pixels": "lp", "rectangle": "physical", "border": "physical"}


@register(
    "joint_selection",
    source="Lo and Patel, Defending Against Multiple and Unforeseen Adversarial Videos, IEEE TIP 2022, joint adaptive "
    "attack",
)
class JointSelection(Attack):
    """Maximises ``loss + weight * CE(selection, right branch)``, once for each weight, and keeps the worst clip.

    The selection module is to send the clip through the wrong branch. The paper gives no weight, so it is swept
    (``docs/decisions.md``). With a weight of 0 it is the paper's canonical attack, whose gradient passes through the
    selection module too, and which the slides call the stronger one. A clip that one weight has broken takes no part in
    the next.

    Args:
        attack: the attack that climbs, a gradient attack as grids name it.
        weights: of the selection's loss.
    """

    norms = tuple(_BRANCH)

    def __init__(
        self, attack: str | Mapping[str, Any] = "pgd", weights: Sequence[float] = (0.0, 0.1, 1.0, 10.0)
    ) -> None:
        if not isinstance(weights, list | tuple) or not weights:
            raise ValueError(f"weights must be a list of numbers, not {weights!r}")
        for weight in weights:
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
                raise ValueError(f"weights must be numbers that are not negative, not {weight!r}")
        self._inner: Attack = ATTACKS.create(Spec.parse(attack))
        self.parts = (attack,)
        self.weights = tuple(weights)

    def check(self, budget: Budget) -> None:
        super().check(budget)
        self._inner.check(budget)

    def refuses(self, *, stochastic: bool, transfer: bool) -> str | None:
        if transfer:
            return "joint_selection attacks the selection module of MultiBN, which the bare classifier does not have."
        if stochastic:
            return "joint_selection compares its weights by one look, which a randomised defence makes worthless."
        return self._inner.refuses(stochastic=stochastic, transfer=transfer)

    def passes(self, budget: Budget) -> tuple[int, int]:
        forwards, backwards = self._inner.passes(budget)
        return (forwards + 1) * len(self.weights), backwards * len(self.weights)

    def run(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> AttackResult:
        if target.selection is None:
            raise BenchError(
                "joint_selection attacks a network with a selection module, such as multibn, and this one has none: "
                f"take {self.parts[0]} for it."
            )
        turns = [self._turn(target, _BRANCH[budget.norm], weight) for weight in self.weights]
        return in_turn(Survivors(clips, labels, budget, rng), turns, one_look(target), Best(clips))

    def _turn(self, target: Target, branch: str, weight: float) -> Turn:
        """The attack with one weight."""

        def turn(left: Survivors) -> AttackResult:
            joint = self._joint(target, left.rows, branch, weight)
            return self._inner.run(joint, left.clips, left.labels, left.budget, left.rng)

        return turn

    @staticmethod
    def _joint(target: Target, rows: Tensor, branch: str, weight: float) -> Target:
        """The target, with the selection's loss as a second objective, for some clips of its batch."""
        right = BRANCHES.index(branch)

        def look(clips: Tensor, of: Tensor, then: Transform | None = None) -> Answer:
            answer = target.ask(clips, rows[of], then)
            if not weight or not torch.is_grad_enabled():
                return answer
            assert target.selection is not None
            logits = target.selection(clips)
            away = cross_entropy(logits, torch.full((len(logits),), right, device=logits.device))
            return Answer(answer.logits, answer.decision, weight * away, answer.votes)

        return Target(look, len(rows))
