"""From a grid to the smallest set of work: cells, and the adversarial clips they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from bench.defense.base import Defense, changes_nothing
from bench.defense.defended import GRADIENTS, DefendedClassifier, why_not
from bench.errors import BenchError, nearest
from bench.grids.grid import AttackSection, Grid
from bench.plan.cells import Cell, ClipsUnit, Component, Plan
from bench.plan.components import _components, _dataset, _defend, _models
from bench.records.description import Skipped
from bench.registry import ATTACKS, DEFENSES, Spec
from bench.threat.budgets import Budget


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
