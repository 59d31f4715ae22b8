"""Running grids of small components."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from bench.grids.grid import read_grid
from bench.plan.cells import Plan
from bench.plan.expand import make_plan
from bench.records.provenance import Provenance
from bench.records.results import CellResult
from bench.run.crew import ThisProcess
from bench.run.engine import LocalEngine
from bench.run.export import collect, export
from bench.run.runner import Runner
from bench.run.store import Store


def run(path: Path, store: Path, **options: Any) -> dict[tuple[str, str], CellResult]:
    """Runs a grid file; results by (defence, attack)."""
    plan = make_plan(read_grid(path))
    return {(r.defense, r.attack): r for r in run_plan(plan, store, **options)}


def run_plan(plan: Plan, store: Path, **options: Any) -> list[CellResult]:
    """Runs a plan, without its zero-budget control unless that is asked for; all of its cells."""
    opened = Store(store)
    try:
        Runner(plan, opened, LocalEngine(torch.device("cpu")), **{"control": 0, **options}).run()
        return collect(plan, opened)
    finally:
        opened.close()


def exported(path: Path, folder: Path, *, ran: bool = True, by: Provenance | None = None, **options: Any) -> list[str]:
    """Runs a grid into a results folder; returns the names of the files that were removed.

    Args:
        ran: whether anything is left to do.
        by: who is said to compute; this process if not given.
    """
    plan = make_plan(read_grid(path))
    store = Store(folder / ".store")
    here = ThisProcess(plan, LocalEngine(torch.device("cpu")))
    store.computed_by = lambda: by or here.computed_by
    Runner(plan, store, here, **options).run()
    _, stale = export(plan, store, folder, ran=ran)
    store.close()
    return stale


def files(folder: Path) -> dict[str, Any]:
    """What the files of a results folder say, but who computed it, when and how long: all that has to be the same
    whoever does it."""
    read = {p.name: json.loads(p.read_text()) for p in sorted(folder.glob("*.json")) if p.name != "_run.json"}
    return {name: {k: v for k, v in content.items() if k != "provenance"} for name, content in read.items()}
