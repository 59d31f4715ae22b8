"""From a grid to the smallest set of work: cells, and the adversarial clips they share."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from bench import code
from bench.attack.base import Attack
from bench.data.base import ClipRef, Dataset, Missing, listing
from bench.defense.base import Defense, RobustModel, changes_nothing
from bench.defense.defended import GRADIENTS, DefendedClassifier, why_not
from bench.defense.trained import know_origin
from bench.errors import BenchError, nearest
from bench.grids.grid import AttackSection, Grid
from bench.records.description import Skipped
from bench.registry import ATTACKS, DATASETS, DEFENSES, MODELS, Entry, Spec
from bench.threat.budgets import Budget
from bench.weights.files import fingerprint, sha256_of
from bench.weights.zoo import build_classifier, find_weights


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


def _identity(spec: Spec, entry: Entry, made: Any) -> dict[str, Any]:
    """What identifies a component: its parameters and code, and those of attacks that it runs."""
    settings: dict[str, Any] = {"name": spec.name, "params": entry.settings(spec.params), "code": entry.code}
    if isinstance(made, Attack) and made.parts:
        inner = [(part, ATTACKS.get(part.name)) for part in map(Spec.parse, made.parts)]
        settings["parts"] = [_identity(part, e, e.create(part.params)) for part, e in inner]
    if isinstance(made, Attack) and made.files:
        settings["files"] = [sha256_of(file) if file.is_file() else "absent" for file in made.files]
    elif isinstance(made, Attack):  # a defence's weights are part of it, an attack need not keep its own
        files = {k: sha256_of(Path(v)) for k, v in settings["params"].items() if _is_file(v)}
        settings |= {"files": files} if files else {}
    return settings


def _is_file(value: Any) -> bool:
    """Whether a parameter is a file with an ending; a word such as ``margin`` is none, whatever lies in this folder."""
    if not isinstance(value, str) or not Path(value).suffix:
        return False
    return os.path.isfile(value)  # a Path would raise where a text is too long for a file's name


def _components(specs: list[Spec], registry: Any) -> list[Component]:
    made = []
    for spec in specs:
        entry = registry.get(spec.name)
        thing = entry.create(spec.params)
        component = Component(str(spec), thing, _identity(spec, entry, thing))
        made.append(_with_weights(component, component.made) if isinstance(component.made, nn.Module) else component)
    return made


def _with_weights(component: Component, network: nn.Module) -> Component:
    """Adds a network's weights, if it has any, to what identifies a component."""
    if not any(True for _ in (*network.parameters(), *network.buffers())):
        return component
    return replace(component, settings={**component.settings, "weights": fingerprint(network)})


def _architecture(factory: Any, network: nn.Module) -> str:
    """Digest of the code that makes a network and of the layers that it is made of, wherever they come from."""
    layers = {type(layer) for layer in network.modules()}
    return code.digest(factory, *sorted((t for t in layers if code.is_ours(t)), key=lambda t: t.__qualname__))


def _defend(model: Component, defense: Component) -> tuple[Component, DefendedClassifier]:
    """Puts a classifier behind a defence, once for all cells; a robust model is identified by its weights too."""
    try:
        defended = DefendedClassifier(model.made, defense.made, "none")
    except BenchError:
        raise
    except Exception as error:
        raise BenchError(
            f"Defence {defense.label} cannot wrap {model.label}: {type(error).__name__}: {error}"
        ) from error
    if isinstance(defense.made, RobustModel):
        defense = _with_weights(defense, defended.classifier)
        made = _architecture(type(defense.made), defended.classifier)
        defense = replace(defense, settings={**defense.settings, "code": made})
    return defense, defended


def _models(
    grid: Grid, specs: list[Spec], dataset: Dataset, checkpoint: Path | None, data_root: Path | None
) -> list[Component]:
    """Builds the classifiers, or says in one message everything that is missing on this machine."""
    for spec in specs:
        MODELS.get(spec.name).check({k: v for k, v in spec.params.items() if k != "checkpoint"})
    found = [(spec, find_weights(spec, grid.dataset.name, checkpoint, data_root)) for spec in specs]
    missing = [*dataset.missing(), *(w for _, w in found if isinstance(w, Missing))]
    if missing:
        raise BenchError(f"Grid {grid.name!r} needs files that are not here:\n{listing(missing)}")
    models = []
    for spec, weights in found:
        assert not isinstance(weights, Missing)
        model: nn.Module = build_classifier(spec, weights)
        know_origin(model, spec.name, grid.dataset.name)
        entry = MODELS.get(spec.name)
        params = {k: v for k, v in entry.settings(spec.params).items() if k != "checkpoint"}
        digits = fingerprint(model)
        settings = {"name": spec.name, "params": params, "code": _architecture(entry.factory, model), "weights": digits}
        # Other weights must not pass for the shipped or published ones, nor for one another, in any table.
        label = str(spec) if checkpoint is None else f"{spec}@{checkpoint.stem}-{digits[:6]}"
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
    the identity shares the gray-box clips whatever the gradient: there is nothing to differentiate, and they were
    chosen among all iterates, those included at which an adaptive attack would have stopped. Attacks that want final
    answers (:attr:`Attack.decisive_only`) get clips of their own.

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
    wanted = {str(s.source): s.source for s in grid.attack_sections if s.source is not None}
    models = _models(grid, grid.model_specs, dataset.made, checkpoint, data_root)
    # Only if there are any: the data set's files would be looked for a second time.
    sources = _models(grid, list(wanted.values()), dataset.made, None, data_root) if wanted else []
    return expand(grid, dataset, models, defenses, attacks, {m.label: m for m in sources})


def _check_attacks(grid: Grid, attacks: Mapping[str, Component]) -> None:
    for section in grid.attack_sections:
        if section.gradient is not None and section.gradient not in GRADIENTS:
            raise BenchError(
                f"Attack {section.label!r} asks for gradient {section.gradient!r}"
                f"{nearest(section.gradient, GRADIENTS)}; known: {', '.join(GRADIENTS)}."
            )
        for budget in _budgets(grid, section).values() if section.attack else ():
            made = attacks[section.label].made
            made.check(budget)
            if section.gradient == "query" and made.passes(budget)[1]:
                raise BenchError(
                    f"Attack {section.label!r} takes gradients, and 'query' has none: write one of "
                    f"{', '.join(g for g in GRADIENTS if g not in ('query', 'none'))}."
                )


def expand(
    grid: Grid,
    dataset: Component,
    models: list[Component],
    defenses: list[Component],
    attacks: Mapping[str, Component],
    sources: Mapping[str, Component] | None = None,
) -> Plan:
    """Crosses made components into cells; ``attacks`` and ``sources``, classifiers to transfer from, by label."""
    _check_attacks(grid, attacks)
    if not any(changes_nothing(d.made) for d in defenses):
        defenses = [*_components([Spec("none")], DEFENSES), *defenses]
    refs = dataset.made.refs()[: grid.dataset.clips]
    if not refs:
        raise BenchError(f"Data set {grid.dataset.name!r} holds no clip for this grid.")
    plan = Plan(grid, dataset.made, refs, [])
    strangers = {
        label: (c, _defend(c, _components([Spec("none")], DEFENSES)[0])[1]) for label, c in (sources or {}).items()
    }
    for model in models:
        pairs = [_defend(model, d) for d in defenses]
        bare = next(d for c, d in pairs if changes_nothing(c.made))
        plan.cells += [
            Cell(dataset, model, c, "clean", "clean", "none", grid.seed, d, queries=_queries(grid, d)) for c, d in pairs
        ]
        for section in grid.attack_sections:
            if section.attack is None:
                continue
            for threat, budget in _budgets(grid, section).items():
                for defense, defended in pairs:
                    common = Cell(
                        dataset,
                        model,
                        defense,
                        section.label,
                        "noise",
                        "none",
                        grid.seed,
                        defended,
                        None,
                        threat,
                        _queries(grid, defended),
                    )
                    attack = attacks[section.label]
                    if section.source is not None:
                        _add_transfer(plan, common, *strangers[str(section.source)], attack, budget)
                    else:
                        _add_cell(plan, common, bare, attack, budget, section.gradient or "none")
    return plan


def _queries(grid: Grid, defended: DefendedClassifier) -> int:
    return grid.queries if defended.stochastic else 1


def _skip(plan: Plan, cell: Cell, reason: str) -> None:
    plan.skipped.append(Skipped(cell.model.label, cell.defense.label, cell.attack_label, reason))


def _add_transfer(
    plan: Plan, cell: Cell, source: Component, stranger: DefendedClassifier, attack: Component, budget: Budget
) -> None:
    """Adds a black-box cell: clips made on another classifier, once for all defences and classifiers."""
    if source.settings == cell.model.settings:
        reason = f"{source.label} is the classifier that is evaluated: its own clips are the gray-box attack."
        _skip(plan, cell, reason)
        return
    refused = attack.made.refuses(stochastic=False, transfer=True)
    if refused:
        _skip(plan, cell, refused)
        return
    unit = ClipsUnit(cell.dataset, source, attack, budget, cell.seed, victim=stranger.with_gradient("exact"))
    plan.cells.append(replace(cell, knowledge="black-box", unit=unit))


def _add_cell(
    plan: Plan, cell: Cell, bare: DefendedClassifier, attack: Component, budget: Budget, gradient: str
) -> None:
    """Adds an attacked cell with its unit, or the reason why there is none."""
    made: Defense = cell.defense.made
    uses_model = attack.made.uses_model
    adaptive = gradient != "none" and uses_model
    reason = why_not(made, gradient) if adaptive else None
    if reason:
        _skip(plan, cell, reason)
        return
    # Nothing stands in the way of the bare classifier's own clips, unless the attack wants its answers to be final.
    through = adaptive and (not changes_nothing(made) or attack.made.decisive_only)
    victim = cell.defended.with_gradient(gradient) if through else bare.with_gradient("exact")
    unit = ClipsUnit(
        cell.dataset,
        cell.model if uses_model else None,
        attack,
        budget,
        cell.seed,
        cell.defense if through else None,
        gradient if through else "none",
        victim if uses_model else None,
    )
    refused = attack.made.refuses(stochastic=victim.stochastic and through, transfer=unit.shared)
    if refused:
        _skip(plan, cell, refused)
        return
    knowledge = "adaptive" if adaptive else "gray-box" if uses_model else "noise"
    plan.cells.append(replace(cell, knowledge=knowledge, gradient=gradient if adaptive else "none", unit=unit))
