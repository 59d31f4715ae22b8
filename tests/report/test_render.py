"""Tables in the terminal."""

from __future__ import annotations

import io

import pytest
from kit.cells import cell
from rich.console import Console

from bench.report.render import render
from bench.report.tables import TableOptions, make_tables


@pytest.mark.parametrize("attacks", [1, 12])
def test_the_terminal_shows_times_detectors_and_reported_figures(attacks: int) -> None:
    """In both directions of the table."""
    cells = [cell("a", "clean", "clean", "11"), *(cell("a", f"PGD {i}", "adaptive", "10") for i in range(attacks))]
    for result in cells:
        for outcome, score in zip(result.outcomes, (1.0, 2.0), strict=True):
            outcome.measured, outcome.attacked = [score, 0.0], True
    (table,) = make_tables(cells, TableOptions(seconds={("m", "a"): 0.123}))
    table.rows[0].reported = {"Seconds": 8.5, "clean": 99.0}
    console = Console(width=400, record=True, file=io.StringIO())
    console.print(render(table))
    text = console.export_text()
    for part in ("Seconds", "0.12", "8.5", "99.0", "ROC", "0.50"):
        assert part in text, text
