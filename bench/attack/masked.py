"""The loop of attacks that repaint a part of every frame."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor

from bench.attack.gradient import GradientAttack, Run
from bench.attack.survivors import Survivors
from bench.attack.target import Climb, Objective
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

    @abstractmethod
    def choose(self, run: Run, count: int) -> list[Tensor]:
        """The pixels of each start: ``count`` masks ``bool (B, 1, T, H, W)``."""

    @abstractmethod
    def fill(self, clips: Tensor, budget: Budget, rng: ClipRandom) -> Tensor:
        """What is painted first, ``(b, 3, T, H, W)``; only the part in the mask is used."""

    def step_size(self, budget: Budget) -> float | Tensor:
        return STEP if budget.step_size is None else budget.step_size

    def project(self, points: Tensor, left: Survivors) -> Tensor:
        """In a budget of pixels only the cube is left: what has moved lies in the mask, a region that it allows."""
        return points.clamp_(0, 1) if isinstance(left.budget.geometry, Region) else left.project(points)

    def prepare(self, run: Run) -> list[Tensor]:
        return self.choose(run, run.budget.restarts)

    def begin(self, run: Run, left: Survivors) -> Tensor:
        mask = left.of(run.kept[run.restart])
        return torch.where(mask, self.fill(left.clips, left.budget, left.rng).to(left.clips), left.clips)

    def ascent(self, run: Run, iterates: Tensor, left: Survivors, aim: Tensor, objective: Objective) -> Climb:
        climb = super().ascent(run, iterates, left, aim, objective)
        return climb._replace(gradient=climb.gradient * left.of(run.kept[run.restart]))


def region_of(budget: Budget) -> Region:
    """The geometry of a budget of pixels."""
    region = budget.geometry
    assert isinstance(region, Region)  # Attack.check lets no other norm pass
    return region
