"""Grades, and audits that are kept row by row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kit.evidence import PASSED, cell, row_of

from bench import BenchError
from bench.audit.outcomes import examine
from bench.records.audits import Finding, grade, read_audit, write_audit


@pytest.mark.parametrize(
    ("severities", "mark"),
    [([], "A"), (["note"], "A"), (["note", "warning"], "B"), (["warning", "fault"], "C")],
)
def test_grades(severities: list[Any], mark: str) -> None:
    assert grade([Finding(check="x", severity=s, message="") for s in severities]) == mark


@pytest.mark.parametrize(
    ("probed", "alone", "fresh", "dear", "shown", "asked"),
    [
        (0, 0, 0, "", "F (outcomes)", "stored outcomes only"),
        (0, 0, 0, "1 h", "F (outcomes; the rest is too dear)", "stored outcomes only"),
        (8, 0, 0, "", "F (probes)", "8 clips probed"),
        (8, 8, 24, "", "F", "8 clips probed, 8 clips and 24 fresh ones asked in a process of its own"),
        (0, 8, 0, "1 h", "F (in part; the rest is too dear)", "8 clips asked in a process of its own"),
        (2, 8, 0, "1 h", "F (in part; the rest is too dear)", "2 clips probed, 8 clips asked in a process of its own"),
    ],
)
def test_a_row_says_what_its_grade_stands_on(
    probed: int, alone: int, fresh: int, dear: str, shown: str, asked: str
) -> None:
    row = examine(row_of(cell("PGD", "a", "gray-box")))
    row = row.model_copy(update={"probed": probed, "alone": alone, "fresh": fresh, "dear": dear})
    assert (row.shown, row.asked) == (shown, asked)


def test_audits_are_kept_row_by_row(tmp_path: Path) -> None:
    one, two = examine(row_of(cell("PGD+BPDA", "a", control=PASSED))), examine(row_of(cell("PGD", "a", "gray-box")))
    other = two.model_copy(update={"defense": "e"})
    write_audit(tmp_path, [one, other])
    write_audit(tmp_path, [two])
    assert [(r.defense, r.grade) for r in read_audit(tmp_path)] == [("e", "F"), ("d", "F")]
    (tmp_path / "_audit.json").write_text("[{}]")
    with pytest.raises(BenchError, match=r"_audit\.json is not a valid audit"):
        read_audit(tmp_path)
