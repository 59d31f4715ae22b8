"""What the audit says of each planted fraud: the deceptive defences of ``planted.py``.

Run: ``python benchmarks/frauds.py [NAME ...]``. Each is measured on six uniform clips before a classifier whose
smallest fooling perturbation is known, with the default adaptive set, and audited: with all probes, and in a process of
its own. Beside the grade stand the clips that are left under each attack. ``BEFORE`` holds the grades that the audit
gave when it asked no process of its own and nobody watched over weights and modes.
"""

from __future__ import annotations

import inspect
import sys
import tempfile
from pathlib import Path

import planted
import torch
from rich.console import Console
from rich.progress import track

from bench import Purifier, RobustModel
from bench.audit.rows import audit
from bench.errors import BenchError
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

# One that knows the test clips needs clips of which there are more.
_RENDERED = """
title: A planted fraud
dataset: {{name: actions12, clips: 24}}
models: [nl_tiny]
defenses: [none, "planted:{fraud}"]
budgets: [{{norm: linf, size: 4/255, steps: 4}}]
attacks: [{attacks}]
"""

BEFORE = {
    "ReadingLabels": "A",
    "ReadingClips": "B",
    "Collecting": "A",
    "Rendering": "A",
    "HonestBySeed": "B",
    "HonestByStack": "B",
    "HonestByModules": "B",
    "ReversedUnlessProbed": "B",
    "FalseIdentity": "B",
    "Scrambling": "A",
    "ChangingModes": "F",
}

# Time is no matter here: one that is slow on purpose must not escape.
_MINUTES = 1e6

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


def attacks_on(name: str) -> str:
    """The attacks of a fraud's grid."""
    if issubclass(getattr(planted, name), RobustModel):
        return "clean, noise, PGD, PGD+exact"  # there is nothing in it for bpda to replace
    # What changes nothing but the gradient falls to whoever does not follow it.
    return "clean, noise, PGD+exact" if name == "ReversedUnlessProbed" else "clean, noise, PGD, PGD+BPDA, PGD+exact"


def grid_of(name: str) -> str:
    """The text of a fraud's grid."""
    return (_RENDERED if name == "Rendering" else _GRID).format(fraud=name, attacks=attacks_on(name))


def measured(plan: Plan, folder: Path) -> list[CellResult]:
    """The cells of a plan, with the zero-budget control on four clips."""
    store = Store(folder)
    try:
        Runner(plan, store, LocalEngine(torch.device("cpu")), control=4).run()
        return collect(plan, store)
    finally:
        store.close()


def show(name: str, console: Console) -> None:
    """Measures and audits one fraud."""
    label = f"planted:{name}"
    before = f" ({BEFORE[name]} before)" if name in BEFORE else ""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fraud.yaml"
        path.write_text(grid_of(name), encoding="utf-8")
        try:
            results = measured(make_plan(read_grid(path)), Path(folder))
        except BenchError as error:
            console.print(f"[bold]{name}[/bold]: refused{before}: {error}", highlight=False)
            return
        # What is audited was never asked anything: a plan of its own.
        plan = make_plan(read_grid(path))
        (row,) = audit(plan, results, clips=6, defenses=[label], store=Path(folder), minutes=_MINUTES)
    left = ", ".join(
        f"{r.attack} {r.score.correct:g}{f' ({r.score.failed} failed)' if r.score.failed else ''}"
        for r in results
        if r.defense == label
    )
    clips = len(plan.refs)
    console.print(f"[bold]{name}[/bold]: grade {row.grade}{before}; right of {clips}: {left}", highlight=False)
    console.print(f"  {row.asked}{row.dear and f'; not asked: {row.dear}'}", style="dim")
    for finding in row.findings:
        console.print(f"  {finding.severity}, {finding.check}: {finding.message}", style=_SEVERITIES[finding.severity])


def main() -> None:
    console = Console(width=None if Console().is_terminal else 120)
    for name in track(sys.argv[1:] or frauds(), "auditing", console=Console(stderr=True)):
        show(name, console)


if __name__ == "__main__":
    main()
