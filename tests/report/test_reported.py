"""Reported figures: the paper's, by columns and budget, beside one classifier."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench import BenchError
from bench.grids.grid import find_grid, override, read_grid
from bench.report.reported import Reported, shipped_folder

Write = Callable[..., Path]


def test_reported_figures_are_those_of_the_paper() -> None:
    """VideoPure, Table I, NL on UCF-101: JPEG 99 clean, 8.9 gray-box PGD."""
    grid = find_grid("ucf101_nl")
    assert grid.reported is not None
    row = Reported(grid.reported, shipped_folder()).row("JPEG", ["clean", "PGD", "noise"])
    assert row == {"clean": 99.0, "PGD": 8.9}


def test_reported_figures_are_selected_by_columns_and_budget() -> None:
    """VideoPure, Table XI: DDPM at 16/255 leaves 67.3 (gray-box); undefended clips 2.0; Table VII by candidate."""
    section = find_grid("videopure_table11").reported
    assert section is not None
    reported = Reported(section, shipped_folder())
    assert reported.row("Diffpure_DDPM", ["PGD", "PGD+BPDA"], "linf 16/255, 10 steps") == {
        "PGD": 67.3,
        "PGD+BPDA": 32.7,
    }
    assert reported.row("none", ["PGD"], "linf 16/255, 10 steps") == {"PGD": 2.0}
    assert reported.row("none", ["PGD"], "linf 2/255, 10 steps") == {}
    section = find_grid("videopure_table7").reported
    assert section is not None
    assert Reported(section, shipped_folder()).row("candidate 3", ["PGD", "clean"]) == {"PGD": 92.1, "clean": 96.0}
    with pytest.raises(BenchError, match=r"no column 'canddate'"):
        Reported(section.model_copy(update={"defenses": {"x": {"canddate": "3"}}}), shipped_folder())


def test_reported_figures_belong_to_one_classifier(gray_grid: Write) -> None:
    section = "title: Gray clips\nreported: {file: videopure_table1.csv}"
    grid = read_grid(gray_grid(("title: Gray clips", section)))
    assert grid.reported is not None
    assert grid.reported.model == "kit.gray:level_classifier"
    other = override(grid, models=["kit.gray:TwoSided"])
    assert other.reported == grid.reported  # they stay those of the grid's own classifier
    two = 'models: ["kit.gray:level_classifier", "kit.gray:TwoSided"]'
    with pytest.raises(BenchError, match="'reported' needs a 'model'"):
        read_grid(gray_grid(("title: Gray clips", section), ('models: ["kit.gray:level_classifier"]', two)))
