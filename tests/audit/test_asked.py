"""What a process of its own answers against what is stored, and the frauds that only this shows."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from kit.running import run_plan

from bench import BenchError
from bench.audit.asked import AskedCell, answers_agree, fresh_clips_agree
from bench.audit.rows import audit
from bench.grids.grid import read_grid
from bench.plan.expand import make_plan
from bench.records.audits import AuditedRow
from bench.records.outcome import Outcome

Write = Callable[..., Path]


def outcomes(predictions: str, draws: int = 0) -> list[Outcome]:
    """Of clips of class 1, a digit each: the class that is answered; with ``draws``, so many times, and then 0."""
    found = []
    for i, digit in enumerate(predictions):
        drawn = [int(digit)] * draws + [0] * (10 - draws) if draws else []
        answer = drawn[0] if drawn else int(digit)
        found.append(Outcome(clip=str(i), label=1, prediction=answer, votes=[answer], draws=drawn, correct=answer == 1))
    return found


def asked(stored: str, answers: str, same: str = "") -> AskedCell:
    marks = [s == "1" for s in same] if same else [True] * len(stored)
    return AskedCell(label="PGD", stored=outcomes(stored), answers=outcomes(answers), same=marks)


@pytest.mark.parametrize(
    ("stored", "answers", "same", "severities"),
    [
        ("1102", "1102", "", []),
        ("1102", "1002", "", ["fault"]),  # one clip is no longer right
        ("1102", "1112", "", ["warning"]),  # one is right now
        ("1102", "1101", "", ["warning"]),
        ("1102", "1100", "", ["warning"]),  # another mistake
        # Where the clips are others, as on another machine: 4 lost of 4 are chance (1/16), 5 of 5 are not (1/32).
        ("1111", "0000", "0000", []),
        ("11111", "00000", "00000", ["fault"]),
        ("111110", "000001", "000000", []),
        ("11111", "00001", "00001", []),
    ],
)
def test_a_deterministic_defence_repeats_its_answers(
    stored: str, answers: str, same: str, severities: list[str]
) -> None:
    assert [f.severity for f in answers_agree([asked(stored, answers, same)])] == severities


def test_what_fails_in_a_process_of_its_own_is_no_right_answer() -> None:
    cell = asked("11", "11")
    cell.answers[1].status, cell.answers[1].error = "failed", "IndexError"
    (finding,) = answers_agree([cell])
    assert (finding.severity, finding.clips, finding.cells) == ("fault", ["1"], ["PGD"])


@pytest.mark.parametrize(
    ("stored", "now", "severities"),
    [
        (10, 9, []),
        # Of 40 draws: 30 right, 95 % Wilson interval 60 to 86 %; 20 right, 35 to 65 %; 10 right, 14 to 40 %.
        (30 / 4, 20 / 4, []),
        (30 / 4, 10 / 4, ["fault"]),
        (10 / 4, 30 / 4, ["warning"]),
    ],
)
def test_a_randomised_defence_repeats_its_share_of_right_answers(
    stored: float, now: float, severities: list[str]
) -> None:
    def of(share: float) -> list[Outcome]:
        counts = [int(share), int(share), int(4 * share - 2 * int(share)) // 2]
        counts.append(round(4 * share) - sum(counts))
        return [o for i, k in enumerate(counts) for o in outcomes("1", k) if not setattr(o, "clip", str(i))]

    cell = AskedCell(label="EOT", stored=of(stored), answers=of(now), same=[True] * 4)
    assert [f.severity for f in answers_agree([cell])] == severities


@pytest.mark.parametrize(
    ("stored", "answers", "found"),
    [
        # 95 % Wilson intervals: 6 of 6 from 61 %; 0 of 8 up to 32 %, 3 of 8 up to 69 %; 4 of 8 from 22 %.
        ("111111", "00000000", True),
        ("111111", "00000111", False),
        ("11110000", "00000000", False),
        ("00000000", "11111111", False),  # better is no fraud
        ("", "00000000", False),
        ("111111", "", False),
    ],
)
def test_fresh_clips_are_as_right_as_those_that_were_measured(stored: str, answers: str, found: bool) -> None:
    finding = fresh_clips_agree("PGD", outcomes(stored), outcomes(answers), [1] * len(answers))
    assert (finding is not None) == found
    assert finding is None or (finding.severity, finding.cells) == ("fault", ["PGD"])


def audited(path: Path, folder: Path, label: str, clips: int = 6) -> AuditedRow:
    """One row of a grid, run with its controls and audited."""
    results = run_plan(make_plan(read_grid(path)), folder, control=4)
    (row,) = audit(make_plan(read_grid(path)), results, clips=clips, salt="salt", defenses=[label], store=folder)
    return row


def with_defense(gray_grid: Write, name: str, attacks: str = "[noise, PGD, PGD+exact]") -> Path:
    return gray_grid(
        ('"kit.gray:Identity"', f'"{name}"'),
        ("[clean, noise, PGD, PGD+BPDA, PGD+exact]", attacks),
        ("size: 0.15", "size: 0.12"),
    )


@pytest.mark.parametrize(
    ("fraud", "check"),
    [
        ("ReadingLabels", "alone"),
        ("ReadingClips", "alone"),
        ("Collecting", "alone"),
        ("HonestBySeed", "alone"),
        ("HonestByStack", "alone"),
        ("HonestByModules", "alone"),
        ("ReversedUnlessProbed", "audited"),
    ],
)
def test_frauds_that_know_more_than_the_clip(
    gray_grid: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fraud: str, check: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "run"])
    attacks = "[noise, PGD+exact]" if fraud == "ReversedUnlessProbed" else "[noise, PGD, PGD+exact]"
    row = audited(with_defense(gray_grid, f"planted:{fraud}", attacks), tmp_path / "s", f"planted:{fraud}")
    faults = {f.check for f in row.findings if f.severity == "fault"}
    assert check in faults, row.findings
    assert row.grade in ("C", "F")
    assert row.alone == 6


@pytest.mark.slow
def test_a_fraud_that_knows_the_test_clips_by_heart(gray_grid: Write, tmp_path: Path) -> None:
    """It repeats every answer in a process of its own: only fresh clips show it."""
    path = gray_grid(
        ('"kit.gray:GrayClips", length: 6', "actions12, clips: 12"),
        ("kit.gray:level_classifier", "nl_tiny"),
        ('"kit.gray:Identity"', '"planted:Rendering(length=12)"'),
        ("[clean, noise, PGD, PGD+BPDA, PGD+exact]", "[PGD+exact]"),
        ("size: 0.15", "size: 4/255"),
    )
    row = audited(path, tmp_path / "s", "planted:Rendering(length=12)", clips=4)
    assert "fresh clips" in {f.check for f in row.findings if f.severity == "fault"}, row.findings
    assert "alone" not in {f.check for f in row.findings}
    assert row.fresh > 8


def test_the_false_identity_is_refused(gray_grid: Write, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="FalseIdentity says identity = True but changes the clips"):
        run_plan(make_plan(read_grid(with_defense(gray_grid, "planted:FalseIdentity"))), tmp_path)


@pytest.mark.parametrize("honest", ["none", "kit.gray:Doubled", "gaussian_noise(sigma=0.02)"])
def test_honest_rows_are_not_accused(gray_grid: Write, tmp_path: Path, honest: str) -> None:
    attacks = "[noise, PGD, PGD+exact]"
    if honest.startswith("gauss"):
        attacks = "[noise, PGD, {attack: {name: eot, draws: 4}, gradient: exact, label: EOT+exact}]"
    other = "kit.gray:Doubled" if honest == "none" else honest
    row = audited(with_defense(gray_grid, other, attacks), tmp_path / "s", honest)
    assert row.grade == "A", row.findings
    assert (row.probed, row.alone, row.dear) == (6, 6, "")


def test_a_row_that_cannot_be_asked_says_so_and_is_no_a(gray_grid: Write, tmp_path: Path) -> None:
    label = "kit.alone:AtHome"
    row = audited(with_defense(gray_grid, label), tmp_path / "s", label)
    (finding,) = row.findings
    assert (finding.severity, finding.check) == ("warning", "alone")
    assert "could not be asked in a process of its own" in finding.message
    assert "nobody tests me here" in finding.message
    assert (row.grade, row.probed, row.alone) == ("B", 6, 0)


def test_what_takes_too_long_is_left_out_and_said(
    gray_grid: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass that is taken to last a second: of 5 minutes, the probes' 600-odd passes and more leave nothing."""
    path = with_defense(gray_grid, "kit.gray:Doubled")
    results = run_plan(make_plan(read_grid(path)), tmp_path / "s", control=4)
    for seconds, minutes, probed, left_out in ((1.0, 5.0, 0, "probing a clip takes"), (1.0, 1e3, 6, "")):
        monkeypatch.setattr("bench.audit.rows.seconds_of_a_pass", lambda probed, s=seconds: s)
        rows = audit(make_plan(read_grid(path)), results, clips=6, salt="salt", alone=False, minutes=minutes)
        assert {row.probed for row in rows} == {probed}
        assert all(left_out in row.dear for row in rows)
