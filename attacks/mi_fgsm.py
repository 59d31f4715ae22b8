"""Momentum iterative FGSM: gradients accumulate over the steps, which transfers better."""

from __future__ import annotations

from typing import Literal

from bench import GradientAttack, register


@register("mi_fgsm", source="Dong et al., Boosting Adversarial Attacks with Momentum, CVPR 2018, algorithm 1")
class MIFGSM(GradientAttack):
    """Iterative FGSM along the accumulated gradient ``g <- decay * g + gradient / mean|gradient|``.

    The mean is over the whole clip, frames included. torchattacks averages over three axes only and so leaves one scale
    per column of a clip.

    Args:
        decay: share of the accumulated gradient that is kept.
        loss: ``ce``, ``margin`` or ``dlr``.
        target: nothing for an untargeted attack, or the class to reach: ``runner_up`` or ``least_likely``.
    """

    reach = 1.0

    def __init__(
        self, decay: float = 1.0, loss: str = "ce", target: Literal["runner_up", "least_likely"] | None = None
    ) -> None:
        super().__init__(loss, target, momentum=decay)
