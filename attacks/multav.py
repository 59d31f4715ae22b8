"""Multiplicative adversarial video: every value is multiplied instead of moved."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from bench import Budget, ClipRandom, MaskedAttack, Run, register
from bench.threat.regions import Region

_ALPHA = 1.01
_REGIONAL_ALPHA = 1.3
_DARKEST = 1 / 255


@register("multav", source="Lo and Patel, MultAV: Multiplicative Adversarial Videos, AVSS 2021")
class MultAV(MaskedAttack):
    """Climbs by ``x <- x * alpha^direction``, with the sign or the normalised gradient of the loss as direction.

    The budget says which of the paper's five attacks it is: ``mult-linf`` (``size`` is ``eps_m - 1``, 0.04 in the
    paper) or ``mult-l2``, both on all pixels from the clean clip; or ``rectangle``, ``border`` and ``pixels``, where a
    part of every frame, chosen as by ``roa``, ``af`` and ``spa``, is free. The paper gives ``alpha`` for ``mult-linf``
    alone, 1.01. The others are our choice (``docs/decisions.md``): 1.3 in a region, and in ``mult-l2``, whose unit
    steps are about a thousandth per value, a fifth of the ball's radius in logarithms. In a region a factor moves
    nothing that is black: values are raised to 1/255 there, and a rectangle starts grey.

    Args:
        loss: ``ce``, ``margin`` or ``dlr``.
        keep: ``worst`` iterate, or the ``last`` one, as in the paper.
    """

    norms = ("mult-linf", "mult-l2", "rectangle", "border", "pixels")

    def __init__(self, loss: str = "ce", keep: Literal["worst", "last"] = "worst") -> None:
        super().__init__(loss, keep)

    def step_size(self, budget: Budget) -> float | Tensor:
        """``log(alpha)``; the budget's ``step_size`` is ``alpha - 1``."""
        if budget.step_size is not None:
            return math.log1p(budget.step_size)
        if budget.norm == "mult-l2":
            return budget.size / 5
        return math.log(_ALPHA if budget.norm == "mult-linf" else _REGIONAL_ALPHA)

    def choose(self, run: Run, count: int) -> list[Tensor]:
        geometry = run.budget.geometry
        if isinstance(geometry, Region):
            return [geometry.random_masks(run.clips, run.budget.size, run.rng) for _ in range(count)]
        return [torch.ones_like(run.clips[:, :1], dtype=torch.bool)] * count

    def fill(self, clips: Tensor, budget: Budget, rng: ClipRandom) -> Tensor:
        if budget.norm == "rectangle":
            return torch.full_like(clips, 0.5)
        return clips.clamp_min(_DARKEST) if budget.norm in ("border", "pixels") else clips

    def advance(self, clips: Tensor, direction: Tensor, budget: Budget) -> Tensor:
        length = torch.as_tensor(self.step_size(budget), dtype=clips.dtype, device=clips.device)
        return clips * (length.reshape(-1, 1, 1, 1, 1) * direction).exp()
