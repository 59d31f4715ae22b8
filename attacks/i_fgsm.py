"""Iterative FGSM, the basic iterative method."""

from __future__ import annotations

from typing import Literal

from bench import GradientAttack, register


@register(
    "i_fgsm",
    source="Kurakin, Goodfellow and Bengio, Adversarial Examples in the Physical World, ICLR workshop 2017, section "
    "2.2",
)
class IFGSM(GradientAttack):
    """Equal steps from the clean clip that together just reach the edge of the ball. No random start.

    Each step has length ``size / steps`` unless the budget says otherwise.

    Args:
        loss: ``ce``, ``margin`` or ``dlr``.
        target: nothing for an untargeted attack, or the class to reach: ``runner_up`` or ``least_likely``.
    """

    reach = 1.0

    def __init__(self, loss: str = "ce", target: Literal["runner_up", "least_likely"] | None = None) -> None:
        super().__init__(loss, target)
