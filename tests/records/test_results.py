"""Result files: every clip is in them, and nothing that would change from run to run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kit.cells import cell
from kit.running import exported

from bench import BenchError
from bench.records.identity import ComponentIdentity
from bench.records.results import (
    CellResult,
    pass_seconds,
    read_result,
    read_results,
    read_seconds,
    result_files,
    to_frame,
)
from bench.report.leaderboard import make_leaderboard
from bench.report.reported import shipped_folder
from bench.report.tables import TableOptions, make_tables, to_pandas

Write = Callable[..., Path]


def test_result_files_hold_every_clip_and_read_back_the_same(results: Path) -> None:
    files = [p for p in (results / "gray").glob("*.json") if not p.name.startswith("_")]
    cells = read_results(results / "gray")
    assert len(cells) == len(files) == 10
    for read in cells:
        assert len(read.outcomes) == 6
        assert (results / "gray" / read.file_name).read_text() == read.to_text()
    # Clean first, undefended row first: the order of the grid, not of the alphabet.
    assert (cells[0].defense, cells[0].attack) == ("none", "clean")


def test_hidden_files_are_no_results(results: Path) -> None:
    """``._x.json``, which macOS puts beside ``x.json`` on other disks, is no JSON."""
    folder = results / "gray"
    found = result_files(folder)
    (folder / f"._{found[0].name}").write_bytes(b"\0\5\x16\7")
    assert result_files(folder) == found
    assert len(read_results(folder)) == len(found)


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


def test_a_pass_takes_the_time_of_one_draw_of_a_clean_clip() -> None:
    cells = [cell("a", "clean", "clean", "11"), cell("a", "PGD", "adaptive", "10"), cell("b", "clean", "clean", "11")]
    for outcome, seconds in zip(cells[0].outcomes, (0.4, 0.2), strict=True):
        outcome.seconds, outcome.draws = seconds, [0, 1]
    cells[1].outcomes[0].seconds = 9.0
    seconds = pass_seconds(cells)
    assert seconds == {("m", "a"): pytest.approx(0.15), ("m", "b"): 0.0}
    (timed,), (plain,) = make_tables(cells, TableOptions(seconds=seconds)), make_tables(cells)
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
    exported(gray_grid(("kit.gray:Identity", "kit.gray:Lighten"), ("title:", section)), results, ran=False)
    now = json.loads(record.read_text())
    assert now.pop("seconds_of_a_pass")
    assert now == old  # nothing was run
    shutil.copytree(shipped_folder(), results / "reported")
    board = make_leaderboard(results)
    assert "| kit.gray:Lighten, *reported* |" in board
    assert "| *8.5* |" in board
    record.write_text("{")
    exported(gray_grid(("kit.gray:Identity", "kit.gray:Lighten"), ("length: 6", "length: 5")), results)
    assert json.loads(record.read_text())["seconds_of_a_pass"]  # a damaged record is replaced


def test_times_of_rows_that_were_not_run_again_are_kept(results: Path, gray_grid: Write) -> None:
    before = read_seconds(results / "gray")
    exported(gray_grid(("title:", "timed: true\ntitle:"), ('"kit.gray:Identity"', "jpeg")), results)
    after = read_seconds(results / "gray")
    assert {defense for _, defense in after} == {"none", "kit.gray:Lighten", "jpeg"}
    key = next(k for k in before if k[1] == "kit.gray:Lighten")
    assert after[key] == before[key] > 0
    short, whole = make_leaderboard(results).split("## Every attack")
    header, _, *rows = [line for line in short.splitlines() if line.startswith("|")][:5]
    assert header.endswith("| Seconds |")
    last = [float(row.strip("| ").split("|")[-1]) for row in rows]
    assert len(last) == 3
    assert min(last) > 0
    (seconds,) = [line for line in whole.splitlines() if line.startswith("| Seconds |")]  # columns are rows there
    assert sorted(float(cell) for cell in seconds.strip("| ").split("|")[1:]) == sorted(last)


def test_frames_have_one_row_per_clip_and_cell(results: Path) -> None:
    cells = read_results(results / "gray")
    frame = to_frame(cells)
    assert len(frame) == 60
    assert frame.groupby(["defense", "attack"])["correct"].sum()["none", "clean"] == 6
    tidy = to_pandas(make_tables(cells)).set_index(["defense", "column"])
    assert tidy.loc[("none", "clean"), "accuracy"] == 100
    assert tidy.loc[("none", "PGD+exact"), "accuracy"] == 0
    assert tidy.loc[("none", "clean"), "low"] == pytest.approx(60.97, abs=0.01)  # Wilson, 6 of 6


def test_rows_of_another_measurement_are_removed(results: Path, gray_grid: Write) -> None:
    other = ('"kit.gray:Identity"', "jpeg")
    assert exported(gray_grid(other), results) == []  # a row joins
    stale = exported(gray_grid(other, ("length: 6", "length: 5")), results)  # other clips: the old rows have to go
    assert len(stale) == 5
    assert all("Lighten" in name for name in stale)
    (table,) = make_tables(read_results(results / "gray"))
    assert [r.defense for r in table.rows] == ["none", "jpeg"]


def test_files_of_two_measurements_are_not_read_together(results: Path, gray_grid: Write) -> None:
    before = next((results / "gray").glob("*Lighten--PGD--*.json"))
    old = before.read_text()
    exported(
        gray_grid(("size: 0.15, steps: 4", "size: 0.15, steps: 4, restarts: 1"), ("title", "seed: 3\ntitle")), results
    )
    before.write_text(old)
    with pytest.raises(BenchError, match=r"belongs to another measurement .*: its seed is not the same"):
        read_results(results / "gray")


def test_the_moves_of_an_attack_may_follow_from_the_defence(tmp_path: Path) -> None:
    """A column of ``adaptive`` is one column, whatever it runs against each row; its own parameters are the same."""

    def write(defense: str, moves: list[str], draws: int) -> None:
        part = ComponentIdentity(name="pgd", params={"of": defense})
        attack = ComponentIdentity(name="adaptive", params={"draws": draws, "moves": moves}, parts=(part,))
        result = cell(defense, "adaptive", "adaptive", "10")
        update = {"attack": attack, "gradient": "strongest"}
        result.settings = result.settings.model_copy(update=update)
        result.gradient, result.cell = "strongest", result.settings.id
        (tmp_path / result.file_name).write_text(result.to_text())

    write("a", ["pgd+exact"], 5)
    write("b", ["pgd+bpda", "square+query"], 5)
    assert len(read_results(tmp_path)) == 2
    write("b", ["pgd+bpda", "square+query"], 6)
    with pytest.raises(BenchError, match="its attack adaptive is not the same"):
        read_results(tmp_path)


def as_version_1(result: CellResult) -> dict[str, Any]:
    """A result as files of version 1 hold it, written down from such a file."""
    content: dict[str, Any] = json.loads(result.to_text())
    settings = content["settings"]
    settings |= {"engine": 2}
    settings["dataset"] = {"name": "d", "params": {}, "code": "0123456789ab", "files": "content"}
    settings["model"] |= {"weights": "89abcdef01234567"}
    content |= {"version": 1, "control": {"clips": 2, "passed": True, "said": "0 of 2 clips are answered differently"}}
    content["outcomes"][0] |= {"trace": [0.00654629, 12.3456, None], "forwards": 2}
    content["outcomes"][0] |= {"linf": 0.0156, "l2": 5.454586, "changed": 0.989278}
    return content


def test_files_of_version_1_are_read_and_say_that_nobody_knows_their_code(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(json.dumps(as_version_1(cell("a", "PGD", "adaptive", "10"))))
    result = read_result(path)
    assert (result.version, result.provenance) == (4, [None])
    assert "before identities followed" in result.stale
    assert result.control is not None
    assert result.control.message == "0 of 2 clips are answered differently"
    assert (result.settings.engine, result.settings.dataset.files) == ("version 2", {"content": "content"})
    first = result.outcomes[0]
    assert (first.trace, first.l2, first.changed) == ([0.00655, 12.3, None], 5.455, 0.9893)
    path.write_text(result.to_text())
    assert read_result(path) == result


@pytest.mark.parametrize("version", [2, 3])
def test_files_of_later_versions_are_read(tmp_path: Path, version: int) -> None:
    path = tmp_path / "old.json"
    expected = cell("a", "PGD", "adaptive", "10")
    expected.provenance = [None]  # that of a run which nobody wrote down
    path.write_text(expected.to_text().replace('"version": 4', f'"version": {version}'))
    assert f'"version": {version}' in path.read_text()
    assert read_result(path) == expected


def test_files_of_version_2_have_every_vote(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    expected = cell("a", "PGD", "adaptive", "10")
    expected.outcomes[0].votes = [0, 0, None]
    path.write_text(expected.to_text().replace('"version": 4', '"version": 2'))
    with pytest.raises(BenchError, match="it says that it is of version 2, and its contents are not"):
        read_result(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 5}, "of version 5 of the result files, and this bench reads up to 4: install a newer one"),
        ({"version": "2b"}, "of version 2b"),
        ({"version": 1, "settings": 5}, "says that it is of version 1, and its contents are not"),
    ],
)
def test_other_versions_are_one_sentence(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(json.dumps({**json.loads(cell("a", "clean", "clean", "10").to_text()), **change}))
    with pytest.raises(BenchError, match=says):
        read_result(path)


@pytest.mark.parametrize("label", ["@", '"@"', 'a "quoted" \\ label', "two\nlines", "[/]", "ø 4/255"])
def test_no_label_can_break_a_file(tmp_path: Path, label: str) -> None:
    result = cell(label, label, "adaptive", "10")
    text = result.to_text()
    assert json.loads(text)["defense"] == label
    assert len(json.loads(text)["outcomes"]) == 2
    path = tmp_path / "labels.json"
    path.write_text(text)
    assert read_result(path) == result


def test_a_file_has_a_line_for_every_clip_and_sorted_keys() -> None:
    text = cell("a", "PGD", "adaptive", "1011").to_text()
    assert sum(line.startswith('  {"') for line in text.splitlines()) == 4
    keys = list(json.loads(text))
    assert keys == sorted(keys)
