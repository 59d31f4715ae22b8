"""From a grid to the smallest set of work: cells, and the adversarial clips they share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from bench.attack.base import Attack
from bench.defense.base import Defense, changes_nothing
from bench.defense.defended import DefendedClassifier, settled, why_not
from bench.defense.nature import PLAIN, Nature
from bench.errors import BenchError, short
from bench.grids.grid import AttackSection, Grid
from bench.plan.cells import Cell, ClipsUnit, Component, Plan
from bench.plan.components import Parts, budgets_of, defend, make_parts
from bench.plan.moves import arm
from bench.plan.probe import first_clip, nature_of
from bench.plan.select import Asking, choose_clips
from bench.records.description import Skipped
from bench.records.identity import Gradient, Knowledge
from bench.records.results import file_name
from bench.threat.budgets import Budget


def make_plan(
    grid: Grid,
    parts: Parts | None = None,
    *,
    data_root: Path | None = None,
    checkpoint: Path | None = None,
    asking: Asking | None = None,
) -> Plan:
    """Expands a grid.

    The undefended classifier is always a row: Robust Acc* of a defence is read against it. A defence that is
    the identity shares the gray-box clips whatever the gradient: there is nothing to differentiate, and they were
    chosen among all iterates, those included at which an adaptive attack would have stopped. Attacks that want final
    answers (:attr:`Attack.decisive_only`) get clips of their own.

    Args:
        parts: what the grid crosses, where it is made already; made from the grid's names if not given.
        data_root: folder of the data set's files.
        checkpoint: weights for the classifier, in place of the shipped or published ones.
        asking: where the clips of a grid with ``select`` are looked at; on the CPU, and forgotten, if not given.

    Raises:
        BenchError: a name or parameter is unknown, files are missing (all are listed), an attack cannot take a
            budget, no clip is left, or two cells would be written to one file.
    """
    if checkpoint is not None and len(grid.models) > 1:
        raise BenchError("--checkpoint fits one classifier, but the grid has several: choose one with --model.")
    parts = parts or make_parts(grid, data_root, checkpoint)
    asking = asking or Asking()
    chosen = choose_clips(grid, parts.dataset, parts.judges, asking)
    parts = replace(parts, dataset=chosen.dataset)
    plan = Plan(grid=grid, dataset=chosen.dataset.instance, refs=chosen.refs, cells=[], note=chosen.note)
    plan.natures = _natures(plan, [*parts.models, *parts.sources.values()], asking.device)
    natures = defaultdict(Nature, plan.natures)
    strangers = {label: _Row(m, *defend(m, parts.undefended, natures[m.label])) for label, m in parts.sources.items()}
    for model in parts.models:
        rows = [_Row(model, *defend(model, d, natures[model.label])) for d in parts.defenses]
        bare = next(r for r in rows if r.defense is parts.undefended)
        plan.cells += [_cell(plan, parts, row, "clean", "clean") for row in rows]
        for section in grid.attack_sections:
            if section.attack is None:
                continue
            for threat, budget in budgets_of(grid, section).items():
                column = _Column(section, parts.attacks[section.label], budget, threat)
                for row in rows:
                    if section.source is not None:
                        _add_transfer(plan, parts, row, column, strangers[str(section.source)])
                    elif section.against is not None:
                        _add_against(
                            plan, parts, row, column, next(r for r in rows if r.defense.label == section.against)
                        )
                    else:
                        _add_cell(plan, parts, row, column, bare)
    _check_files(plan)
    return plan


def _natures(plan: Plan, models: Iterable[Component[nn.Module]], device: torch.device) -> dict[str, Nature]:
    """What the classifiers of a plan are beyond their answers, by label, where they are more than plain ones.

    The networks of this package are tested, and not asked; those that it wraps are.
    """
    foreign = {m.label: m.instance for m in models if _is_foreign(m.instance)}
    clip = first_clip(plan.dataset, plan.refs) if foreign else None
    if clip is None:
        return {}
    found = {label: nature_of(network, clip, device) for label, network in foreign.items()}
    return {label: nature for label, nature in found.items() if nature != PLAIN}


def _is_foreign(network: nn.Module) -> bool:
    inside = getattr(network, "wrapped_network", network)
    return type(inside).__module__.partition(".")[0] != "bench"


@dataclass(frozen=True)
class _Row:
    """A classifier behind a defence."""

    model: Component[nn.Module]
    defense: Component[Defense]
    defended: DefendedClassifier = field(repr=False)


@dataclass(frozen=True)
class _Column:
    """An attack under one budget; ``threat`` is the grid's, as text."""

    section: AttackSection
    attack: Component[Attack]
    budget: Budget
    threat: str


def _cell(
    plan: Plan,
    parts: Parts,
    row: _Row,
    attack_label: str,
    knowledge: Knowledge,
    *,
    gradient: Gradient = "none",
    unit: ClipsUnit | None = None,
    threat: str = "",
) -> Cell:
    return Cell(
        dataset=parts.dataset,
        model=row.model,
        defense=row.defense,
        attack_label=attack_label,
        knowledge=knowledge,
        gradient=gradient,
        seed=plan.grid.seed,
        defended=row.defended,
        unit=unit,
        threat=threat,
        queries=plan.grid.queries if row.defended.stochastic else 1,
    )


def _skip(
    plan: Plan, row: _Row, column: _Column, reason: str, kind: Literal["gradient", "refused"] = "refused"
) -> None:
    labels = {"model": row.model.label, "defense": row.defense.label, "attack": column.section.label}
    plan.skipped.append(Skipped(**labels, reason=reason, kind=kind))


def _add_transfer(plan: Plan, parts: Parts, row: _Row, column: _Column, source: _Row) -> None:
    """Adds a black-box cell: clips made on another classifier, once for all defences and classifiers."""
    if source.model.identity == row.model.identity:
        label = source.model.label
        reason = f"{label} is the classifier that is evaluated: its own clips are the gray-box attack."
        _skip(plan, row, column, reason)
        return
    refused = column.attack.instance.refuses(stochastic=False, transfer=True)
    if refused:
        _skip(plan, row, column, refused)
        return
    unit = ClipsUnit(
        dataset=parts.dataset,
        model=source.model,
        attack=column.attack,
        budget=column.budget,
        seed=plan.grid.seed,
        precision=plan.grid.precision,
        defended=source.defended.with_gradient("exact"),
    )
    plan.cells.append(_cell(plan, parts, row, column.section.label, "black-box", unit=unit, threat=column.threat))


def _add_against(plan: Plan, parts: Parts, row: _Row, column: _Column, against: _Row) -> None:
    """Adds the undefended classifier's cell of clips that are made against a defence which is not there."""
    label, gradient = against.defense.label, column.section.gradient or "none"
    defended = against.defended.with_gradient(gradient)
    reason: str | None = f"Clips that are made against {label} are shown to the undefended classifier alone."
    if changes_nothing(row.defense.instance):
        reason = why_not(against.defense.instance, gradient)
        reason = reason or column.attack.instance.refuses(stochastic=defended.stochastic, transfer=False)
    if reason:
        _skip(plan, row, column, reason)
        return
    unit = ClipsUnit(
        dataset=parts.dataset,
        model=row.model,
        attack=arm(column.attack, against.defense.instance, against.defended.classifier, column.budget),
        budget=column.budget,
        seed=plan.grid.seed,
        precision=plan.grid.precision,
        defense=against.defense,
        gradient=gradient,
        defended=defended,
    )
    cell = _cell(plan, parts, row, column.section.label, "gray-box", gradient=gradient, unit=unit, threat=column.threat)
    plan.cells.append(cell)


def _add_cell(plan: Plan, parts: Parts, row: _Row, column: _Column, bare: _Row) -> None:
    """Adds an attacked cell with its unit, or the reason why there is none."""
    defense = row.defense.instance
    component = arm(column.attack, defense, row.defended.classifier, column.budget)
    attack = component.instance
    gradient = column.section.gradient or "none"
    adaptive = gradient != "none" and attack.uses_model
    reason = why_not(defense, gradient) if adaptive else None
    if reason:
        _skip(plan, row, column, reason, "gradient")
        return
    gradient = settled(defense, gradient)
    # Nothing stands in the way of the bare classifier's own clips, unless the attack wants its answers to be final.
    through = adaptive and (not changes_nothing(defense) or attack.decisive_only)
    defended = row.defended.with_gradient(gradient) if through else bare.defended.with_gradient("exact")
    unit = ClipsUnit(
        dataset=parts.dataset,
        model=row.model if attack.uses_model else None,
        attack=component,
        budget=column.budget,
        seed=plan.grid.seed,
        precision=plan.grid.precision if attack.uses_model else "fp32",
        defense=row.defense if through else None,
        gradient=gradient if through else "none",
        defended=defended if attack.uses_model else None,
    )
    refused = attack.refuses(stochastic=defended.stochastic and through, transfer=unit.shared)
    if refused:
        _skip(plan, row, column, refused)
        return
    unasked: Knowledge = "universal" if attack.learned else "noise"
    knowledge: Knowledge = "adaptive" if adaptive else "gray-box" if attack.uses_model else unasked
    taken = gradient if adaptive else "none"
    plan.cells.append(
        _cell(plan, parts, row, column.section.label, knowledge, gradient=taken, unit=unit, threat=column.threat)
    )


# File systems take 255, and a file that is being written has a longer name.
_LONGEST_NAME = 220


def _check_files(plan: Plan) -> None:
    """Labels that differ only in what no file name holds would print two rows and leave one file."""
    seen: dict[str, Cell] = {}
    for cell in plan.cells:
        labels = cell.model.label, cell.defense.label, cell.attack_label, cell.threat
        name = file_name(*labels).casefold()  # some file systems tell no case apart
        if len(name.encode()) > _LONGEST_NAME:
            raise BenchError(
                f"The labels {', '.join(short(label) for label in labels if label)} make a file name of "
                f"{len(name.encode())} bytes, and {_LONGEST_NAME} are the most: give the longest another 'label'."
            )
        other = seen.setdefault(name, cell)
        if other is not cell:
            others = other.model.label, other.defense.label, other.attack_label, other.threat
            one, two = next((a, b) for a, b in zip(others, labels, strict=True) if a != b)
            raise BenchError(
                f"The labels {one!r} and {two!r} make one file name, {file_name(*labels)}: give one another 'label'."
            )
