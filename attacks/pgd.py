"""Projected gradient descent."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from bench import BenchError, Budget, ClipRandom, GradientAttack, register

_VIDEOPURE_STEP = 2 / 255


@register(
    "pgd",
    source="Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018; protocol "
    "videopure: Jiang et al., VideoPure: Diffusion-based Adversarial Purification for Video Recognition, IEEE TCSVT "
    "2025, released code",
)
class PGD(GradientAttack):
    """Projected gradient descent in the linf or l2 ball, from a random start.

    Each step is ``x <- clip01(project(x + a * direction(gradient)))`` with the sign (linf) or the normalised
    gradient (l2) as direction, and ``a = 2.5 * size / steps`` unless the budget says otherwise.

    Args:
        loss: ``ce`` (cross-entropy) or ``margin`` (best wrong logit minus the true one).
        target: nothing for an untargeted attack, or the class to reach: ``runner_up`` or ``least_likely``.
        protocol: ``credible`` starts uniformly in the ball, keeps the worst iterate and lets broken clips
            leave the batch. ``videopure`` reproduces the published code: Gaussian start of standard deviation
            ``size``, not projected before the first gradient; steps of 2/255 unless the budget names another
            length; the last iterate is returned; where several candidates vote, the mean of their losses is climbed.
            The published ten steps are the budget's to give.
        start: ``uniform``, ``gaussian`` or ``clean``; the protocol's start if not given.
        keep: ``worst`` or ``last`` iterate; the protocol's rule if not given.
        votes: ``pooled`` or ``each``, see :class:`~bench.attack.gradient.GradientAttack`; the protocol's rule if not
            given: pooled, and each as published.
        enough: with ``each``, the loss of a candidate at which it is left alone.
    """

    def __init__(
        self,
        loss: str = "ce",
        target: Literal["runner_up", "least_likely"] | None = None,
        protocol: Literal["credible", "videopure"] = "credible",
        start: Literal["uniform", "gaussian", "clean"] | None = None,
        keep: Literal["worst", "last"] | None = None,
        votes: Literal["pooled", "each"] | None = None,
        enough: float | None = None,
    ) -> None:
        if protocol not in ("credible", "videopure"):
            raise ValueError(f"protocol must be credible or videopure, not {protocol!r}")
        published = protocol == "videopure"
        super().__init__(
            loss,
            target,
            keep or ("last" if published else "worst"),
            votes=votes or ("each" if published else "pooled"),
            enough=enough,
        )
        self.protocol = protocol
        self.begins = start or ("gaussian" if published else "uniform")
        if self.begins not in ("uniform", "gaussian", "clean"):
            raise ValueError(f"start must be uniform, gaussian or clean, not {start!r}")

    def check(self, budget: Budget) -> None:
        super().check(budget)
        if self.begins == "gaussian" and budget.norm != "linf":
            raise BenchError(
                "A Gaussian start (protocol videopure) is defined for linf budgets: its standard deviation is the "
                f"change allowed to each value. Choose start=uniform for {budget.norm}."
            )

    def start(self, clips: Tensor, budget: Budget, rng: ClipRandom) -> Tensor:
        if self.begins == "clean":
            return clips.clone()
        if self.begins == "uniform":
            return budget.geometry.random_start(clips, budget.size, rng)
        noise = rng.normal(*clips.shape[1:], device=clips.device).to(clips.dtype)
        size = budget.size
        if isinstance(size, Tensor):
            size = size.to(clips).reshape(-1, 1, 1, 1, 1)
        return (clips + size * noise).clamp(0, 1)

    def step_size(self, budget: Budget) -> float | Tensor:
        if self.protocol == "videopure" and budget.step_size is None:
            return _VIDEOPURE_STEP
        return super().step_size(budget)
