"""Tables: unions, means, oracles, detectors and budgets, of cells made by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from kit.cells import cell
from kit.gray import LEVELS
from kit.running import exported

from bench.records.description import Skipped
from bench.records.identity import ComponentIdentity
from bench.records.outcome import Control
from bench.records.results import read_results
from bench.report.leaderboard import make_leaderboard
from bench.report.tables import TableOptions, make_tables

Write = Callable[..., Path]


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
    assert row.mean == pytest.approx((75 + 25) / 2)  # noise is no attack


def test_what_noise_breaks_is_broken_and_noise_alone_has_no_mean() -> None:
    clean, noise = cell("a", "clean", "clean", "1111"), cell("a", "noise", "noise", "1110")
    (table,) = make_tables([clean, noise])
    assert table.rows[0].mean != table.rows[0].mean
    (table,) = make_tables([clean, noise, cell("a", "PGD", "adaptive", "0111")])
    assert table.rows[0].union is not None
    assert (table.rows[0].union.correct, table.rows[0].mean) == (2, 75.0)
    (table,) = make_tables([clean, noise, cell("a", "PGD", "adaptive", "0111")], TableOptions(counts_clean=True))
    assert table.rows[0].mean == (100 + 75) / 2


def test_a_universal_perturbation_is_an_attack_and_no_noise() -> None:
    cells = [
        cell("a", "clean", "clean", "11"),
        cell("a", "AF 4", "universal", "10"),
        cell("a", "PGD", "adaptive", "00"),
    ]
    (table,) = make_tables(cells)
    assert table.columns["AF 4"] == "Universal"
    assert table.rows[0].mean == 25.0


def test_no_heading_says_its_kind_twice() -> None:
    cells = [
        cell("a", "clean", "clean", "1"),
        cell("a", "noise", "noise", "1"),
        cell("a", "noise(kind='sign')", "noise", "1"),
        cell("a", "PGD", "gray-box", "1"),
        cell("a", "adaptive", "adaptive", "1"),
        cell("a", "robust-PGD", "adaptive", "1"),
        cell("a", "PGD+BPDA", "adaptive", "1"),
    ]
    cells[4].settings = cells[4].settings.model_copy(update={"attack": ComponentIdentity(name="adaptive")})
    worst = {"Worst I": ["PGD"], "I": ["PGD+BPDA"]}
    (table,) = make_tables(cells, TableOptions(worst=worst))
    assert [" ".join(table.heading(label)) for label in table.columns] == [
        "Standard",
        "Noise",
        "noise(kind='sign')",
        "Robust* PGD",
        "Robust",
        "robust-PGD",
        "Robust PGD+BPDA",
        "Worst I",
        "Worst I",
    ]


def test_averages_are_of_the_attacks_that_they_name() -> None:
    """A paper's average: without its clean clips, our further attacks, and what does not exist for a defence."""
    cells = [
        cell("a", "clean", "clean", "1111"),
        cell("a", "PGD", "gray-box", "1101"),
        cell("a", "PGD+BPDA", "adaptive", "1001"),
        cell("a", "PGD+exact", "adaptive", "0000"),
        cell("b", "clean", "clean", "1111"),
        cell("b", "PGD", "gray-box", "1000"),
        cell("b", "PGD+exact", "adaptive", "0000"),
        cell("c", "clean", "clean", "1111"),
        cell("c", "PGD", "gray-box", "1000"),
    ]
    skipped = [Skipped(model=cells[0].model, defense="b", attack="PGD+BPDA", reason="none")]
    options = TableOptions(skipped=skipped, averages={"Average": ["PGD", "PGD+BPDA"]})
    (table,) = make_tables(cells, options)
    a, b, c = table.rows
    assert table.averages == ("Average",)
    assert a.averages == {"Average": pytest.approx((75 + 50) / 2)}
    assert a.mean == pytest.approx((75 + 50 + 0) / 3)
    assert b.averages == {"Average": 25.0}
    assert c.averages["Average"] != c.averages["Average"]  # not run: no figure
    assert make_tables(cells)[0].rows[0].averages == {}


def test_clean_clips_count_where_the_grid_says_so() -> None:
    cells = [cell("a", "clean", "clean", "1011"), cell("a", "PGD", "adaptive", "1100")]
    (plain,), (whole,) = make_tables(cells), make_tables(cells, TableOptions(counts_clean=True))
    assert plain.rows[0].union is not None
    assert whole.rows[0].union is not None
    assert (plain.rows[0].union.correct, whole.rows[0].union.correct) == (2, 1)
    assert (plain.rows[0].mean, whole.rows[0].mean) == (50.0, 62.5)
    assert (plain.together, whole.together) == (("Union", "Mean"), ("Union with clean", "Mean with clean"))


def test_void_rows_and_oracles_detect_nothing() -> None:
    cells = [cell("a", "clean", "clean", "11"), cell("a", "PGD", "adaptive", "10")]
    for result in cells:
        for outcome in result.outcomes:
            outcome.measured, outcome.attacked = [1.0, 0.0], True
    (table,) = make_tables(cells, TableOptions(oracles={"told": {"clean": "a", "PGD": "a"}}))
    assert [bool(row.detected) for row in table.rows] == [True, False]
    cells[1].control = Control(clips=4, passed=False, message="x")
    (table,) = make_tables(cells)
    assert not table.rows[0].detected


def test_what_a_defence_measures_is_recorded_and_judged_as_a_detector(gray_grid: Write, tmp_path: Path) -> None:
    exported(gray_grid(("kit.gray:Identity", "kit.gray:Measured"), ("length: 6", "length: 3, only: 0")), tmp_path)
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
    cells[1].outcomes[0].attacked = False
    (table,) = make_tables(cells)
    assert table.rows[0].detected == {"PGD": 1.0}


def test_oracles_pick_cells_of_other_rows_and_their_union_is_per_clip() -> None:
    cells = [
        cell("one", "clean", "clean", "110"),
        cell("one", "PGD", "adaptive", "000"),
        cell("other", "clean", "clean", "000"),
        cell("other", "PGD", "adaptive", "101"),
    ]
    (table,) = make_tables(cells, TableOptions(oracles={"told": {"clean": "one", "PGD": "other"}}, counts_clean=True))
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
