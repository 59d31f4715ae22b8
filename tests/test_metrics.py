"""Intervals and unions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from bench import BenchError
from bench.metrics import Z95, mean, union, wilson

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
    correct = {
        "pgd": {"a": True, "b": True, "c": False, "d": False},
        "tt": {"a": True, "b": False, "c": True, "d": False},
    }
    assert union(correct) == {"a": True, "b": False, "c": False, "d": False}


def test_union_leaves_out_clips_without_an_outcome() -> None:
    assert union({"pgd": {"a": True, "b": True}, "tt": {"a": True, "z": True}}) == {"a": True}
    assert union({}) == {}


@few
@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4))
def test_union_is_never_above_any_attack(table: list[list[bool]]) -> None:
    correct = {str(a): {f"clip{c}": right for c, right in enumerate(row)} for a, row in enumerate(table)}
    found = union(correct)
    assert sum(found.values()) <= min(sum(row) for row in table)
    assert sum(found.values()) == sum(all(column) for column in zip(*table, strict=True))


def test_mean() -> None:
    assert mean([10.0, 20.0, 60.0]) == 30.0
    assert math.isnan(mean([]))
