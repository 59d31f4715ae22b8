"""Columns that are computed from others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench.grids.grid import read_grid
from bench.plan.expand import make_plan
from bench.records.results import Score
from bench.report.tables import TableOptions, make_tables
from bench.run.export import collect
from bench.run.runner import Runner
from bench.run.store import Store

Write = Callable[..., Path]
WORST = "[PGD, noise, {worst: [PGD, noise], label: Both}]"


def test_the_worst_of_some_attacks_is_computed_from_their_outcomes(gray_grid: Write, tmp_path: Path) -> None:
    path = gray_grid(("[clean, noise, PGD, PGD+BPDA, PGD+exact]", WORST))
    grid = read_grid(path)
    assert [s.label for s in grid.attack_sections] == ["clean", "PGD", "noise"]  # nothing more is run
    plan = make_plan(grid)
    store = Store(tmp_path / "s")
    from bench.run.engine import LocalEngine

    Runner(plan, store, LocalEngine(torch.device("cpu"))).run()
    results = collect(plan, store)
    store.close()
    (table,) = make_tables(results, TableOptions(worst=grid.worst))
    assert table.columns["Both"] == "Worst"
    for row in table.rows:
        assert row.scores["Both"].correct == row.scores["PGD"].correct == 0
        assert row.scores["noise"].correct == 6


def test_a_union_of_draws_is_never_above_a_column() -> None:
    """Chosen by draws, the worst attack of a clip may be the wrong one; all of them together bound the union."""
    from bench.report.tables import _together

    weak, strong = [True, True, False, True, True], [False, True, False, True, False]
    found = _together({"weak": {"c": weak}, "strong": {"c": strong}})
    assert found.correct == pytest.approx(0.4)
    assert _together({"weak": {"c": weak}}).correct == pytest.approx(0.8)


def test_many_attacks_stand_below_one_another() -> None:
    from rich.console import Console

    from bench.report.render import render
    from bench.report.tables import Row, Table

    columns = {"clean": "Standard"} | {f"attack-{i}+BPDA": "Robust" for i in range(12)} | {"W": "Worst"}
    scores = {label: Score(correct=i, clips=20) for i, label in enumerate(columns)}
    rows = [
        Row("jpeg", scores, Score(correct=1, clips=20), 12.5, reported={"attack-3+BPDA": 61.4}),
        Row("mine", {"clean": scores["clean"]}, None, float("nan"), void={"attack-1+BPDA": "2 of 4 changed"}),
    ]
    console = Console(width=80)
    with console.capture() as seen:
        console.print(render(Table("set", "net", "linf", columns, rows, 20)))
    lines = seen.get().splitlines()
    # A void row stands apart.
    assert [line.split() for line in lines if line.lstrip().startswith("Attack ")] == [
        ["Attack", "jpeg"],
        ["Attack", "mine"],
    ]
    assert [line.split() for line in lines if line.lstrip().startswith("attack-3+BPDA")] == [
        ["attack-3+BPDA", "20.0"],
        ["attack-3+BPDA", "void"],
    ]
    assert any(line.startswith("Rows that claim nothing") for line in lines)
    assert "mine is void: attack-1+BPDA with a budget of 0: 2 of 4 changed." in lines
    assert "reported 61.4" in seen.get()
    assert [line.split() for line in lines if line.lstrip().startswith(("Union", "Mean"))] == [
        ["Union", "5.0"],
        ["Mean", "12.5"],
        ["Union", "void"],
        ["Mean", "-"],
    ]
    assert "…" not in seen.get()
