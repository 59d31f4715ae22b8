"""Attacks with known effects, for lists of moves: named as ``kit.moves:Shift``."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from bench import Attack, AttackResult, BenchError, Budget, ClipRandom, Target


class Shift(Attack):
    """Adds a constant, without a gradient. Notes how many clips it met, in how many steps.

    Args:
        by: what is added.
        name: under which it notes.
    """

    met: ClassVar[list[tuple[str, int, int]]] = []

    def __init__(self, by: float = 0.0, name: str = "") -> None:
        self.by, self.name = by, name

    def run(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> AttackResult:
        type(self).met.append((self.name, len(clips), budget.steps))
        with torch.no_grad():
            target(clips)
        return AttackResult((clips + self.by).clamp(0, 1), torch.zeros(2, len(clips)))

    def passes(self, budget: Budget) -> tuple[int, int]:
        return 1, 0


class Decided(Shift):
    """An attack that wants final answers, and finds out only when it runs."""

    def run(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> AttackResult:
        if target.stochastic:
            raise BenchError("Decided needs a classifier that gives the same answer twice.")
        return super().run(target, clips, labels, budget, rng)
