"""Result files, tables and the leaderboard."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from kit.cells import cell
from kit.gray import LEVELS
from rich.console import Console

from bench import BenchError
from bench.grids.grid import override, read_grid
from bench.plan.expand import make_plan
from bench.records.outcome import Control
from bench.records.results import pass_seconds, read_results, read_seconds, to_frame
from bench.report.leaderboard import make_leaderboard
from bench.report.render import render
from bench.report.reported import shipped_folder
from bench.report.tables import make_tables, to_pandas
from bench.run.engine import LocalEngine
from bench.run.export import export
from bench.run.runner import Runner
from bench.run.store import Store

Write = Callable[..., Path]


@pytest.fixture
def results(gray_grid: Write, tmp_path: Path) -> Path:
    """A results folder with the gray grid in it."""
    folder = tmp_path / "results"
    plan = make_plan(read_grid(gray_grid(("kit.gray:Identity", "kit.gray:Lighten"))))
    store = Store(folder / ".store")
    Runner(plan, store, LocalEngine(torch.device("cpu"))).run()
    export(plan, store, folder, "cpu")
    store.close()
    return folder


def test_result_files_hold_every_clip_and_read_back_the_same(results: Path) -> None:
    files = [p for p in (results / "gray").glob("*.json") if not p.name.startswith("_")]
    cells = read_results(results / "gray")
    assert len(cells) == len(files) == 10
    for read in cells:
        assert len(read.outcomes) == 6
        assert (results / "gray" / read.file_name).read_text() == read.to_text()
    # Clean first, undefended row first: the order of the grid, not of the alphabet.
    assert (cells[0].defense, cells[0].attack) == ("none", "clean")


def test_wall_times_stay_out_of_the_reproducible_record(results: Path) -> None:
    for path in (results / "gray").glob("[!_]*.json"):
        assert "seconds" not in path.read_text()


def test_a_result_file_that_was_tampered_with_is_refused(results: Path) -> None:
    path = sorted((results / "gray").glob("*none--clean.json"))[0]
    content = json.loads(path.read_text())
    content["score"]["correct"] -= 1
    path.write_text(json.dumps(content))
    with pytest.raises(BenchError, match="does not follow from the outcomes"):
        read_results(results / "gray")
    content["scoer"] = content.pop("score")
    path.write_text(json.dumps(content))
    with pytest.raises(BenchError, match="not a valid result file"):
        read_results(results / "gray")


def test_union_and_mean_have_known_values() -> None:
    cells = [
        cell("a", "clean", "clean", "1111"),
        cell("a", "noise", "noise", "1110"),
        cell("a", "PGD", "gray-box", "1101"),
        cell("a", "PGD+BPDA", "adaptive", "1001", "x"),
    ]
    (table,) = make_tables(cells)
    row = table.rows[0]
    assert table.columns == {"clean": "Standard", "noise": "Noise", "PGD": "Robust*", "PGD+BPDA": "Robust"}
    assert row.union is not None
    # Clip 0 is invalid under BPDA, 1 falls to BPDA, 2 to PGD, 3 to noise: nothing survives everything.
    assert row.union.correct == 0
    assert row.scores["PGD+BPDA"].correct == 1
    assert row.scores["PGD+BPDA"].invalid == 1
    assert row.mean == pytest.approx((75 + 75 + 25) / 3)


def test_clean_clips_count_where_the_grid_says_so() -> None:
    cells = [cell("a", "clean", "clean", "1011"), cell("a", "PGD", "adaptive", "1100")]
    (plain,), (whole,) = make_tables(cells), make_tables(cells, counts_clean=True)
    assert plain.rows[0].union is not None
    assert whole.rows[0].union is not None
    assert (plain.rows[0].union.correct, whole.rows[0].union.correct) == (2, 1)
    assert (plain.rows[0].mean, whole.rows[0].mean) == (50.0, 62.5)
    assert (plain.together, whole.together) == (("Union", "Mean"), ("Union with clean", "Mean with clean"))


def test_a_pass_takes_the_time_of_one_draw_of_a_clean_clip() -> None:
    cells = [cell("a", "clean", "clean", "11"), cell("a", "PGD", "adaptive", "10"), cell("b", "clean", "clean", "11")]
    for outcome, seconds in zip(cells[0].outcomes, (0.4, 0.2), strict=True):
        outcome.seconds, outcome.draws = seconds, [0, 1]
    cells[1].outcomes[0].seconds = 9.0
    seconds = pass_seconds(cells)
    assert seconds == {("m", "a"): pytest.approx(0.15), ("m", "b"): 0.0}
    (timed,), (plain,) = make_tables(cells, seconds=seconds), make_tables(cells)
    assert timed.timed
    assert not plain.timed
    assert [row.seconds for row in timed.rows] == [pytest.approx(0.15), 0.0]


def test_a_run_that_was_recorded_without_times_gets_them(results: Path, gray_grid: Write) -> None:
    """And what the terminal shows, the leaderboard shows: Seconds, and the figure that a paper prints for them."""
    record = results / "gray" / "_run.json"
    old = json.loads(record.read_text())
    assert old.pop("seconds_of_a_pass")
    record.write_text(json.dumps(old))
    section = (
        "timed: true\nreported: {file: videopure_table10.csv, where: {metric: time_s}, "
        "defenses: {'kit.gray:Lighten': {defense: VideoPure}}, attacks: {Seconds: {}}}\ntitle:"
    )
    again(gray_grid(("kit.gray:Identity", "kit.gray:Lighten"), ("title:", section)), results, ran=False)
    now = json.loads(record.read_text())
    assert now.pop("seconds_of_a_pass")
    assert now == old  # nothing was run
    shutil.copytree(shipped_folder(), results / "reported")
    board = make_leaderboard(results)
    assert "| kit.gray:Lighten, *reported* |" in board
    assert "| *8.5* |" in board
    record.write_text("{")
    again(gray_grid(("kit.gray:Identity", "kit.gray:Lighten"), ("length: 6", "length: 5")), results)
    assert json.loads(record.read_text())["seconds_of_a_pass"]  # a damaged record is replaced


@pytest.mark.parametrize("attacks", [1, 12])
def test_the_terminal_shows_times_detectors_and_reported_figures(attacks: int) -> None:
    """In both directions of the table."""
    cells = [cell("a", "clean", "clean", "11"), *(cell("a", f"PGD {i}", "adaptive", "10") for i in range(attacks))]
    for result in cells:
        for outcome, score in zip(result.outcomes, (1.0, 2.0), strict=True):
            outcome.measured, outcome.attacked = [score, 0.0], True
    (table,) = make_tables(cells, seconds={("m", "a"): 0.123})
    table.rows[0].reported = {"Seconds": 8.5, "clean": 99.0}
    console = Console(width=400, record=True, file=io.StringIO())
    console.print(render(table))
    text = console.export_text()
    for part in ("Seconds", "0.12", "8.5", "99.0", "ROC", "0.50"):
        assert part in text, text


def test_void_rows_and_oracles_detect_nothing() -> None:
    cells = [cell("a", "clean", "clean", "11"), cell("a", "PGD", "adaptive", "10")]
    for result in cells:
        for outcome in result.outcomes:
            outcome.measured, outcome.attacked = [1.0, 0.0], True
    (table,) = make_tables(cells, oracles={"told": {"clean": "a", "PGD": "a"}})
    assert [bool(row.detected) for row in table.rows] == [True, False]
    cells[1].control = Control(clips=4, passed=False, message="x")
    (table,) = make_tables(cells)
    assert not table.rows[0].detected


def test_times_of_rows_that_were_not_run_again_are_kept(results: Path, gray_grid: Write) -> None:
    before = read_seconds(results / "gray")
    again(gray_grid(("title:", "timed: true\ntitle:"), ('"kit.gray:Identity"', "jpeg")), results)
    after = read_seconds(results / "gray")
    assert {defense for _, defense in after} == {"none", "kit.gray:Lighten", "jpeg"}
    key = next(k for k in before if k[1] == "kit.gray:Lighten")
    assert after[key] == before[key] > 0
    lines = make_leaderboard(results).splitlines()
    header = next(line for line in lines if line.startswith("| Defence |"))
    assert header.endswith("| Mean | Seconds |")
    row = next(line for line in lines if line.startswith("| jpeg |"))
    assert float(row.strip("| ").split("|")[-1]) > 0


def test_what_a_defence_measures_is_recorded_and_judged_as_a_detector(gray_grid: Write, tmp_path: Path) -> None:
    again(gray_grid(("kit.gray:Identity", "kit.gray:Measured"), ("length: 6", "length: 3, only: 0")), tmp_path)
    cells = {(c.defense, c.attack): c for c in read_results(tmp_path / "gray")}
    before, after = cells["kit.gray:Measured", "clean"].outcomes[0].measured
    assert before == after == pytest.approx(LEVELS[0], abs=1e-6)
    assert not cells["none", "clean"].outcomes[0].measured
    (table,) = make_tables(cells.values())
    plain, measured = table.rows
    assert not plain.detected
    # Dark clips only get brighter under attack, and all of them do.
    assert measured.detected["PGD+exact"] == 1.0
    assert "clean" not in measured.detected
    lines = make_leaderboard(tmp_path).splitlines()
    assert any(line.startswith("| kit.gray:Measured, ROC |  |") and " 1.00 |" in line for line in lines)


def test_clips_that_were_not_attacked_are_not_to_be_detected() -> None:
    cells = [cell("a", "clean", "clean", "11"), cell("a", "PGD", "adaptive", "10")]
    for result, scores in zip(cells, ((1.0, 2.0), (1.0, 3.0)), strict=True):
        for outcome, score in zip(result.outcomes, scores, strict=True):
            outcome.measured = [score, 0.0]
    cells[1].outcomes[1].attacked = True
    (table,) = make_tables(cells)
    assert table.rows[0].detected == {"PGD": 1.0}


def test_oracles_pick_cells_of_other_rows_and_their_union_is_per_clip() -> None:
    cells = [
        cell("one", "clean", "clean", "110"),
        cell("one", "PGD", "adaptive", "000"),
        cell("other", "clean", "clean", "000"),
        cell("other", "PGD", "adaptive", "101"),
    ]
    (table,) = make_tables(cells, oracles={"told": {"clean": "one", "PGD": "other"}}, counts_clean=True)
    told = table.rows[-1]
    assert told.defense == "told"
    assert {k: s.correct for k, s in told.scores.items()} == {"clean": 2, "PGD": 2}
    assert told.union is not None
    assert told.union.correct == 1


def test_every_budget_gets_its_own_table_with_the_clean_column() -> None:
    strong = cell("a", "PGD", "gray-box", "00")
    strong.budget = "linf 8/255"
    tables = make_tables([cell("a", "clean", "clean", "11"), cell("a", "PGD", "gray-box", "10"), strong])
    assert [(t.budget, t.rows[0].scores["clean"].correct, t.rows[0].scores["PGD"].correct) for t in tables] == [
        ("linf 4/255", 2, 1),
        ("linf 8/255", 2, 0),
    ]


def test_frames_have_one_row_per_clip_and_cell(results: Path) -> None:
    cells = read_results(results / "gray")
    frame = to_frame(cells)
    assert len(frame) == 60
    assert frame.groupby(["defense", "attack"])["correct"].sum()["none", "clean"] == 6
    tidy = to_pandas(make_tables(cells)).set_index(["defense", "column"])
    assert tidy.loc[("none", "clean"), "accuracy"] == 100
    assert tidy.loc[("none", "PGD+exact"), "accuracy"] == 0
    assert tidy.loc[("none", "clean"), "low"] == pytest.approx(60.97, abs=0.01)  # Wilson, 6 of 6


def test_the_leaderboard_is_the_same_bytes_from_the_same_files(results: Path, tmp_path: Path) -> None:
    shutil.copytree(shipped_folder(), results / "reported")
    text = make_leaderboard(results)
    assert make_leaderboard(results) == text
    copied = tmp_path / "elsewhere"
    shutil.copytree(results, copied)
    shutil.rmtree(copied / ".store")  # from the result files alone
    assert make_leaderboard(copied) == text


def test_the_leaderboard_labels_measured_and_reported(results: Path) -> None:
    shutil.copytree(shipped_folder(), results / "reported")
    measured, reported = make_leaderboard(results).split("## Reported by the papers")
    assert "Gray clips" in measured
    assert "| none | 100.0 [61, 100]" in measured
    assert "*measured here*" in measured
    # VideoPure's own row on NL and UCF-101: 96 standard, 94.1 gray-box PGD, 100 adaptive.
    assert "*Reported*, UCF-101 · NL (`videopure_table1.csv`)" in reported
    row = next(line for line in reported.splitlines() if line.startswith("| VideoPure |"))
    assert row.split(" | ")[1:3] == ["96", "94.1"]
    assert "[61, 100]" not in reported


def test_reported_figures_stand_beside_measured_ones_on_the_leaderboard(gray_grid: Write, tmp_path: Path) -> None:
    section = (
        "title: Gray clips\nreported: {file: videopure_table1.csv, where: {dataset: UCF-101, model: NL}, "
        "defenses: {jpeg: JPEG}, attacks: {clean: None, PGD: PGD}}"
    )
    path = gray_grid(("title: Gray clips", section), ('"kit.gray:Identity"', "jpeg"))
    plan, folder = make_plan(read_grid(path)), tmp_path / "results"
    store = Store(folder / ".store")
    Runner(plan, store, LocalEngine(torch.device("cpu"))).run()
    export(plan, store, folder, "cpu")
    store.close()
    shutil.copytree(shipped_folder(), folder / "reported")
    text = make_leaderboard(folder)
    row = next(line for line in text.splitlines() if line.startswith("| jpeg, *reported* |"))
    assert row.startswith("| jpeg, *reported* | *99.0* |  | *8.9* |")
    assert "reported in videopure_table1.csv" in text


def test_an_added_defence_joins_the_rows_of_its_grid(results: Path, gray_grid: Write) -> None:
    plan = make_plan(read_grid(gray_grid(('"kit.gray:Identity"', "jpeg"))))
    store = Store(results / ".store")
    Runner(plan, store, LocalEngine(torch.device("cpu"))).run()
    export(plan, store, results, "cpu")
    store.close()
    (table,) = make_tables(read_results(results / "gray"))
    assert {r.defense for r in table.rows} == {"none", "jpeg", "kit.gray:Lighten"}


def again(path: Path, folder: Path, *, ran: bool = True) -> list[str]:
    """Runs a grid into a results folder; returns the names of the files that were removed.

    Args:
        ran: whether anything is left to do.
    """
    plan = make_plan(read_grid(path))
    store = Store(folder / ".store")
    Runner(plan, store, LocalEngine(torch.device("cpu"))).run()
    _, stale = export(plan, store, folder, "cpu", ran=ran)
    store.close()
    return stale


def test_rows_of_another_measurement_are_removed(results: Path, gray_grid: Write) -> None:
    other = ('"kit.gray:Identity"', "jpeg")
    assert again(gray_grid(other), results) == []  # a row joins
    stale = again(gray_grid(other, ("length: 6", "length: 5")), results)  # other clips: the old rows have to go
    assert len(stale) == 5
    assert all("Lighten" in name for name in stale)
    (table,) = make_tables(read_results(results / "gray"))
    assert [r.defense for r in table.rows] == ["none", "jpeg"]


def test_files_of_two_measurements_are_not_read_together(results: Path, gray_grid: Write) -> None:
    before = next((results / "gray").glob("*Lighten--PGD--*.json"))
    old = before.read_text()
    again(
        gray_grid(("size: 0.15, steps: 4", "size: 0.15, steps: 4, restarts: 1"), ("title", "seed: 3\ntitle")), results
    )
    before.write_text(old)
    with pytest.raises(BenchError, match=r"belongs to another measurement .*: its seed is not the same"):
        read_results(results / "gray")


def test_columns_that_were_not_run_are_told_from_those_that_do_not_exist(results: Path, gray_grid: Write) -> None:
    for attacks in ("[PGD+exact]", "[PGD]"):
        again(
            gray_grid(('"kit.gray:Identity"', "jpeg"), ("[clean, noise, PGD, PGD+BPDA, PGD+exact]", attacks)), results
        )
    shutil.copytree(shipped_folder(), results / "reported")
    lines = make_leaderboard(results).splitlines()
    row = next(line for line in lines if line.startswith("| jpeg |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2] == cells[4] == "-"  # noise, PGD+BPDA
    assert cells[5] == "n/a"
    assert cells[6].startswith("≤ ")
    assert cells[7] == "-"  # no mean over half of the attacks
    # Complete rows stand above it, whatever its union over one attack is.
    assert lines.index(row) > max(i for i, line in enumerate(lines) if line.startswith("| kit.gray:Lighten |"))


def test_a_damaged_description_is_one_sentence(results: Path) -> None:
    file = results / "gray" / "_grid.json"
    for text in ("{", file.read_text().replace('"reported": null', '"reported": {"fiel": "x"}')):
        file.write_text(text)
        with pytest.raises(BenchError, match=r"_grid\.json is not a valid result file"):
            make_leaderboard(results)


def test_reported_figures_stand_beside_their_own_classifier_only(gray_grid: Write, tmp_path: Path) -> None:
    section = (
        "title: Gray clips\nreported: {file: videopure_table1.csv, where: {dataset: UCF-101, model: NL}, "
        "defenses: {none: None}, attacks: {clean: None}}"
    )
    path, folder = gray_grid(("title: Gray clips", section)), tmp_path / "results"
    again(path, folder)
    shutil.copytree(shipped_folder(), folder / "reported")
    assert "| none, *reported* |" in make_leaderboard(folder)
    plan = make_plan(override(read_grid(path), models=["kit.gray:Oscillating"]))
    store = Store(folder / ".store")
    Runner(plan, store, LocalEngine(torch.device("cpu"))).run()
    export(plan, store, folder, "cpu")
    store.close()
    assert make_leaderboard(folder).count("| none, *reported* |") == 1


def test_no_results_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no results folder"):
        make_leaderboard(tmp_path / "nothing")
