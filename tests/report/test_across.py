"""Means over several grids: read from their results, shown once all are there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from kit.commands import Answer

from bench.records.description import AcrossSection
from bench.records.results import read_results
from bench.report.across import means_across
from bench.report.leaderboard import make_leaderboard

Write = Callable[..., Path]
ALL = "[clean, noise, PGD, PGD+BPDA, PGD+exact]"
MEANS = "across: {Both: {column: PGD, grids: [gray, other]}, All: {column: Average, grids: [other, gray]}}"


def test_a_mean_over_grids_shows_once_all_have_been_run(
    bench: Callable[..., Answer], gray_grid: Write, tmp_path: Path
) -> None:
    """Levels are 0.2 apart: a change of 0.15 breaks every clip and one of 0.05 none."""
    title, attacks = ("title: Gray clips", f"averages: {{Average: [noise, PGD]}}\n{MEANS}"), (ALL, "[noise, PGD]")
    results = tmp_path / "r"
    weak = gray_grid(title, attacks, ("size: 0.15", "size: 0.05"), name="other")
    assert bench("run", "--grid", weak, "--results", results).code == 0
    assert "| none | 100.0" in make_leaderboard(results)
    assert means_across({"Both": AcrossSection(column="PGD", grids=["gray", "other"])}, results) == {"Both": {}}
    strong = gray_grid(title, attacks)
    answer = bench("run", "--grid", strong, "--results", results)
    assert answer.code == 0, answer.err
    measured = {name: _accuracies(results, name) for name in ("gray", "other")}
    assert measured["other"] == {"noise": 100.0, "PGD": 100.0}
    assert measured["gray"]["PGD"] == 0
    both = (measured["gray"]["PGD"] + 100) / 2
    everything = (measured["gray"]["noise"] + measured["gray"]["PGD"] + 200) / 4
    sections = {
        "Both": AcrossSection(column="PGD", grids=["gray", "other"]),
        "All": AcrossSection(column="Average", grids=["other", "gray"]),
    }
    found = means_across(sections, results)
    assert found["Both"]["none"] == pytest.approx(both)
    assert found["All"]["none"] == pytest.approx(everything)
    assert "Both" in answer.out
    details = make_leaderboard(results).split("## Every attack")[1]
    # Of either grid, two rows: Both and All belong to the two.
    assert details.count(f"| Both | {both:.1f} |") == details.count(f"| All | {everything:.1f} |") == 4
    assert details.count("| Both |") == details.count("| All |") == 4
    assert means_across(sections, None) == {"Both": {}, "All": {}}


def _accuracies(results: Path, grid: str) -> dict[str, float]:
    return {
        c.attack: c.score.accuracy for c in read_results(results / grid) if c.defense == "none" and c.attack != "clean"
    }
