"""Intervals and unions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from bench import BenchError
from bench.records.metrics import Z95, mean, roc_area, union, wilson

few = settings(max_examples=40, deadline=None, derandomize=True, database=None)


@few
@given(st.integers(1, 2000), st.data())
def test_wilson_agrees_with_scipy(total: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, total))
    expected = binomtest(hits, total).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson(hits, total) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-12)


def test_wilson_takes_other_levels() -> None:
    expected = binomtest(7, 30).proportion_ci(confidence_level=0.9, method="wilson")
    assert wilson(7, 30, z=float(norm.ppf(0.95))) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert pytest.approx(float(norm.ppf(0.975)), rel=1e-15) == Z95


@pytest.mark.parametrize("total", [1, 3, 101, 10**6])
def test_wilson_touches_the_ends_exactly(total: int) -> None:
    assert wilson(0, total)[0] == 0.0
    assert wilson(total, total)[1] == 1.0
    assert 0 < wilson(0, total)[1] < 1
    assert 0 < wilson(total, total)[0] < 1


def test_wilson_of_nothing_is_everything() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("hits", "total"), [(-1, 5), (6, 5), (1, 0)])
def test_impossible_counts_are_refused(hits: int, total: int) -> None:
    with pytest.raises(BenchError, match="impossible"):
        wilson(hits, total)


def test_union_counts_clips_that_survive_all() -> None:
    verdicts = {
        "pgd": {"a": [True], "b": [True], "c": [False], "d": [False]},
        "tt": {"a": [True], "b": [False], "c": [True], "d": [False]},
    }
    assert union(verdicts) == {"a": True, "b": False, "c": False, "d": False}


def test_union_leaves_out_clips_without_an_outcome() -> None:
    assert union({"pgd": {"a": [True], "b": [True]}, "tt": {"a": [True], "z": [True]}}) == {"a": True}
    assert union({}) == {}


@few
@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4))
def test_union_is_never_above_any_attack(table: list[list[bool]]) -> None:
    found = union({str(a): {f"clip{c}": [right] for c, right in enumerate(row)} for a, row in enumerate(table)})
    assert sum(found.values()) <= min(sum(row) for row in table)
    assert sum(found.values()) == sum(all(column) for column in zip(*table, strict=True))


def test_union_of_draws_is_the_attack_chosen_by_one_half_and_judged_by_the_other() -> None:
    # Even draws: 1/2 and 1/2, a tie; odd draws: 1 and 0. Chosen by the odd ones the second attack is worse: 1/2.
    one, two = [True, True, False, True], [True, False, False, False]
    chosen_by_even = (1 + 0) / 2
    chosen_by_odd = 1 / 2
    assert union({"a": {"x": one}, "b": {"x": two}}) == {"x": (chosen_by_even + chosen_by_odd) / 2}
    assert union({"a": {"x": one}}) == {"x": 0.75}
    assert union({"a": {"x": [True] * 4}, "b": {"x": [False] * 4}}) == {"x": 0.0}


def test_union_of_draws_is_not_lowered_by_luck() -> None:
    """Many attacks that do nothing to a classifier which errs at random one time in five: the least average would say
    much less than 80 %."""
    random = np.random.default_rng(0)
    draws = random.random((8, 2000, 10)) < 0.8
    found = union({str(a): {str(c): list(clip) for c, clip in enumerate(table)} for a, table in enumerate(draws)})
    assert abs(np.mean(list(found.values())) - 0.8) < 0.01
    assert draws.mean(-1).min(0).mean() < 0.65


def test_mean() -> None:
    assert mean([10.0, 20.0, 60.0]) == 30.0
    assert math.isnan(mean([]))


@few
@given(st.lists(st.integers(0, 5), min_size=1, max_size=9), st.lists(st.integers(0, 5), min_size=1, max_size=9))
def test_the_roc_area_counts_pairs_and_ties_by_half(attacked: list[int], clean: list[int]) -> None:
    pairs = [(a > c) + 0.5 * (a == c) for a in attacked for c in clean]
    assert roc_area(attacked, clean) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    assert roc_area(clean, attacked) == pytest.approx(1 - sum(pairs) / len(pairs), abs=1e-12)


def test_the_roc_area_at_its_ends_and_without_scores() -> None:
    low, high = [0.2, 0.1], [0.3]
    assert (roc_area(high, low), roc_area(low, high), roc_area(low, low)) == (1.0, 0.0, 0.5)
    for scores in ([], [float("nan")]):
        with pytest.raises(BenchError, match="needs scores of attacked and of clean clips"):
            roc_area(scores, low)
