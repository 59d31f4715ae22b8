"""In which order rows stand: none gains by what was not done to it."""

from __future__ import annotations

import io
import itertools

import pytest
from kit.cells import cell
from rich.console import Console

from bench.records.audits import AuditedRow, Grade
from bench.records.description import Skipped
from bench.records.identity import ComponentIdentity
from bench.records.outcome import Control
from bench.records.results import CellResult
from bench.report.ranking import incomplete, ranked, unranked
from bench.report.render import LEGEND, render
from bench.report.tables import Table, TableOptions, make_tables, to_pandas


def row(defense: str, clean: str = "1111", **attacks: str) -> list[CellResult]:
    """A row with a gray-box column ``PGD`` and adaptive ones, by label."""
    cells = [cell(defense, "clean", "clean", clean)]
    for label, right in attacks.items():
        made = cell(defense, label, "gray-box" if label == "PGD" else "adaptive", right)
        if label == "adaptive":
            made.settings = made.settings.model_copy(update={"attack": ComponentIdentity(name="adaptive")})
            made.cell = made.settings.id
        cells.append(made)
    return cells


def table_of(*cells: CellResult, options: TableOptions | None = None) -> Table:
    (table,) = make_tables(cells, options)
    return table


def names(table: Table) -> list[str]:
    return [r.defense for r in ranked(table)]


def audited(cells: list[CellResult], grade: Grade) -> AuditedRow:
    ids = [c.cell for c in cells]
    return AuditedRow(
        model="m", defense=cells[0].defense, budget="linf 4/255", grade=grade, findings=[], measured=ids, probed=8
    )


def skipped(defense: str, attack: str, kind: str = "gradient", reason: str = "no such thing") -> Skipped:
    return Skipped(model="m", defense=defense, attack=attack, reason=reason, kind=kind)  # type: ignore[arg-type]


def test_a_row_without_an_adaptive_attack_has_no_place() -> None:
    """A robust model of which BPDA does not exist had 'n/a' and a union of all clips, and stood first."""
    robust = row("robust", PGD="1111")
    table = table_of(
        *row("none", PGD="0000", BPDA="0000"),
        *row("weak", PGD="1000", BPDA="1000"),
        *robust,
        options=TableOptions(skipped=[skipped("robust", "BPDA")]),
    )
    assert names(table) == ["weak", "none"]
    (last,) = unranked(table)
    assert last.defense == "robust"
    assert last.union is not None
    assert last.union.accuracy == 100


@pytest.mark.parametrize("kind", ["gradient", "refused", None])
def test_an_incomplete_row_stands_below_the_complete_ones_as_an_upper_bound(kind: str | None) -> None:
    options = TableOptions(skipped=[skipped("spared", "exact", kind)] if kind else [])
    table = table_of(
        *row("none", PGD="0000", BPDA="0000", exact="0000"),
        *row("spared", PGD="1111", BPDA="1111"),
        *row("weak", PGD="1000", BPDA="1000", exact="1000"),
        options=options,
    )
    assert names(table) == ["weak", "none", "spared"]
    assert [incomplete(table, r) for r in ranked(table)] == [False, False, True]
    union = to_pandas([table]).query("column == 'Union'").set_index("defense")["complete"]
    assert union.to_dict() == {"none": True, "spared": False, "weak": True}


def test_before_an_undefended_classifier_no_gradient_is_missing() -> None:
    """And its gray-box attack knows all there is."""
    table = table_of(
        *row("none", PGD="1000"),
        *row("other", PGD="0000", exact="0000"),
        options=TableOptions(skipped=[skipped("none", "exact")]),
    )
    assert names(table) == ["none", "other"]
    assert not any(incomplete(table, r) for r in table.rows)


def test_rows_are_sorted_by_the_attack_adaptive_and_lose_nothing_by_gradients_that_they_do_not_have() -> None:
    cells = [
        *row("none", PGD="0000", exact="0000", adaptive="0000"),
        # The union of "unlucky" is lower, by an attack that others stand up to; "adaptive" has the word.
        *row("unlucky", PGD="1110", exact="0001", adaptive="1110"),
        *row("best", PGD="1111", adaptive="1100"),
        *row("unasked", PGD="1111", exact="1111"),
    ]
    table = table_of(*cells, options=TableOptions(skipped=[skipped("best", "exact")]))
    assert table.strongest == ("adaptive",)
    assert names(table) == ["unlucky", "best", "none", "unasked"]
    assert [r.defense for r in table.rows if incomplete(table, r)] == ["unasked"]
    unions = {r.defense: r.union.correct for r in table.rows if r.union is not None}
    assert unions == {"none": 0, "unlucky": 0, "best": 2, "unasked": 4}  # adaptive is in the union


def test_the_grade_takes_part_in_the_order() -> None:
    figures = {"a": "1000", "b": "1100", "c": "1110", "f": "1111", "unaudited": "1110", "a too": "1100"}
    rows = {name: row(name, PGD="1111", exact=right) for name, right in figures.items()}
    grades: dict[str, Grade] = {"a": "A", "b": "B", "c": "C", "f": "F", "a too": "A"}
    cells = [c for of_row in rows.values() for c in of_row]
    plain = table_of(*cells)
    assert names(plain) == ["f", "c", "unaudited", "a too", "b", "a"]
    audits = [audited(rows[name], grade) for name, grade in grades.items()]
    table = table_of(*cells, options=TableOptions(audits=audits))
    # A and B by their figures, the better grade first in a tie; C and what nobody audited below; F nowhere.
    assert names(table) == ["a too", "b", "a", "c", "unaudited"]
    assert [r.defense for r in unranked(table)] == ["f"]
    stale = [a.model_copy(update={"measured": ["of other cells"]}) for a in audits]
    assert names(table_of(*cells, options=TableOptions(audits=stale))) == names(plain)


def test_void_rows_are_not_ranked() -> None:
    cells = row("void", PGD="1111", exact="1111")
    cells[2].control = Control(clips=4, passed=False, message="4 of 4 clips are answered differently")
    table = table_of(*row("none", PGD="0000", exact="0000"), *cells)
    assert names(table) == ["none"]
    assert [r.defense for r in unranked(table)] == ["void"]


def test_no_row_rises_by_leaving_an_attack_out() -> None:
    """Whatever a row's outcomes are: without one of its attacks it stands no higher among the others."""
    others = [*row("none", PGD="0000", BPDA="0000", exact="0000"), *row("x", PGD="1110", BPDA="1100", exact="1100")]
    for right in itertools.product(("1111", "1100", "0000"), repeat=3):
        attacks = dict(zip(("PGD", "BPDA", "exact"), right, strict=True))
        place = [*names(table_of(*others, *row("mine", "1111", **attacks)))].index("mine")
        for left_out, kind in itertools.product(attacks, ("gradient", "refused", None)):
            fewer = {label: r for label, r in attacks.items() if label != left_out}
            options = TableOptions(skipped=[skipped("mine", left_out, kind)] if kind else [])
            order = names(table_of(*others, *row("mine", "1111", **fewer), options=options))
            # A gray-box attack that cannot be made on the classifier is missing to every row of it.
            if left_out != "PGD" or kind is None:
                assert "mine" not in order or order.index("mine") >= place, (attacks, left_out, kind)


def test_tables_of_clean_clips_alone_rank_by_them() -> None:
    assert names(table_of(*row("a", "1100"), *row("b", "1110"))) == ["b", "a"]


@pytest.mark.parametrize("many", [False, True])
def test_the_terminal_follows_the_same_rules(many: bool) -> None:
    more = {f"x{i}": "1111" for i in range(10)} if many else {}
    rows = [
        row("none", PGD="0000", BPDA="0000", exact="0000", **dict.fromkeys(more, "0000")),
        row("spared", PGD="1111", BPDA="1111", **more),
        row("best", PGD="1110", BPDA="1110", exact="1110", **more),
        row("nothing", PGD="1111"),
    ]
    reasons = [
        skipped("spared", "exact", "refused", "It cannot be."),
        skipped("nothing", "exact", "gradient", "None is."),
    ]
    (table,) = make_tables([c for of_row in rows for c in of_row], TableOptions(skipped=reasons))
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(render(table))
    text = console.export_text()
    for first, second in itertools.pairwise(["best", "none", "spared", "Rows that claim nothing", "nothing"]):
        assert text.index(first) < text.rindex(second), text
    for part in ("refused¹", "¹ It cannot be.", "n/a²", "² None is.", "<= 100.0"):
        assert part in text, text
    assert "refused" in LEGEND
    assert "not noise" in LEGEND
