"""The leaderboard: the same bytes from the same files, measured and reported figures told apart."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from kit.running import exported

from bench import BenchError
from bench.grids.grid import override, read_grid
from bench.plan.expand import make_plan
from bench.records.results import read_result, read_results, result_files
from bench.report.leaderboard import make_leaderboard
from bench.report.reported import shipped_folder
from bench.report.tables import make_tables
from bench.run.engine import LocalEngine
from bench.run.export import export
from bench.run.runner import Runner
from bench.run.store import Store

Write = Callable[..., Path]


def details(text: str) -> str:
    """The tables with all columns."""
    return text.split("## Every attack")[1].split("## Reported by the papers")[0]


def github(heading: str) -> str:
    """The address that GitHub gives a heading: small letters, words and hyphens alone, blanks as hyphens."""
    words = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower(), flags=re.UNICODE)
    return words.replace(" ", "-")


@pytest.mark.parametrize("shipped", [True, False])
def test_no_table_is_wide_and_every_link_leads_somewhere(shipped: bool, results: Path, gray_grid: Write) -> None:
    if shipped:
        text = (Path(__file__).parents[2] / "leaderboard.md").read_text(encoding="utf-8")
    else:
        defenses = ", ".join(f'{{name: "kit.gray:Lighten", by: 0.{i}}}' for i in range(1, 10))
        many = ", ".join(f'{{attack: pgd, gradient: exact, label: "P+{i}"}}' for i in range(4))
        wide = (('"kit.gray:Identity"', defenses), ("PGD, PGD+BPDA, PGD+exact]", f"PGD, {many}]"))
        exported(gray_grid(*wide, ("length: 6", "length: 3"), name="wide"), results, control=0)
        shutil.copytree(shipped_folder(), results / "reported")
        text = make_leaderboard(results)
    lines = text.splitlines()
    widths = [len(re.findall(r"(?<!\\)\|", line)) - 1 for line in lines if line.startswith("|")]
    assert max(widths) <= 8
    addresses = [github(line.lstrip("#").strip()) for line in lines if line.startswith("#")]
    found = re.findall(r"\]\(#([^)]*)\)", text)
    assert found
    assert set(found) <= set(addresses)
    assert all(addresses.count(address) == 1 for address in set(found))
    root = Path(__file__).parents[2]
    assert [name for name in re.findall(r"\]\((results/[^)]*)\)", text) if not (root / name).is_file()] == []


def test_many_attacks_are_rows_and_every_figure_is_there(gray_grid: Write, tmp_path: Path) -> None:
    defenses = ", ".join(f'{{name: "kit.gray:Lighten", by: 0.{i}, label: "L{i}"}}' for i in range(1, 9))
    many = ", ".join(f'{{attack: pgd, gradient: exact, label: "P+{i}"}}' for i in range(4))
    wide = (('"kit.gray:Identity"', defenses), ("PGD, PGD+BPDA, PGD+exact]", f"PGD, {many}]"))
    exported(gray_grid(*wide, ("length: 6", "length: 3")), tmp_path, control=0)
    text = make_leaderboard(tmp_path)
    tables: list[dict[str, dict[str, str]]] = []
    for line in details(text).splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if cells and not cells[0]:
            tables.append({name: {} for name in cells[1:]})
        elif cells and not cells[0].startswith("---"):
            for name, cell in zip(tables[-1], cells[1:], strict=True):
                tables[-1][name][cells[0]] = cell
    assert [len(table) for table in tables] == [5, 4]
    by_name = {name: figures for table in tables for name, figures in table.items()}
    assert set(by_name) == {"none", *(f"L{i}" for i in range(1, 9))}
    for cell in read_results(tmp_path / "gray"):
        label = {"clean": "Standard", "noise": "Noise", "PGD": r"Robust\* PGD"}.get(cell.attack)
        label = label or f"Robust {cell.attack}"
        right = sum(o.correct for o in cell.outcomes)
        assert by_name[cell.defense][label].startswith(f"{100 * right / 3:.1f} ["), (cell.defense, label)


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
    assert "*Reported*, UCF-101 · NL · [`videopure_table1.csv`](results/reported/videopure_table1.csv)" in reported
    caption = reported.index("*Reported*, UCF-101 · NL · [`videopure_table1.csv`]")
    turned = [line.strip("|").split(" | ") for line in reported[caption:].split("\n\n")[2].splitlines()]
    column = [head.strip() for head in turned[0]].index("VideoPure")
    whole = {line[0].strip(): line[column].strip() for line in turned}
    assert (whole["Standard"], whole["PGD"]) == ("96", "94.1")
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
    export(plan, store, folder)
    store.close()
    shutil.copytree(shipped_folder(), folder / "reported")
    text = make_leaderboard(folder)
    short, whole = [line for line in text.splitlines() if line.startswith("| jpeg, *reported* |")]
    assert short.startswith("| jpeg, *reported* | *99.0* | *8.9* |  |")
    assert whole.startswith("| jpeg, *reported* | *99.0* |  | *8.9* |")
    assert "reported in videopure_table1.csv" in text


def test_an_added_defence_joins_the_rows_of_its_grid(results: Path, gray_grid: Write) -> None:
    plan = make_plan(read_grid(gray_grid(('"kit.gray:Identity"', "jpeg"))))
    store = Store(results / ".store")
    Runner(plan, store, LocalEngine(torch.device("cpu"))).run()
    export(plan, store, results)
    store.close()
    (table,) = make_tables(read_results(results / "gray"))
    assert {r.defense for r in table.rows} == {"none", "jpeg", "kit.gray:Lighten"}


def test_columns_that_were_not_run_are_told_from_those_that_do_not_exist(results: Path, gray_grid: Write) -> None:
    for attacks in ("[PGD+exact]", "[PGD]"):
        exported(
            gray_grid(('"kit.gray:Identity"', "jpeg"), ("[clean, noise, PGD, PGD+BPDA, PGD+exact]", attacks)), results
        )
    shutil.copytree(shipped_folder(), results / "reported")
    lines = details(make_leaderboard(results)).splitlines()
    row = next(line for line in lines if line.startswith("| jpeg |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2] == cells[4] == "-"  # noise, PGD+BPDA
    assert cells[5] == "n/a¹"
    assert "¹ JPEG has no exact gradient because part of it is not differentiable; use bpda." in lines
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
    exported(path, folder)
    shutil.copytree(shipped_folder(), folder / "reported")
    assert "| none, *reported* |" in make_leaderboard(folder)
    plan = make_plan(override(read_grid(path), models=["kit.gray:Oscillating"]))
    store = Store(folder / ".store")
    Runner(plan, store, LocalEngine(torch.device("cpu"))).run()
    export(plan, store, folder)
    store.close()
    assert make_leaderboard(folder).count("| none, *reported* |") == 2  # in short, and whole


def test_no_results_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no results folder"):
        make_leaderboard(tmp_path / "nothing")


def test_stale_results_stand_and_say_so(results: Path) -> None:
    assert "*Stale*" not in make_leaderboard(results)
    files = result_files(results / "gray")
    old = next(path for path in files if "Lighten--PGD+BPDA" in path.name)
    result = read_result(old)
    other = result.settings.model_copy(update={"engine": "another"})
    old.write_text(result.model_copy(update={"stale": "Measured long ago.", "settings": other}).to_text())
    text = make_leaderboard(results)
    row = "kit.gray:level_classifier · kit.gray:Lighten · PGD+BPDA"
    assert f"*Stale*: {row}. Measured long ago. Run the grid again." in text
    for path in files:
        path.write_text(read_result(path).model_copy(update={"stale": "Measured long ago."}).to_text())
    assert "*Stale*: all results of this grid. Measured long ago." in make_leaderboard(results)
