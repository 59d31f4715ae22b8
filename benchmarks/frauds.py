"""What the audit says of each planted fraud: deceptive defences that the tests keep (``tests/frauds.py``).

Run: ``python benchmarks/frauds.py``. Each is measured on six uniform clips before a classifier whose smallest fooling
perturbation is known, with the default adaptive set, and audited with all probes. Beside the grade stand the clips that
are left under each attack.
"""

from __future__ import annotations

import inspect
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import track

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import frauds
from conftest import GRAY_GRID
from test_run import run_plan

from bench import Purifier, RobustModel
from bench.audit.rows import audit
from bench.grids.grid import read_grid
from bench.plan.expand import make_plan

_SEVERITIES = {"fault": "red", "warning": "yellow", "note": "dim"}


def planted() -> list[str]:
    """The names of the frauds, in the order of their file."""
    return [
        name
        for name, kind in vars(frauds).items()
        if inspect.isclass(kind)
        and issubclass(kind, (Purifier, RobustModel))
        and kind not in (Purifier, RobustModel)
        and not name.startswith("_")
    ]


def main() -> None:
    console = Console(width=None if Console().is_terminal else 120)
    for name in track(planted(), "auditing", console=Console(stderr=True)):
        attacks = "[clean, noise, PGD, PGD+BPDA, PGD+exact]"
        if issubclass(getattr(frauds, name), RobustModel):
            attacks = "[clean, noise, PGD, PGD+exact]"  # there is nothing in it for bpda to replace
        text = GRAY_GRID.replace("helpers:Identity", f"frauds:{name}").replace("size: 0.15", "size: 0.12")
        text = text.replace("[clean, noise, PGD, PGD+BPDA, PGD+exact]", attacks)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "fraud.yaml"
            path.write_text(text, encoding="utf-8")
            results = run_plan(make_plan(read_grid(path)), Path(folder), control=4)
            # What is audited was never asked anything: a plan of its own.
            row = next(r for r in audit(make_plan(read_grid(path)), results, clips=6) if "frauds:" in r.defense)
        left = ", ".join(
            f"{r.attack} {r.score.correct:g}{f' ({r.score.failed} failed)' if r.score.failed else ''}"
            for r in results
            if "frauds:" in r.defense
        )
        console.print(f"[bold]{name}[/bold]: grade {row.grade}; right of 6: {left}", highlight=False)
        for finding in row.findings:
            console.print(f"  {finding.severity}, {finding.check}: {finding.said}", style=_SEVERITIES[finding.severity])


if __name__ == "__main__":
    main()
