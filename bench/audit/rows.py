"""Audits a grid: its stored outcomes, and a few clips asked again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch

from bench.audit.outcomes import Evidence, examine, rows_of
from bench.audit.probes import ProbedRow, probe
from bench.defense.base import changes_nothing
from bench.defense.defended import DefendedClassifier, why_not
from bench.errors import BenchError
from bench.plan.cells import Cell, Plan
from bench.records.audits import AuditedRow, Finding
from bench.records.identity import AskedGradient
from bench.records.results import CellResult
from bench.threat.budgets import Budget


def _maker(defended: DefendedClassifier, device: torch.device) -> Callable[[], DefendedClassifier]:
    """Makes copies of a defended classifier that was never asked anything. Weights are shared, all else is not."""
    defended.to(device)

    def make() -> DefendedClassifier:
        weights: dict[int, object] = {id(p): p for p in defended.parameters()}
        return copy.deepcopy(defended, weights)

    return make


def _cell_of(plan: Plan, row: Evidence) -> Cell | None:
    """One of the row's cells, if the plan has the row."""
    return next((c for c in plan.cells if (c.model.label, c.defense.label) == (row.model, row.defense)), None)


def _probed_row(
    plan: Plan, row: Evidence, clips: int, gradient: AskedGradient, device: torch.device
) -> ProbedRow | None:
    """What of a row is asked again: its first clips that are right without an attack."""
    cell = _cell_of(plan, row)
    clean = row.known("clean").get("clean")
    budgets = {str(b): b for b in map(Budget.parse, plan.grid.budgets)}
    if cell is None or clean is None or row.budget not in budgets:
        return None
    right = {o.clip for o in clean.outcomes if o.chance >= 0.5}
    refs = [r for r in plan.refs if r.id in right][:clips]
    if not refs:
        return None
    if gradient == "auto":
        gradient = "exact" if why_not(cell.defense.instance, "exact") is None else "bpda"
    return ProbedRow(
        make=_maker(cell.defended, device),
        clips=torch.stack([plan.dataset.load(r) for r in refs]).to(device),
        ids=[r.id for r in refs],
        labels=torch.tensor([r.label for r in refs], device=device),
        gradient=gradient,
        budget=_askable(budgets[row.budget]),
    )


def _askable(budget: Budget) -> Budget:
    """The probes know linf and l2; a row of another threat model is asked at linf 4/255, in as many steps."""
    return budget if budget.norm in ("linf", "l2") else Budget(steps=budget.steps, restarts=budget.restarts)


def exact_gradient_was_taken(plan: Plan, row: Evidence) -> Finding | None:
    """Where the exact gradient exists, approximations of it prove nothing: identity BPDA has overstated purifiers by
    tens of points."""
    cell = _cell_of(plan, row)
    adaptive = row.known("adaptive")
    if cell is None or not adaptive or why_not(cell.defense.instance, "exact") is not None:
        return None
    if changes_nothing(cell.defense.instance) or any(c.gradient in ("exact", "diffattack") for c in adaptive.values()):
        return None
    message = "This defence has an exact gradient and no attack takes it: add PGD+exact."
    return Finding(check="exact gradient", severity="warning", message=message, cells=list(adaptive))


def outcomes_are_of_this_code(plan: Plan, row: Evidence) -> Finding | None:
    """Stored outcomes of other code, weights or settings say nothing about the defence that is here now."""
    now = {(c.model.label, c.defense.label, c.attack_label, c.threat): c for c in plan.cells}
    stale = []
    for label, result in row.cells.items():
        cell = now.get((result.model, result.defense, label, result.budget))
        # The seed is the run's, and its digest the only thing in which it shows.
        if cell is not None and cell.identity.model_copy(update={"seed": result.settings.seed}).id != result.cell:
            stale.append(label)
    if not stale:
        return None
    message = "Other code, weights or settings than those installed gave these outcomes: run the grid again."
    return Finding(check="stale", severity="fault", message=message, cells=stale)


def audit(
    plan: Plan,
    results: Sequence[CellResult],
    *,
    clips: int = 8,
    gradient: AskedGradient = "auto",
    device: torch.device | str = "cpu",
    working_on: Callable[[Evidence], None] = lambda row: None,
) -> list[AuditedRow]:
    """Audits every row of some results.

    Args:
        plan: of the grid; only its rows that have results are audited.
        results: of the grid.
        clips: how many of each row are asked again; 0 looks at the stored outcomes alone.
        gradient: how the probes differentiate the defence: a gradient, or ``auto``: exact where it exists, else bpda.
        working_on: told of each row before it is audited.

    Raises:
        BenchError: the gradient does not exist for a defence.
    """
    if gradient in ("query", "none"):
        raise BenchError(f"The probes follow a gradient, and {gradient!r} has none: choose exact, bpda or auto.")
    audited = []
    for row in rows_of(results):
        if _cell_of(plan, row) is None:
            continue
        working_on(row)
        probed = _probed_row(plan, row, clips, gradient, torch.device(device)) if clips else None
        findings = probe(probed) if probed is not None else []
        of_plan = (exact_gradient_was_taken(plan, row), outcomes_are_of_this_code(plan, row))
        stored = [f for f in of_plan if f is not None]
        audited.append(examine(row, stored, findings, probed.ids if probed is not None else ()))
    return audited
