"""What speaks against a row, by counts of clips that were asked again."""

from __future__ import annotations

from typing import Any

import pytest
from scipy.stats import binomtest

from bench.audit.verify import doubts
from bench.records.submissions import Counts, VerifiedCell


def cell(attack: str = "PGD", **counts: Any) -> VerifiedCell:
    fields = {
        k: Counts(asked=v[0], lost=v[1], won=v[2]) if k in ("kept", "exact", "other") else v for k, v in counts.items()
    }
    return VerifiedCell(grid="g", model="m", defense="d", attack=attack, **fields)


def test_a_row_that_repeats_has_no_doubts() -> None:
    assert doubts([cell(kept=(4, 0, 0), exact=(8, 0, 0)), cell("clean", exact=(8, 0, 0))]) == []
    assert doubts([]) == []


def test_one_measured_clip_that_is_right_by_the_record_alone_is_enough() -> None:
    for counts in ({"kept": (4, 1, 0)}, {"exact": (8, 1, 0)}):
        (words,) = doubts([cell(**counts), cell("clean", exact=(8, 0, 0))])
        assert "recorded as right, and are wrong (PGD)" in words


def test_clips_that_are_right_and_recorded_as_wrong_are_forgiven_one_by_one() -> None:
    assert doubts([cell(exact=(20, 0, 2))]) == []
    (words,) = doubts([cell(exact=(20, 0, 3))])
    assert "3 of 20 measured clips are recorded as wrong, and are right" in words


@pytest.mark.parametrize("lost", range(12))
@pytest.mark.parametrize("won", range(4))
def test_clips_that_another_machine_makes_otherwise_may_change_by_chance(lost: int, won: int) -> None:
    """The exact one-sided test of as many losses as wins."""
    likely = lost == 0 or binomtest(lost, lost + won, 0.5, alternative="greater").pvalue >= 0.025
    found = doubts([cell(other=(lost, lost, 0)), cell("APGD", other=(won + 3, 0, won))])
    assert (found == []) == likely, found


def test_attacks_must_begin_where_they_began() -> None:
    assert doubts([cell(exact=(2, 0, 0), other=(6, 0, 0), begun_otherwise=1)]) == []
    (words,) = doubts([cell(exact=(2, 0, 0), other=(6, 0, 0), begun_otherwise=2)])
    assert words == "PGD begins otherwise than recorded on 2 of 8 clips."
    assert doubts([cell(other=(40, 0, 0), begun_otherwise=4)]) == []


def test_kept_clips_must_be_whole() -> None:
    (words,) = doubts([cell(kept=(3, 0, 0), spoiled=1), cell("APGD", kept=(4, 0, 0))])
    assert words.startswith("1 of 8 kept clips are torn")
    assert words.endswith("(PGD).")


@pytest.mark.parametrize("now", range(0, 81, 5))
def test_draws_of_a_randomised_defence_are_right_as_often(now: int) -> None:
    """95 % Wilson intervals that do not overlap, and only where there are fewer now than there were."""
    stored = binomtest(30, 40).proportion_ci(method="wilson")
    found = binomtest(now, 80).proportion_ci(method="wilson")
    words = doubts([cell(exact=(8, 2, 0), draws=(30, 40, now, 80))])
    assert (words == []) == (stored.low <= found.high), words
