"""Uniform noise: the attack that everything must survive."""

from __future__ import annotations

from torch import Tensor

from bench import Attack, AttackResult, Budget, ClipRandom, Target, register


@register(
    "noise",
    source="VideoRobustBench's own control, as the row Random of Zhang, Mao, Yang and Vondrick, Adversarially Robust "
    "Video Perception by Seeing Motion, arXiv 2212.07815, 2022, Table 1",
)
class UniformNoise(Attack):
    """One point drawn uniformly from the ball around the clip; the classifier is never asked.

    The control of every table: a defence that loses to it has no business with stronger attacks, and an
    attack that does no better than it is broken.
    """

    uses_model = False

    def run(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> AttackResult:
        return AttackResult(budget.geometry.random_start(clips, budget.size, rng))

    def passes(self, budget: Budget) -> tuple[int, int]:
        return 0, 0
