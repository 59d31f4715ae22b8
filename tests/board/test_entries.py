"""Rows of the front: figures from result files, and those that papers print."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from kit.cells import cell
from kit.running import exported
from scipy.stats import binomtest

from bench import BenchError
from bench.board.entries import Entry, Figure, measured, unique
from bench.board.plots import cost_plot, plots_of
from bench.board.published import claims, reported
from bench.grids.grid import read_mapping
from bench.records.description import GridFile
from bench.records.identity import Knowledge
from bench.records.results import CellResult, Score
from bench.report.grids import all_grids
from bench.report.reported import shipped_folder

Write = Callable[..., Path]


def put(results: Path, *cells: CellResult, grid: str = "g") -> None:
    """Writes a grid of cells made by hand."""
    folder = results / grid
    folder.mkdir(parents=True)
    described = GridFile(name=grid, title="By hand", summary="", order=[c.file_name for c in cells], skipped=[])
    (folder / "_grid.json").write_text(described.model_dump_json(), encoding="utf-8")
    for one in cells:
        (folder / one.file_name).write_text(one.to_text(), encoding="utf-8")


def entry(results: Path, defense: str) -> Entry:
    (found,) = [e for e in measured(all_grids(results)) if e.defense == defense]
    return found


def test_figures_are_the_worst_clip_by_clip(tmp_path: Path) -> None:
    put(
        tmp_path,
        cell("blur", "clean", "clean", "11111"),
        cell("blur", "noise", "noise", "11110"),
        cell("blur", "PGD", "gray-box", "11010"),
        cell("blur", "APGD", "gray-box", "01110"),
        cell("blur", "PGD+exact", "adaptive", "11000"),
        cell("blur", "EOT+exact", "adaptive", "01110"),
        cell("blur", "far", "black-box", "10110"),
    )
    row = entry(tmp_path, "blur")
    said = {name: f and (f.value, f.clips) for name, f in row.figures.items()}
    # Clips that survive both gray-box attacks: 2 and 4; both adaptive ones: 2; everything: none.
    assert said == {"standard": (100.0, 5), "gray": (40.0, 5), "adaptive": (20.0, 5), "union": (0.0, 5)}
    assert row.worst == "PGD+exact"
    assert (row.kind, row.letter, row.void) == ("measured", "-", "")


@pytest.mark.parametrize(("hits", "clips"), [(0, 6), (3, 7), (96, 96)])
def test_intervals_are_wilsons(hits: int, clips: int) -> None:
    expected = binomtest(hits, clips).proportion_ci(0.95, method="wilson")
    figure = Figure.of(Score(correct=hits, clips=clips))
    assert figure is not None
    assert (figure.low, figure.high) == pytest.approx((100 * expected.low, 100 * expected.high), abs=0.01)


def printed(file: str, defense: str) -> dict[str, float]:
    """VideoPure's figures of a defence before NL on UCF-101, by their attacks."""
    with (shipped_folder() / file).open(encoding="utf-8") as lines:
        rows = [
            r for r in csv.DictReader(lines) if (r["dataset"], r["model"], r["defense"]) == ("UCF-101", "NL", defense)
        ]
    return {r["attack"]: float(r["accuracy"]) for r in rows}


def test_what_papers_print_is_there_once() -> None:
    rows = reported()
    figures = printed("videopure_table1.csv", "JPEG")
    (jpeg,) = [e for e in rows if "videopure_table1_ucf101_nl" in e.grids and e.defense == "JPEG"]
    assert jpeg.standard == Figure(figures["None"])  # without an interval
    assert jpeg.gray == Figure(min(figures["PGD"], figures["TT"]))
    assert jpeg.adaptive == Figure(min(v for attack, v in figures.items() if "+" in attack))
    assert all(e.kind == "reported" for e in rows)
    shown = [(e.dataset, e.model, e.defense, e.threat, *e.figures.values()) for e in rows]
    assert len(shown) == len(set(shown))


def test_a_printed_figure_is_compared_with_the_interval_beside_it(gray_grid: Write, tmp_path: Path) -> None:
    section = (
        "title: Gray clips\nreported: {file: videopure_table1.csv, where: {dataset: UCF-101, model: NL}, "
        "defenses: {jpeg: JPEG}, attacks: {clean: None, PGD: PGD}}"
    )
    folder = tmp_path / "results"
    exported(gray_grid(("title: Gray clips", section), ('"kit.gray:Identity"', "jpeg")), folder)
    shutil.copytree(shipped_folder(), folder / "reported")
    figures = printed("videopure_table1.csv", "JPEG")
    found = {c.column: c for c in claims(measured(all_grids(folder)))}
    assert set(found) == {"clean", "PGD"}
    # Six clips, all right, and all wrong under the attack.
    for column, name, value, low, high in (("clean", "None", 100.0, 61.0, 100.0), ("PGD", "PGD", 0.0, 0.0, 39.0)):
        claim = found[column]
        assert (claim.reported, claim.measured.value) == (figures[name], value)
        assert claim.difference == pytest.approx(value - figures[name])
        assert claim.inside == (low <= figures[name] <= high)


def test_addresses_are_unique() -> None:
    one = Entry(key="a", kind="measured", grid="g", dataset="d", model="m", defense="x", threat="")
    assert [e.key for e in unique([one, one, one])] == ["a", "a-2", "a-3"]


def test_what_is_drawn_of_a_row(tmp_path: Path) -> None:
    cells = [cell("blur", name, knows, right) for name, knows, right in DRAWN]
    for one, losses in zip(cells[1:], ([1.0, 2.0], [1.0, 4.0]), strict=True):
        for outcome in one.outcomes:
            outcome.trace, outcome.forwards, outcome.backwards = list(losses), 2, 2
    cells[2].outcomes[0].trace = [2.0, None]  # broken, and out of the batch
    put(tmp_path, *cells)
    overlap, confused, losses_ = (
        next(p for p in plots_of(entry(tmp_path, "blur")) if p["id"] == name)
        for name in ("overlap", "confusion", "losses")
    )
    # PGD breaks the clips 2 and 3, APGD 0 and 3: one of them both.
    assert overlap["traces"][0]["z"] == [[2, 1], [1, 2]]
    # All clips are of class 0; what is wrong was answered with 1.
    assert confused["traces"][0]["z"] == [[2, 2], [0, 0]]
    assert [list(t["y"]) for t in losses_["traces"]] == [[1.0, 2.0], [5 / 4, (2 + 3 * 4) / 4]]
    assert cost_plot([entry(tmp_path, "blur")]) is None  # whose seconds nobody knows
    timed = replace(entry(tmp_path, "blur"), seconds=2.0)
    plot = cost_plot([timed])
    assert plot is not None
    assert (plot["traces"][0]["x"], plot["traces"][0]["y"]) == ([2.0], [25.0])


DRAWN: list[tuple[str, Knowledge, str]] = [
    *(("clean", "clean", "1111"), ("PGD", "adaptive", "1100"), ("APGD", "adaptive", "0110"))
]


def test_an_embedded_grid_is_compared_with_the_table_that_it_stands_for(tmp_path: Path) -> None:
    """``embedded_nl`` has rows and columns of VideoPure's first table, on other clips."""
    cells = [cell("VideoPure", "clean", "clean", "1111"), cell("VideoPure", "PGD", "gray-box", "1110")]
    cells = [c.model_copy(update={"budget": c.budget and "linf 4/255, 10 steps"}) for c in cells]
    put(tmp_path, *cells, grid="embedded_nl")
    figures = printed("videopure_table1.csv", "VideoPure")
    found = {c.column: c for c in claims(measured(all_grids(tmp_path)))}
    assert {column: c.reported for column, c in found.items()} == {"clean": figures["None"], "PGD": figures["PGD"]}
    assert {column: c.measured.value for column, c in found.items()} == {"clean": 100.0, "PGD": 75.0}
    assert all((c.table, c.same) == ("videopure_table1_ucf101_nl", False) for c in found.values())
    with pytest.raises(BenchError, match="there is no shipped grid 'videopure_tabel1'"):
        read_mapping({"name": "g", "stands_for": "videopure_tabel1"})
