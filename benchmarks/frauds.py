"""What the audit says of each planted fraud: the deceptive defences of ``planted.py``.

Run: ``python benchmarks/frauds.py``. Each is measured on six uniform clips before a classifier whose smallest fooling
perturbation is known, with the default adaptive set, and audited with all probes. Beside the grade stand the clips that
are left under each attack.
"""

from __future__ import annotations

import inspect
import tempfile
from pathlib import Path

import planted
import torch
from rich.console import Console
from rich.progress import track

from bench import Purifier, RobustModel
from bench.audit.rows import audit
from bench.grids.grid import read_grid
from bench.plan.cells import Plan
from bench.plan.expand import make_plan
from bench.records.results import CellResult
from bench.run.engine import LocalEngine
from bench.run.export import collect
from bench.run.runner import Runner
from bench.run.store import Store

_GRID = """
title: A planted fraud
dataset: {{name: "levels:GrayClips", length: 6}}
models: ["levels:level_classifier"]
defenses: [none, "planted:{fraud}"]
budgets: [{{norm: linf, size: 0.12, steps: 4}}]
attacks: [{attacks}]
"""

_SEVERITIES = {"fault": "red", "warning": "yellow", "note": "dim"}


def frauds() -> list[str]:
    """The names of the frauds, in the order of their file."""
    return [
        name
        for name, kind in vars(planted).items()
        if inspect.isclass(kind)
        and issubclass(kind, (Purifier, RobustModel))
        and kind not in (Purifier, RobustModel)
        and not name.startswith("_")
    ]


def measured(plan: Plan, folder: Path) -> list[CellResult]:
    """The cells of a plan, with the zero-budget control on four clips."""
    store = Store(folder)
    try:
        Runner(plan, store, LocalEngine(torch.device("cpu")), control=4).run()
        return collect(plan, store)
    finally:
        store.close()


def main() -> None:
    console = Console(width=None if Console().is_terminal else 120)
    for name in track(frauds(), "auditing", console=Console(stderr=True)):
        attacks = "clean, noise, PGD, PGD+BPDA, PGD+exact"
        if issubclass(getattr(planted, name), RobustModel):
            attacks = "clean, noise, PGD, PGD+exact"  # there is nothing in it for bpda to replace
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "fraud.yaml"
            path.write_text(_GRID.format(fraud=name, attacks=attacks), encoding="utf-8")
            results = measured(make_plan(read_grid(path)), Path(folder))
            # What is audited was never asked anything: a plan of its own.
            row = next(r for r in audit(make_plan(read_grid(path)), results, clips=6) if "planted:" in r.defense)
        left = ", ".join(
            f"{r.attack} {r.score.correct:g}{f' ({r.score.failed} failed)' if r.score.failed else ''}"
            for r in results
            if "planted:" in r.defense
        )
        console.print(f"[bold]{name}[/bold]: grade {row.grade}; right of 6: {left}", highlight=False)
        for finding in row.findings:
            console.print(
                f"  {finding.severity}, {finding.check}: {finding.message}", style=_SEVERITIES[finding.severity]
            )


if __name__ == "__main__":
    main()
