"""Paired comparisons of rows, against published figures and SciPy."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from kit.cells import cell
from scipy import stats

from bench.errors import BenchError
from bench.records.identity import ComponentIdentity
from bench.records.results import CellResult, Score
from bench.report.compare import compare_rows, holm, pair_rows, paired_interval, sign_flip_p
from bench.report.rows import NamedRow


def row(defense: str, *cells: CellResult) -> NamedRow:
    return NamedRow("g", "m", defense, cells)


def randomised(defense: str, draws: list[list[int]]) -> CellResult:
    """A cell of clips of class 0 with several draws each."""
    made = cell(defense, "PGD", "adaptive", "".join(str(int(d[0] == 0)) for d in draws))
    for outcome, drawn in zip(made.outcomes, draws, strict=True):
        outcome.draws = drawn
    return made.model_copy(update={"score": Score.of(made.outcomes)})


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (1, 7), (5, 5), (12, 2), (30, 14)])
def test_of_one_draw_each_it_is_mcnemars_exact_test(first: int, second: int) -> None:
    differences = [Fraction(1)] * first + [Fraction(-1)] * second + [Fraction(0)] * 9
    expected = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert sign_flip_p(differences) == pytest.approx(expected, rel=1e-12)


def test_of_several_draws_it_is_the_exact_sign_flip_test() -> None:
    differences = [Fraction(n, 10) for n in (3, -1, 7, 10, 2, -4, 0, 5)] + [Fraction(1, 3)]
    values = np.array([float(d) for d in differences])
    expected = stats.permutation_test(
        (values,), np.sum, permutation_type="samples", alternative="two-sided", n_resamples=np.inf
    )
    assert sign_flip_p(differences) == pytest.approx(expected.pvalue, rel=1e-9)


def test_the_interval_is_the_published_one() -> None:
    """The airway hyper-responsiveness of 21 children: Fagerland, Lydersen and Laake, Recommended tests and confidence
    intervals for paired binomial proportions, Statistics in Medicine, 2014: 1, 1, 7 and 12 pairs."""
    chances = [(1.0, 1.0)] * 1 + [(1.0, 0.0)] * 1 + [(0.0, 1.0)] * 7 + [(0.0, 0.0)] * 12
    assert paired_interval(chances) == pytest.approx((-0.507, -0.026), abs=5e-4)


@pytest.mark.parametrize(("n", "p"), [(4, 1.0), (12, 1.0), (7, 0.0)])
def test_rows_that_agree_on_all_clips_have_an_interval_around_zero(n: int, p: float) -> None:
    """Without correlation, square-and-add: sqrt((p - l)^2 + (u - p)^2), one of them 0, z^2 / (n + z^2) the other."""
    z = stats.norm.ppf(0.975)
    half = z * z / (n + z * z)
    assert paired_interval([(p, p)] * n) == pytest.approx((-half, half))


def test_holm() -> None:
    """By hand: 4 x 0.005; 3 x 0.01; 2 x 0.03; and 0.04, raised to what stands before it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_a_column_says_which_clips_differ() -> None:
    found = compare_rows(
        row("a", cell("a", "clean", "clean", "1111"), cell("a", "PGD", "adaptive", "1101")),
        row("b", cell("b", "clean", "clean", "1111"), cell("b", "PGD", "adaptive", "0010")),
    )
    clean, pgd = found.columns
    assert (clean.difference, clean.p, clean.only_first) == (0, 1, ())
    assert (pgd.first, pgd.second, pgd.difference) == (75, 25, 50)
    assert (pgd.only_first, pgd.only_second) == (("0", "1", "3"), ("2",))
    assert pgd.p == pytest.approx(stats.binomtest(3, 4).pvalue)
    assert pgd.adjusted == min(1.0, 2 * pgd.p)
    assert not pgd.randomised
    assert not pgd.remark


def test_draws_of_a_clip_are_one_clip() -> None:
    first = randomised("a", [[0, 0, 0, 0], [0, 0, 0, 1]])
    second = row("b", cell("b", "PGD", "adaptive", "00"))
    (column,) = compare_rows(row("a", first), second).columns
    assert column.randomised
    assert column.difference == pytest.approx(87.5)
    assert column.p == 0.5  # two clips, both for the first: 2 of the 4 signs are as far from zero


def test_only_clips_that_both_have_count() -> None:
    longer = cell("a", "PGD", "adaptive", "0111")
    (column,) = compare_rows(row("a", longer), row("b", cell("b", "PGD", "adaptive", "00"))).columns
    assert (column.clips, column.left_out, column.first) == (2, 2, 50)


def test_what_cannot_be_compared_is_refused() -> None:
    mine = row("a", cell("a", "PGD", "adaptive", "01"))
    with pytest.raises(BenchError, match="no attack"):
        compare_rows(mine, row("b", cell("b", "APGD", "adaptive", "01")))
    elsewhere = cell("b", "PGD", "adaptive", "01")
    settings = elsewhere.settings.model_copy(update={"dataset": ComponentIdentity(name="d", params={"size": 9})})
    with pytest.raises(BenchError, match="different data"):
        compare_rows(mine, row("b", elsewhere.model_copy(update={"settings": settings})))
    relabelled = cell("b", "PGD", "adaptive", "01")
    relabelled.outcomes[1].label = 1
    with pytest.raises(BenchError, match="labels for clip 1"):
        compare_rows(mine, row("b", relabelled))
    renamed = cell("b", "PGD", "adaptive", "01")
    for outcome in renamed.outcomes:
        outcome.clip += "x"
    with pytest.raises(BenchError, match="no clip"):
        compare_rows(mine, row("b", renamed))


def test_another_attack_of_the_same_label_is_remarked() -> None:
    other = cell("b", "PGD", "adaptive", "01")
    settings = other.settings.model_copy(update={"attack": ComponentIdentity(name="pgd", params={"loss": "dlr"})})
    other = other.model_copy(update={"settings": settings})
    (column,) = compare_rows(row("a", cell("a", "PGD", "adaptive", "01")), row("b", other)).columns
    assert "other settings" in column.remark


def test_rows_of_two_folders_stand_opposite_their_like() -> None:
    a, b, c = (row(d, cell(d, "PGD", "adaptive", "01")) for d in "abc")
    assert pair_rows([a, b], [c, b]) == [(b, b)]
    assert pair_rows([a], [b]) == [(a, b)]
    with pytest.raises(BenchError, match="No classifier and defence"):
        pair_rows([a, b], [c])
