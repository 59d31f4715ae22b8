"""Runs of a part of a grid are found by the names of their results folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import BenchError
from bench.grids.grid import find_grid, override, read_grid
from bench.grids.tagged import run_of, tags, untagged


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"clips": 6},
        {"clips": 16, "steps": 3},
        {"seed": 2},
        {"clips": 1, "steps": 2, "seed": 3, "precision": "bf16"},
    ],
)
def test_a_run_is_planned_as_it_was(tmp_path: Path, changes: dict[str, Any]) -> None:
    run = override(find_grid("demo"), **changes)
    (tmp_path / run.name).mkdir()
    assert run_of(find_grid("demo"), tmp_path) == run
    assert run_of(find_grid("demo"), tmp_path, run.name) == run
    assert untagged(run.name) == ("demo", run.name if changes else "")
    with_row = run_of(find_grid("demo"), tmp_path, run.name, defenses=["jpeg(quality=10)"])
    assert with_row == override(find_grid("demo"), defenses=["jpeg(quality=10)"], **changes)


def test_names_that_are_of_another_grid() -> None:
    assert tags("demo-clips6", "demo_slowfast") is None
    assert tags("mine-clips6-clips7", "mine-clips6") == {"clips": 7}
    assert tags("mine-clips6-clips7", "mine") is None  # each tag stands once
    assert tags("mine-clips-steps2", "mine-clips") == {"steps": 2}
    assert untagged("mine.yaml") == ("mine.yaml", "")
    assert untagged("embedded_motion") == ("embedded_motion", "")


def test_of_several_runs_one_is_named(tmp_path: Path) -> None:
    for name in ("demo-clips6", "demo-clips8", "demo_slowfast-clips2"):
        (tmp_path / name).mkdir()
    with pytest.raises(BenchError, match="Of demo there are the runs demo-clips6, demo-clips8: name one with --run"):
        run_of(find_grid("demo"), tmp_path)
    with pytest.raises(BenchError, match="'demo_slowfast' is no run of demo"):
        run_of(find_grid("demo"), tmp_path, "demo_slowfast")
    (tmp_path / "demo").mkdir()
    assert run_of(find_grid("demo"), tmp_path) == find_grid("demo")


def test_a_grid_of_ones_own_that_looks_like_a_run(tmp_path: Path) -> None:
    file = tmp_path / "mine-clips6.yaml"
    file.write_text("dataset: {name: actions12}\nmodels: [nl_tiny]\ndefenses: [none]\nattacks: [clean]\n")
    grid = read_grid(file)
    (tmp_path / grid.name).mkdir()
    assert run_of(grid, tmp_path) == grid
