"""The loop of attacks that repaint a part of every frame."""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import Literal, Self

import torch
from torch import Tensor

from bench.attack.base import AttackResult
from bench.attack.gradient import GradientAttack
from bench.attack.target import Objective, Target
from bench.seeds import ClipRandom
from bench.threat.budgets import Budget
from bench.threat.regions import Region

STEP = 70 / 255


class MaskedAttack(GradientAttack):
    """Projected gradient descent on pixels that are chosen before the first step and then free in ``[0, 1]``.

    Steps are ``70/255`` along the sign of the gradient unless the budget says otherwise (Lo and Patel, IEEE TIP
    2022; for five steps).
    All colours and frames are optimised together. A subclass says which pixels (:meth:`choose`) and what is painted
    there first (:meth:`fill`); what lies outside is never touched, the first forward pass included.

    Args:
        loss: ``ce``, ``margin`` or ``dlr``.
        keep: ``worst`` iterate, or the ``last`` one, as in the published code.
    """

    def __init__(self, loss: str = "ce", keep: Literal["worst", "last"] = "worst") -> None:
        super().__init__(loss, keep=keep)
        # Of one run: the masks of the starts to come, and the one in force.
        self._masks: list[Tensor] = []
        self._mask = torch.zeros(0)

    @abstractmethod
    def choose(
        self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom, count: int
    ) -> list[Tensor]:
        """The pixels of each start: ``count`` masks ``bool (B, 1, T, H, W)``."""

    @abstractmethod
    def fill(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        """What is painted first, ``(b, 3, T, H, W)``; only the part in the mask is used."""

    def step_size(self, budget: Budget) -> float | Tensor:
        return STEP if budget.step_size is None else budget.step_size

    def run(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> AttackResult:
        return GradientAttack.run(
            self._prepared(target, clips, labels, budget, rng), target, clips, labels, budget, rng
        )

    def _prepared(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> Self:
        run = copy.copy(self)
        run._masks = self.choose(target, clips, labels, budget, rng, budget.restarts)
        return run

    def start_rows(self, clips: Tensor, rows: Tensor, budget: Budget, rng: ClipRandom) -> Tensor:
        self._mask = self._masks.pop(0)
        here = clips[rows]
        return torch.where(self._mask[rows], self.fill(here, rng).to(here), here)

    def ascent(
        self, target: Target, clips: Tensor, rows: Tensor, aim: Tensor, objective: Objective, rng: ClipRandom
    ) -> tuple[Tensor, Tensor]:
        value, gradient = super().ascent(target, clips, rows, aim, objective, rng)
        return value, gradient * self._mask[rows]


def region_of(budget: Budget) -> Region:
    """The geometry of a budget of pixels."""
    region = budget.geometry
    assert isinstance(region, Region)  # Attack.check lets no other norm pass
    return region
