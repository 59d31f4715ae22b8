"""Stored outcomes that contradict a figure, on cells made by hand."""

from __future__ import annotations

from typing import Any

from kit.cells import identified
from kit.evidence import CLEAN, PASSED, cell, row_of

from bench.audit.outcomes import examine, rows_of
from bench.records.audits import Finding
from bench.records.identity import ComponentIdentity, Gradient
from bench.records.outcome import Control
from bench.records.results import CellResult


def found(*cells: CellResult) -> dict[str, Finding]:
    return {f.check: f for f in examine(row_of(*cells)).findings}


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    row = examine(row_of(cell("PGD", "abc", "gray-box"), cell("PGD+BPDA", "a", control=PASSED)))
    assert (row.grade, row.findings) == ("A", [])


def test_a_row_without_an_adaptive_attack_has_no_grade() -> None:
    row = examine(row_of(cell("PGD", "ab", "gray-box")))
    assert row.grade == "F"
    assert [f.check for f in row.findings] == ["adaptive"]


def test_transfer_that_beats_the_adaptive_attack_names_its_clips() -> None:
    finding = found(cell("PGD", "a", "gray-box"), cell("PGD+BPDA", "abc", control=PASSED))["knowing more"]
    assert (finding.severity, finding.clips) == ("fault", ["b", "c"])
    weaker = found(cell("PGD", "abd", "gray-box"), cell("PGD+BPDA", "c", control=PASSED))["knowing more"]
    assert (weaker.severity, weaker.clips) == ("warning", ["c"])


def test_attackers_are_compared_who_may_do_the_same() -> None:
    """Transfer at 16/255 may beat PGD at 4/255; and colours of frames that break all clips excuse no masked PGD."""
    adaptive = cell("PGD+BPDA", "abc", control=PASSED)
    far = cell("Transfer", "a", "black-box", size=16 / 255)
    assert "knowing more" not in found(far, adaptive)
    flicker = cell("Flicker+BPDA", "", norm="flicker", size=40 / 255, control=PASSED)
    finding = found(cell("PGD", "a", "gray-box"), adaptive, flicker)["knowing more"]
    assert (finding.cells, finding.clips) == (["PGD"], ["b", "c"])
    assert "noise" in found(cell("noise", "ab", "noise"), adaptive, flicker)


def test_a_derivative_that_is_beaten_by_a_stand_in_is_masked() -> None:
    def of_eight(stand_in: str, derivative: str, kind: Gradient = "bpda", **how: Any) -> dict[str, Finding]:
        bpda = cell("PGD+BPDA", stand_in, gradient=kind, control=PASSED, clips="abcdefgh")
        exact = cell("PGD+exact", derivative, gradient="exact", control=PASSED, clips="abcdefgh", **how)
        clean = cell("clean", "abcdefgh", "clean", clips="abcdefgh")
        return {f.check: f for f in examine(next(iter(rows_of([clean, bpda, exact])))).findings}

    finding = of_eight("fgh", "abcdefgh")["derivative"]
    assert (finding.severity, finding.cells, finding.clips) == ("note", ["PGD+exact"], list("abcde"))
    assert of_eight("fgh", "abcdefgh", "bpda-identity")["derivative"] == finding
    assert "derivative" not in of_eight("fgh", "abcdefgh", "bpda-negated")
    # Four in a row are luck once in sixteen; five against one, seven times in sixty-four.
    assert "derivative" not in of_eight("efgh", "abcdefgh")
    assert "derivative" not in of_eight("fgh", "abcdegh")
    assert "derivative" not in of_eight("abcdefgh", "")
    assert "derivative" not in of_eight("fgh", "abcdefgh", params={"loss": "margin"})


def test_a_classifier_of_other_clips_is_noticed() -> None:
    def of_bare(right: str) -> dict[str, Finding]:
        bare = cell("clean", right, "clean", defense="none")
        return found(bare, cell("PGD+BPDA", "", defense="none"), cell("PGD+BPDA", "a", control=PASSED))

    assert (of_bare("d")["clean"].severity, of_bare("d")["clean"].cells) == ("warning", ["clean"])
    assert "clean" not in of_bare("ad")


def test_queries_that_beat_gradients() -> None:
    square = cell("Square", "a", backwards=0, control=PASSED, gradient="query")
    finding = found(square, cell("PGD+BPDA", "abc", control=PASSED))["queries"]
    assert (finding.severity, finding.cells, finding.clips) == ("fault", ["Square"], ["b", "c"])
    assert "queries" not in found(square, cell("PGD+BPDA", "a", control=PASSED))
    # A step is compared with steps, not with queries.
    step = cell("FGSM+BPDA", "a", name="fgsm", control=PASSED)
    assert "single step" not in found(step, cell("Square", "abcd", backwards=0, control=PASSED))


def test_the_undefended_row_is_known_by_its_defence_and_not_by_its_label() -> None:
    bare = cell("PGD", "a", "gray-box", defense="No defence")
    bare.settings = identified("none", "gray-box")
    clean = CLEAN.model_copy(update={"defense": "No defence", "settings": bare.settings})
    (row,) = rows_of([clean, bare])
    assert row.undefended
    assert examine(row).grade == "A"


def test_noise_that_beats_the_attacks() -> None:
    finding = found(cell("noise", "ab", "noise"), cell("PGD+BPDA", "abcd", control=PASSED))["noise"]
    assert (finding.severity, finding.clips) == ("fault", ["c", "d"])


def test_controls_that_failed_or_were_not_run() -> None:
    failed = Control(clips=4, passed=False, message="2 of 4 clips are answered differently")
    assert found(cell("PGD+BPDA", "a", control=failed))["control"].severity == "fault"
    assert examine(row_of(cell("PGD+BPDA", "a", control=failed))).grade == "F"
    assert found(cell("PGD+BPDA", "a"))["control"].severity == "warning"


def test_an_attack_that_fails_on_the_bare_classifier() -> None:
    finding = found(cell("PGD+BPDA", "abcd", control=PASSED), cell("PGD+BPDA", "abc", defense="none"))[
        "bare classifier"
    ]
    assert "75 %" in finding.message


def test_losses_that_do_not_rise() -> None:
    flat, rising = [-3.0, -3.1, -2.9, -3.0], [-3.0, -2.0, -1.5, -1.0]
    stuck = cell("PGD+BPDA", "abc", control=PASSED, traces={"a": flat, "b": flat, "c": rising, "d": flat})
    assert found(stuck)["loss"].clips == ["a", "b"]
    climbing = cell("PGD+BPDA", "abc", control=PASSED, traces={"a": rising, "b": rising, "c": flat})
    assert "loss" not in found(climbing)
    # Another gradient that climbs is enough.
    assert "loss" not in found(stuck, cell("PGD+exact", "abc", control=PASSED, traces=dict.fromkeys("abc", rising)))


def test_a_larger_budget_that_breaks_fewer_clips() -> None:
    small = cell("PGD+BPDA", "a", control=PASSED)
    large = cell("PGD+BPDA", "abc", budget="linf 8/255", size=8 / 255, control=PASSED)
    finding = found(small, large)["budget"]
    assert (finding.severity, finding.clips) == ("fault", ["b", "c"])
    assert "budget" not in found(
        cell("PGD+BPDA", "abc", control=PASSED),
        cell("PGD+BPDA", "a", budget="linf 8/255", size=8 / 255, control=PASSED),
    )


def test_a_single_step_that_beats_many() -> None:
    finding = found(cell("PGD+BPDA", "abc", control=PASSED), cell("FGSM+BPDA", "ad", name="fgsm", control=PASSED))
    assert finding["single step"].clips == ["b", "c"]


def test_randomness_wants_an_average() -> None:
    drawn = {c: [1, 0, 1, 1] for c in "abcd"}
    assert "randomness" in found(cell("PGD+BPDA", "abcd", control=PASSED, draws=drawn))
    for name, params, enough in (
        ("eot", {"draws": 20}, True),
        ("eot", {"draws": 1}, False),
        ("autoattack", {"version": "rand", "draws": 20}, True),
        ("autoattack", {"version": "standard", "draws": 20}, False),
    ):
        tried = cell("EOT+BPDA", "abcd", control=PASSED, draws=drawn, name=name, params=params)
        assert ("randomness" in found(tried)) is not enough
        part = (ComponentIdentity(name=name, params=params),)
        moved = cell("adaptive", "abcd", control=PASSED, draws=drawn, name="adaptive", params={"draws": 2}, parts=part)
        assert ("randomness" in found(moved)) is not enough
