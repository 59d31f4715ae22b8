"""Attacks that run another one, on a target that they have changed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Self

from bench.attack.base import Attack
from bench.registry import ATTACKS
from bench.threat.budgets import Budget


class Around(Attack):
    """An attack around another one, which says what budgets and targets it can take.

    Args:
        attack: the other one, as a grid names it.
    """

    def __init__(self, attack: str | Mapping[str, Any]) -> None:
        self.attack: Attack = ATTACKS.create(attack)
        self.parts = [attack]
        self.decisive_only = self.attack.decisive_only

    def lighter(self) -> Self:
        light = copy.copy(self)
        light.attack = self.attack.lighter()
        return light

    def check(self, budget: Budget) -> None:
        self.attack.check(budget)

    def refuses(self, *, stochastic: bool, transfer: bool) -> str | None:
        return self.attack.refuses(stochastic=stochastic, transfer=transfer)
