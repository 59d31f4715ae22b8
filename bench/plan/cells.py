"""Cells, the adversarial clips they share, and what identifies both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from bench import code
from bench.attack.base import Attack
from bench.data.base import ClipRef, Dataset
from bench.defense.defended import DefendedClassifier
from bench.grids.grid import Grid
from bench.records.description import Skipped
from bench.threat.budgets import Budget


def digest(settings: Any) -> str:
    """Identity of anything made of plain values: 16 hex digits of its canonical JSON."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _threat(budget: Budget) -> dict[str, Any]:
    """A budget's settings, and the code of its geometry."""
    return {**budget.settings(), "code": code.digest(budget.geometry)}


@dataclass(frozen=True)
class Component:
    """A made component with its label and the settings that identify it."""

    label: str
    made: Any
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class ClipsUnit:
    """Adversarial clips to make once: an attack on one classifier, bare or defended.

    Attributes:
        model: ``None`` if the attack never looks at one.
        defense: ``None`` for the bare classifier (gray-box), else what the attacker differentiates.
        gradient: how.
        victim: the module under attack; ``None`` if the attack never looks at one.
    """

    dataset: Component
    model: Component | None
    attack: Component
    budget: Budget
    seed: int
    defense: Component | None = None
    gradient: str = "none"
    victim: DefendedClassifier | None = field(default=None, compare=False, repr=False)

    @cached_property
    def start_key(self) -> str:
        """Seeds the attack. It leaves the defence out, so that every defence meets the same random starts."""
        return digest(
            {
                "engine": code.engine(),
                "dataset": self.dataset.settings,
                "model": self.model.settings if self.model else None,
                "attack": self.attack.settings,
                "budget": _threat(self.budget),
                "seed": self.seed,
            }
        )

    @cached_property
    def id(self) -> str:
        defense = self.defense.settings if self.defense else None
        return digest({"start": self.start_key, "defense": defense, "gradient": self.gradient})

    @property
    def shared(self) -> bool:
        """Whether its clips are stored: gray-box clips serve every defence, present and future."""
        return self.defense is None

    @property
    def passes(self) -> tuple[int, int]:
        """Most forward and backward passes per clip."""
        attack: Attack = self.attack.made
        return attack.passes(self.budget)


@dataclass(frozen=True)
class Cell:
    """dataset x classifier x defence x attack x gradient x knowledge x budget x seed.

    Attributes:
        attack_label: column header.
        knowledge: ``clean``, ``noise``, ``black-box``, ``gray-box`` or ``adaptive``.
        unit: where its adversarial clips come from; ``None`` for clean cells.
        threat: the grid's budget as text, which groups cells into tables (an attack may override its effort);
            empty for clean cells.
        defended: the module that is judged.
        queries: how often it is asked: once, if it is deterministic.
    """

    dataset: Component
    model: Component
    defense: Component
    attack_label: str
    knowledge: str
    gradient: str
    seed: int
    defended: DefendedClassifier = field(compare=False, repr=False)
    unit: ClipsUnit | None = None
    threat: str = ""
    queries: int = 1

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Canonical settings: all defaults written out, weights and code by digest."""
        source = self.unit.model if self.unit and self.knowledge == "black-box" else None
        return {
            **({"source": dict(source.settings)} if source else {}),
            **({"queries": self.queries} if self.defended.stochastic else {}),
            "engine": code.engine(),
            "dataset": dict(self.dataset.settings),
            "model": dict(self.model.settings),
            "defense": dict(self.defense.settings),
            "attack": dict(self.unit.attack.settings) if self.unit else None,
            "budget": _threat(self.unit.budget) if self.unit else None,
            "gradient": self.gradient,
            "knowledge": self.knowledge,
            "seed": self.seed,
        }

    @cached_property
    def id(self) -> str:
        return digest(self.settings)

    @property
    def budget(self) -> Budget | None:
        return self.unit.budget if self.unit else None


@dataclass
class Plan:
    """What a run will do.

    Attributes:
        grid: where it comes from.
        dataset: made, with ``refs``, the clips that are run.
        cells: clean ones first, model by model.
        skipped: combinations of the grid that do not exist.
    """

    grid: Grid
    dataset: Dataset
    refs: list[ClipRef]
    cells: list[Cell]
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def units(self) -> list[ClipsUnit]:
        """The distinct units, in order of first use."""
        return list({c.unit.id: c.unit for c in self.cells if c.unit}.values())

    def cost(self) -> tuple[int, int]:
        """Most forward and backward passes: every unit once, and the judging passes of every cell and clip."""
        forwards = backwards = 0
        for unit in self.units:
            forward, backward = unit.passes
            forwards += forward * len(self.refs)
            backwards += backward * len(self.refs)
        return forwards + sum(c.queries for c in self.cells) * len(self.refs), backwards
