"""Audits a grid: its stored outcomes, and a few clips asked again."""

from __future__ import annotations

import copy
import re
import secrets
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from bench.audit.asked import Asked, Setting, ask, seconds_of_a_pass
from bench.audit.outcomes import Evidence, examine, rows_of
from bench.audit.probes import ProbedRow, passes, probe
from bench.audit.room import Room
from bench.defense.base import changes_nothing
from bench.defense.defended import DefendedClassifier, automatic, why_not
from bench.errors import BenchError
from bench.plan.cells import Cell, Plan
from bench.records.audits import AuditedRow, Finding
from bench.records.identity import AskedGradient
from bench.records.results import CellResult
from bench.run.engine import LocalEngine
from bench.run.guard import Guard
from bench.threat.budgets import Budget

# What asking one row may take.
MINUTES = 20.0


def maker(defended: DefendedClassifier, device: torch.device) -> Callable[[], DefendedClassifier]:
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
    plan: Plan, row: Evidence, count: int, gradient: AskedGradient, device: torch.device, salt: str
) -> ProbedRow | None:
    """What of a row is asked again: its first clips that are right without an attack."""
    cell = _cell_of(plan, row)
    clean = row.known("clean").get("clean")
    budgets = {str(b): b for b in map(Budget.parse, plan.grid.budgets)}
    if cell is None or clean is None or row.budget not in budgets:
        return None
    right = {o.clip for o in clean.outcomes if o.chance >= 0.5}
    refs = [r for r in plan.refs if r.id in right][:count]
    if not refs:
        return None
    if gradient == "auto":
        gradient = automatic(cell.defense.instance)
    clips = torch.stack([plan.dataset.load(r) for r in refs])
    return ProbedRow(
        make=maker(cell.defended, device),
        clips=clips.to(device),
        ids=[r.id for r in refs],
        labels=torch.tensor([r.label for r in refs], device=device),
        gradient=gradient,
        budget=_askable(budgets[row.budget]),
        salt=salt,
        room=room_of(_cells_of(plan, row).values(), clips[0], device),
    )


def room_of(attacks: Iterable[Cell], clip: Tensor, device: torch.device) -> Room:
    """How many clips of a row there is room for, by what a run of its attacks would take.

    Args:
        attacks: cells of the row.
        clip: any of its clips, ``(3, T, H, W)``.
    """
    engine = LocalEngine(device)
    try:
        return Room(min((engine.batch_size(cell, clip) for cell in attacks if cell.unit is not None), default=1))
    except BenchError:
        raise
    except Exception:  # noqa: BLE001 - one at a time, whoever fails is told
        return Room(1)


def _askable(budget: Budget) -> Budget:
    """The probes know linf and l2; a row of another threat model is asked at linf 4/255, in as many steps."""
    return budget if budget.norm in ("linf", "l2") else Budget(steps=budget.steps, restarts=budget.restarts)


def _takes_it(cell: CellResult) -> bool:
    """Whether an attack goes through the derivative, itself or in one of its moves, which are written ``pgd+exact``."""
    attack = cell.settings.attack
    moves = attack.params.get("moves", []) if attack is not None and cell.gradient == "strongest" else []
    return cell.gradient in ("exact", "diffattack") or any(re.search(r"\+(exact|diffattack)\b", m) for m in moves)


def exact_gradient_was_taken(plan: Plan, row: Evidence) -> Finding | None:
    """Where the exact gradient exists, approximations of it prove nothing: identity BPDA has overstated purifiers by
    tens of points."""
    cell = _cell_of(plan, row)
    adaptive = row.known("adaptive")
    if cell is None or not adaptive or why_not(cell.defense.instance, "exact") is not None:
        return None
    if changes_nothing(cell.defense.instance) or any(map(_takes_it, adaptive.values())):
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
    alone: bool = True,
    minutes: float = MINUTES,
    salt: str | None = None,
    defenses: Collection[str] | None = None,
    store: Path | None = None,
    data_root: Path | None = None,
    checkpoint: Path | None = None,
    working_on: Callable[[Evidence], None] = lambda row: None,
) -> list[AuditedRow]:
    """Audits every row of some results.

    Args:
        plan: of the grid; only its rows that have results are audited.
        results: of the grid.
        clips: how many of each row are asked again; 0 looks at the stored outcomes alone.
        gradient: how the probes differentiate the defence: a gradient, or ``auto``: exact where it exists, else bpda.
        alone: whether attacked and fresh clips are also asked in a process of its own, see :mod:`bench.run.alone`.
        minutes: what asking one row may take, as far as can be told before; the row says what was left out.
        salt: seeds all random numbers of the audit; drawn if not given, and kept in the rows.
        defenses: labels of the rows that are audited; all of them if not given.
        store: folder of the run's store; shared clips that are in it are not made again.
        data_root, checkpoint: those that the plan was made with.
        working_on: told of each row before it is audited.

    Raises:
        BenchError: the gradient does not exist for a defence.
    """
    if gradient in ("query", "none"):
        raise BenchError(f"The probes follow a gradient, and {gradient!r} has none: choose exact, bpda or auto.")
    setting = Setting(
        plan=plan,
        clips=clips,
        salt=salt if salt is not None else secrets.token_hex(8),
        device=torch.device(device),
        seconds=60 * minutes,
        store=store,
        data_root=data_root,
        checkpoint=checkpoint,
    )
    guard = Guard({c.model.label: c.model.instance for c in plan.cells})
    audited = []
    for row in rows_of(results):
        cell = _cell_of(plan, row)
        if cell is None or (defenses is not None and row.defense not in defenses):
            continue
        working_on(row)
        guard.begin([cell.defended])
        suspect = _probed_row(plan, row, clips, gradient, setting.device, setting.salt)
        probed, dear = _within(suspect, setting.seconds)
        findings = probe(probed) if probed is not None else []
        asked = ask(setting, row, _cells_of(plan, row), suspect) if suspect is not None and alone else Asked()
        findings += asked.findings
        what = guard.complaint([cell.defended])
        if what is not None:
            message = f"While it was asked, the defence changed {what}, which it must leave alone."
            findings.append(Finding(check="meddling", severity="fault", message=message))
        of_plan = (exact_gradient_was_taken(plan, row), outcomes_are_of_this_code(plan, row))
        stored = [f for f in of_plan if f is not None]
        found = examine(row, stored, findings, suspect.ids if suspect is not None else ())
        said = {
            "probed": len(probed.ids) if probed is not None else 0,
            "alone": asked.clips,
            "fresh": asked.fresh,
            "dear": "; ".join(filter(None, (dear, asked.dear))),
            "salt": setting.salt if suspect is not None else "",
        }
        audited.append(found.model_copy(update=said))
    return audited


def _cells_of(plan: Plan, row: Evidence) -> dict[str, Cell]:
    """The plan's cells of a row, by the label of their attack."""
    return {
        c.attack_label: c
        for c in plan.cells
        if (c.model.label, c.defense.label) == (row.model, row.defense) and c.threat in ("", row.budget)
    }


def _within(probed: ProbedRow | None, seconds: float) -> tuple[ProbedRow | None, str]:
    """So many of the clips as the probes can ask in time, two at least; or none, and why."""
    if probed is None:
        return None, ""
    each = seconds_of_a_pass(probed) * passes(probed)
    count = min(len(probed.ids), int(seconds / each)) if each > 0 else len(probed.ids)
    if count < min(2, len(probed.ids)):
        return None, f"probing a clip takes about {each / 60:.3g} min, and {seconds / 60:g} min are allowed for a row"
    fewer = replace(probed, clips=probed.clips[:count], ids=probed.ids[:count], labels=probed.labels[:count])
    return fewer, "" if count == len(probed.ids) else f"{seconds / 60:g} min are enough to probe {count} clips"
