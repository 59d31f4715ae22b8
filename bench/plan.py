"""From a grid to the smallest set of work: cells, and the adversarial clips they share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from bench.attack import Attack
from bench.budgets import Budget
from bench.dataset import ClipRef, Dataset, Missing, listing
from bench.defended import GRADIENTS, why_not
from bench.defense import Defense, Purifier
from bench.errors import BenchError, nearest
from bench.grid import AttackSection, Grid
from bench.models.checkpoints import build_classifier, find_weights, fingerprint
from bench.registry import ATTACKS, DATASETS, DEFENSES, MODELS, Spec

# Part of every cell's identity. Bump it when the engine itself (loops, judge, seeds) changes results.
ENGINE_VERSION = 1


def digest(settings: Any) -> str:
    """Identity of anything made of plain values: 16 hex digits of its canonical JSON."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


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
    """

    dataset: Component
    model: Component | None
    attack: Component
    budget: Budget
    seed: int
    defense: Component | None = None
    gradient: str = "none"

    @cached_property
    def start_key(self) -> str:
        """Seeds the attack. It leaves the defence out, so that every defence meets the same random starts."""
        return digest(
            {
                "engine": ENGINE_VERSION,
                "dataset": self.dataset.settings,
                "model": self.model.settings if self.model else None,
                "attack": self.attack.settings,
                "budget": self.budget.settings(),
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
        knowledge: ``clean``, ``noise``, ``gray-box`` or ``adaptive``.
        unit: where its adversarial clips come from; ``None`` for clean cells.
        threat: the grid's budget as text, which groups cells into tables (an attack may override its effort);
            empty for clean cells.
    """

    dataset: Component
    model: Component
    defense: Component
    attack_label: str
    knowledge: str
    gradient: str
    seed: int
    unit: ClipsUnit | None = None
    threat: str = ""

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Canonical settings: all defaults written out, weights and code by digest."""
        return {
            "engine": ENGINE_VERSION,
            "dataset": dict(self.dataset.settings),
            "model": dict(self.model.settings),
            "defense": dict(self.defense.settings),
            "attack": dict(self.unit.attack.settings) if self.unit else None,
            "budget": self.unit.budget.settings() if self.unit else None,
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


@dataclass(frozen=True)
class Skipped:
    """A combination that does not exist, and why."""

    model: str
    defense: str
    attack: str
    reason: str


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
        """Most forward and backward passes: every unit once, and one judging pass per cell and clip."""
        forwards = backwards = 0
        for unit in self.units:
            forward, backward = unit.passes
            forwards += forward * len(self.refs)
            backwards += backward * len(self.refs)
        return forwards + len(self.cells) * len(self.refs), backwards


def _dataset(grid: Grid, data_root: Path | None) -> Component:
    spec = grid.dataset.spec
    entry = DATASETS.get(spec.name)
    takes_root = any(p.name == "root" for p in entry.parameters)
    params = {**spec.params, **({"root": data_root} if takes_root and "root" not in spec.params else {})}
    identity = {k: v for k, v in entry.settings(params).items() if k != "root"}
    made: Dataset = entry.create(params)
    files = made.fingerprint()
    settings = {"name": spec.name, "params": identity, "code": entry.code, **({"files": files} if files else {})}
    return Component(str(spec), made, settings)


def _components(specs: list[Spec], registry: Any) -> list[Component]:
    made = []
    for spec in specs:
        entry = registry.get(spec.name)
        component = entry.create(spec.params)
        settings = {"name": spec.name, "params": entry.settings(spec.params), "code": entry.code}
        if isinstance(component, nn.Module) and any(True for _ in component.parameters()):
            settings["weights"] = fingerprint(component)  # of a purifier's own network
        made.append(Component(str(spec), component, settings))
    return made


def _models(grid: Grid, dataset: Dataset, checkpoint: Path | None, data_root: Path | None) -> list[Component]:
    """Builds the classifiers, or says in one message everything that is missing on this machine."""
    for spec in grid.model_specs:
        MODELS.get(spec.name).check({k: v for k, v in spec.params.items() if k != "checkpoint"})
    found = [(spec, find_weights(spec, grid.dataset.name, checkpoint, data_root)) for spec in grid.model_specs]
    missing = [*dataset.missing(), *(w for _, w in found if isinstance(w, Missing))]
    if missing:
        raise BenchError(f"Grid {grid.name!r} needs files that are not here:\n{listing(missing)}")
    models = []
    for spec, weights in found:
        assert not isinstance(weights, Missing)
        model: nn.Module = build_classifier(spec, weights)
        settings = {"name": spec.name, "params": dict(spec.params), "weights": fingerprint(model)}
        # Other weights must not pass for the shipped or published ones in any table.
        label = str(spec) if checkpoint is None else f"{spec}@{checkpoint.stem}"
        models.append(Component(label, model, settings))
    return models


def _budgets(grid: Grid, section: AttackSection) -> dict[str, Budget]:
    """The budgets under which an attack is run, by the text of the grid's budget each belongs to."""
    budgets = {str(Budget.parse(b)): Budget.parse({**b, **section.budget}) for b in grid.budgets}
    if len(budgets) < len(grid.budgets):
        raise BenchError(f"Grid {grid.name!r} lists the same budget twice: remove one.")
    return budgets


def make_plan(grid: Grid, *, data_root: Path | None = None, checkpoint: Path | None = None) -> Plan:
    """Expands a grid.

    The undefended classifier is always a row: Robust Acc* of a defence is read against it. A defence that is
    the identity shares the gray-box clips whatever the gradient, since there is nothing to differentiate.

    Args:
        data_root: folder of the data set's files.
        checkpoint: weights for the classifier, in place of the shipped or published ones.

    Raises:
        BenchError: a name or parameter is unknown, files are missing (all are listed), or an attack cannot
            take a budget.
    """
    if checkpoint is not None and len(grid.models) > 1:
        raise BenchError("--checkpoint fits one classifier, but the grid has several: choose one with --model.")
    # Names first: a typing error must not cost the time it takes to load a network.
    attacks = {s.label: _components([s.attack], ATTACKS)[0] for s in grid.attack_sections if s.attack}
    defenses = _components(grid.defense_specs, DEFENSES)
    dataset = _dataset(grid, data_root)
    _check_attacks(grid, attacks)
    models = _models(grid, dataset.made, checkpoint, data_root)
    return expand(grid, dataset, models, defenses, attacks)


def _check_attacks(grid: Grid, attacks: Mapping[str, Component]) -> None:
    for section in grid.attack_sections:
        if section.gradient is not None and section.gradient not in GRADIENTS:
            raise BenchError(
                f"Attack {section.label!r} asks for gradient {section.gradient!r}"
                f"{nearest(section.gradient, GRADIENTS)}; known: {', '.join(GRADIENTS)}."
            )
        for budget in _budgets(grid, section).values() if section.attack else ():
            attacks[section.label].made.check(budget)


def expand(
    grid: Grid,
    dataset: Component,
    models: list[Component],
    defenses: list[Component],
    attacks: Mapping[str, Component],
) -> Plan:
    """Crosses made components into cells; ``attacks`` is keyed by label."""
    _check_attacks(grid, attacks)
    if not any(isinstance(d.made, Purifier) and d.made.identity for d in defenses):
        defenses = [*_components([Spec("none")], DEFENSES), *defenses]
    refs = dataset.made.refs()[: grid.dataset.clips]
    if not refs:
        raise BenchError(f"Data set {grid.dataset.name!r} holds no clip for this grid.")
    plan = Plan(grid, dataset.made, refs, [])
    for model in models:
        plan.cells += [Cell(dataset, model, d, "clean", "clean", "none", grid.seed) for d in defenses]
        for section in grid.attack_sections:
            if section.attack is None:
                continue
            for threat, budget in _budgets(grid, section).items():
                for defense in defenses:
                    _add_cell(plan, dataset, model, defense, attacks[section.label], section, budget, threat)
    return plan


def _add_cell(
    plan: Plan,
    dataset: Component,
    model: Component,
    defense: Component,
    attack: Component,
    section: AttackSection,
    budget: Budget,
    threat: str,
) -> None:
    made: Defense = defense.made
    uses_model = attack.made.uses_model
    gradient = section.gradient or "none"
    adaptive = gradient != "none" and uses_model
    reason = why_not(made, gradient) if adaptive else None
    if reason:
        plan.skipped.append(Skipped(model.label, defense.label, section.label, reason))
        return
    nothing_there = isinstance(made, Purifier) and made.identity
    unit = ClipsUnit(
        dataset,
        model if uses_model else None,
        attack,
        budget,
        plan.grid.seed,
        defense if adaptive and not nothing_there else None,
        gradient if adaptive and not nothing_there else "none",
    )
    knowledge = "adaptive" if adaptive else "gray-box" if uses_model else "noise"
    plan.cells.append(Cell(dataset, model, defense, section.label, knowledge, gradient, plan.grid.seed, unit, threat))
