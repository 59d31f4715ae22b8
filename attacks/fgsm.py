"""The fast gradient sign method."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from bench import AttackResult, Budget, ClipRandom, GradientAttack, Target, register


@register(
    "fgsm",
    source="Goodfellow, Shlens and Szegedy, Explaining and Harnessing Adversarial Examples, ICLR 2015, section 4",
)
class FGSM(GradientAttack):
    """One step from the clean clip to the edge of the ball, along the sign of the gradient (linf) or itself (l2).

    The budget's number, length and restarts of steps are not looked at.

    Args:
        loss: ``ce``, ``margin`` or ``dlr``.
    """

    def __init__(self, loss: str = "ce") -> None:
        super().__init__(loss)

    def step_size(self, budget: Budget) -> float | Tensor:
        return budget.size

    def passes(self, budget: Budget) -> tuple[int, int]:
        return super().passes(_one_step(budget))

    def run(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> AttackResult:
        return super().run(target, clips, labels, _one_step(budget), rng)


def _one_step(budget: Budget) -> Budget:
    return replace(budget, steps=1, restarts=1)
