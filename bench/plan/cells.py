"""Cells, the adversarial clips they share, and what identifies and seeds both."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib import resources
from typing import Any, Generic, TypeVar

from torch import nn

from bench import code, origins
from bench.attack.base import Attack
from bench.data.base import ClipRef, Dataset
from bench.defense.base import Defense
from bench.defense.defended import DefendedClassifier
from bench.defense.nature import Nature
from bench.grids.grid import Grid
from bench.modes import Precision
from bench.records.description import Skipped
from bench.records.identity import BudgetIdentity, CellIdentity, ComponentIdentity, Gradient, Knowledge, digest
from bench.threat.budgets import Budget

C = TypeVar("C", covariant=True)


def stream_of(settings: Any) -> str:
    """Key of a random stream: the digest of names and parameters, never of code or weights.

    So an edited defence meets the same random starts, and an edit that changes no number reproduces every stored
    outcome. Cells that were measured when streams still depended on code keep the streams they had.
    """
    key = digest(settings)
    return _former_streams().get(key, key)


@lru_cache(maxsize=1)
def _former_streams() -> dict[str, str]:
    text = resources.files("bench.plan").joinpath("streams.json").read_text(encoding="utf-8")
    former: dict[str, str] = json.loads(text)
    return former


@dataclass(frozen=True)
class Component(Generic[C]):
    """A component of a grid: what was made of its name, its label in tables, and what identifies it."""

    label: str
    instance: C
    identity: ComponentIdentity


@dataclass(frozen=True, kw_only=True)
class ClipsUnit:
    """Adversarial clips to make once: an attack on one classifier, bare or defended.

    Attributes:
        model: ``None`` if the attack never looks at one.
        defense: ``None`` for the bare classifier (gray-box), else what the attacker differentiates.
        gradient: how.
        precision: in which numbers networks compute while they are attacked.
        defended: the module under attack; ``None`` if the attack never looks at one.
    """

    dataset: Component[Dataset]
    model: Component[nn.Module] | None
    attack: Component[Attack]
    budget: Budget
    seed: int
    defense: Component[Defense] | None = None
    gradient: Gradient = "none"
    precision: Precision = "fp32"
    defended: DefendedClassifier | None = field(default=None, compare=False, repr=False)

    @cached_property
    def id(self) -> str:
        """Digest of all that its clips depend on."""
        return digest(
            {
                "engine": origins.engine(),
                "dataset": self.dataset.identity.model_dump(),
                "model": self.model.identity.model_dump() if self.model else None,
                "attack": self.attack.identity.model_dump(),
                "budget": budget_identity(self.budget).model_dump(),
                "defense": self.defense.identity.model_dump() if self.defense else None,
                "gradient": self.gradient,
                "seed": self.seed,
                **({} if self.precision == "fp32" else {"precision": self.precision}),
            }
        )

    @cached_property
    def attack_stream(self) -> str:
        """Seeds the attack. It leaves the defence out, so that every defence meets the same random starts."""
        return stream_of(self._start)

    @cached_property
    def defense_stream(self) -> str:
        """Seeds the defence under attack."""
        defense = self.defense.identity.stream() if self.defense else None
        return stream_of({"start": self._start, "defense": defense, "gradient": self.gradient})

    @property
    def _start(self) -> dict[str, Any]:
        return {
            "dataset": self.dataset.identity.stream(),
            "model": self.model.identity.stream() if self.model else None,
            "attack": self.attack.identity.stream(),
            "budget": self.budget.settings(),
            "seed": self.seed,
        }

    @property
    def shared(self) -> bool:
        """Whether its clips are stored: gray-box clips serve every defence, present and future."""
        return self.defense is None

    @property
    def passes(self) -> tuple[int, int]:
        """Most forward and backward passes per clip."""
        return self.attack.instance.passes(self.budget)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """dataset x classifier x defence x attack x gradient x knowledge x budget x seed.

    Attributes:
        attack_label: column header.
        unit: where its adversarial clips come from; ``None`` for clean cells.
        threat: the grid's budget as text, which groups cells into tables (an attack may override its effort);
            empty for clean cells.
        defended: the module that is judged.
        queries: how often it is asked: once, if it is deterministic.
    """

    dataset: Component[Dataset]
    model: Component[nn.Module]
    defense: Component[Defense]
    attack_label: str
    knowledge: Knowledge
    gradient: Gradient
    seed: int
    defended: DefendedClassifier = field(compare=False, repr=False)
    unit: ClipsUnit | None = None
    threat: str = ""
    queries: int = 1

    @cached_property
    def identity(self) -> CellIdentity:
        """All defaults written out, weights and code by digest."""
        return CellIdentity(
            engine=origins.engine(),
            dataset=self.dataset.identity,
            model=self.model.identity,
            defense=self.defense.identity,
            attack=self.unit.attack.identity if self.unit else None,
            budget=budget_identity(self.unit.budget) if self.unit else None,
            source=self._source.identity if self._source else None,
            against=self._against.identity if self._against else None,
            knowledge=self.knowledge,
            gradient=self.gradient,
            seed=self.seed,
            queries=self.queries if self.defended.stochastic else None,
            vote=self.defended.purifier.vote if self.defended.purifier is not None else "plurality",
            precision=self.unit.precision if self.unit else "fp32",
        )

    @property
    def id(self) -> str:
        return self.identity.id

    @cached_property
    def judge_stream(self) -> str:
        """Seeds the defence when it is judged."""
        return stream_of(
            {
                "dataset": self.dataset.identity.stream(),
                "model": self.model.identity.stream(),
                "defense": self.defense.identity.stream(),
                "attack": self.unit.attack.identity.stream() if self.unit else None,
                "budget": self.unit.budget.settings() if self.unit else None,
                "source": self._source.identity.stream() if self._source else None,
                "knowledge": self.knowledge,
                "gradient": self.gradient,
                "seed": self.seed,
            }
        )

    @property
    def _source(self) -> Component[nn.Module] | None:
        return self.unit.model if self.unit and self.knowledge == "black-box" else None

    @property
    def _against(self) -> Component[Defense] | None:
        made = self.unit.defense if self.unit else None
        return None if made is None or made.identity == self.defense.identity else made

    @property
    def budget(self) -> Budget | None:
        return self.unit.budget if self.unit else None


def budget_identity(budget: Budget) -> BudgetIdentity:
    """A budget's settings, and the code of its geometry."""
    return BudgetIdentity(**budget.settings(), code=code.digest(budget.geometry))


@dataclass
class Plan:
    """What a run will do.

    Attributes:
        grid: where it comes from.
        dataset: made, with ``refs``, the clips that are run.
        cells: clean ones first, model by model.
        skipped: combinations of the grid that do not exist.
        note: how its clips were selected; empty if they were not.
        natures: of its classifiers, by label, those that are not plain.
    """

    grid: Grid
    dataset: Dataset
    refs: list[ClipRef]
    cells: list[Cell]
    skipped: list[Skipped] = field(default_factory=list)
    note: str = ""
    natures: dict[str, Nature] = field(default_factory=dict)

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
