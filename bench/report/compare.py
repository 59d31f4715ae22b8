"""Two rows side by side: paired tests on the clips that both have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from bench.errors import BenchError
from bench.records.metrics import wilson
from bench.records.outcome import Outcome
from bench.records.results import CellResult, meanings
from bench.report.rows import NamedRow


@dataclass(frozen=True, kw_only=True)
class ComparedColumn:
    """One attack in two rows.

    Attributes:
        attack, budget: labels of the column.
        clips: those that both rows have; all that follows is of them.
        left_out: clips that only one of the rows has.
        first, second: accuracies in percent.
        difference, low, high: ``first - second`` and its 95 % interval (:func:`paired_interval`), percentage points.
        p: of :func:`sign_flip_p`, two-sided.
        adjusted: ``p`` after Holm's correction over the columns of these two rows.
        only_first, only_second: ids of the clips that the one row is right on more often than the other.
        randomised: whether a clip has several draws in either row.
        remark: what makes the two columns something else; empty if nothing does.
    """

    attack: str
    budget: str
    clips: int
    left_out: int
    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float
    adjusted: float
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    randomised: bool
    remark: str = ""


@dataclass(frozen=True)
class Comparison:
    """Two rows, column by column; ``missing`` are labels of columns that only one of them has."""

    first: str
    second: str
    columns: tuple[ComparedColumn, ...]
    missing: tuple[str, ...]


def compare_rows(first: NamedRow, second: NamedRow) -> Comparison:
    """Compares two rows on the clips that both have.

    Raises:
        BenchError: they are of different data, a clip has two labels, or they have no column or no clip in common.
    """
    mine, others = first.columns, second.columns
    shared = [key for key in mine if key in others]
    if not shared:
        raise BenchError(f"{first} and {second} have no attack with the same label and budget in common.")
    columns = [_column(first, second, key) for key in shared]
    adjusted = holm([column.p for column in columns])
    return Comparison(
        str(first),
        str(second),
        tuple(replace(column, adjusted=p) for column, p in zip(columns, adjusted, strict=True)),
        tuple(" ".join(filter(None, key)) for key in [*mine, *others] if (key in mine) != (key in others)),
    )


def pair_rows(first: Sequence[NamedRow], second: Sequence[NamedRow]) -> list[tuple[NamedRow, NamedRow]]:
    """Which rows stand opposite one another: a single one its like or the only one, others those of the same labels.

    Raises:
        BenchError: none do.
    """
    if len(first) == len(second) == 1:
        return [(first[0], second[0])]
    like = {(row.model, row.defense): row for row in second}
    pairs = [(row, like[row.model, row.defense]) for row in first if (row.model, row.defense) in like]
    if not pairs:
        names = ", ".join(f"{row.defense}@{row.model}" for row in (*first, *second))
        raise BenchError(f"No classifier and defence are in both: there are {names}; name two rows, GRID:DEFENCE.")
    return pairs


def _column(first: NamedRow, second: NamedRow, key: tuple[str, str]) -> ComparedColumn:
    mine, others = first.columns[key], second.columns[key]
    if (mine.dataset, mine.settings.dataset) != (others.dataset, others.settings.dataset):
        raise BenchError(
            f"{first} and {second} are of different data: {_said(mine)} and {_said(others)}; "
            "compare rows of the same clips."
        )
    opposite = {o.clip: o for o in others.outcomes}
    pairs = [(o, opposite[o.clip]) for o in mine.outcomes if o.clip in opposite]
    if not pairs:
        raise BenchError(f"{first} and {second} have no clip in common: compare rows of the same clips.")
    relabelled = next((a.clip for a, b in pairs if a.label != b.label), None)
    if relabelled is not None:
        raise BenchError(f"{first} and {second} have different labels for clip {relabelled}: they are of other data.")
    chances = [(_exact(a), _exact(b)) for a, b in pairs]
    low, high = paired_interval([(float(a), float(b)) for a, b in chances])
    n = len(pairs)
    one, other = (float(sum(chance[i] for chance in chances)) for i in (0, 1))
    meant = ("attack", *key)
    return ComparedColumn(
        attack=key[0],
        budget=key[1],
        clips=n,
        left_out=len(mine.outcomes) + len(others.outcomes) - 2 * n,
        first=100 * one / n,
        second=100 * other / n,
        difference=100 * (one - other) / n,
        low=100 * low,
        high=100 * high,
        p=sign_flip_p([a - b for a, b in chances]),
        adjusted=1.0,
        only_first=tuple(o.clip for (o, _), (a, b) in zip(pairs, chances, strict=True) if a > b),
        only_second=tuple(o.clip for (o, _), (a, b) in zip(pairs, chances, strict=True) if a < b),
        randomised=any(o.draws for pair in pairs for o in pair),
        remark=""
        if meanings(mine)[meant] == meanings(others)[meant]
        else "the attack has other settings, code or source in the two rows",
    )


def _said(cell: CellResult) -> str:
    """A data set with its parameters and the digest of its code."""
    data = cell.settings.dataset
    return f"{cell.dataset}({', '.join(f'{k}={v}' for k, v in data.params.items())}), code {data.code or 'unknown'}"


def _exact(outcome: Outcome) -> Fraction:
    return Fraction(sum(outcome.verdicts), len(outcome.verdicts))


def sign_flip_p(differences: Sequence[Fraction]) -> float:
    """Exact two-sided p-value of paired differences, one per clip: Fisher's randomisation test (Fisher, The Design of
    Experiments, 1935), in which each difference is as likely to have the other sign.

    Where every difference is -1, 0 or 1 it is the exact McNemar test (McNemar, Psychometrika, 1947), the binomial test
    of the clips that differ. Several draws of a clip are one difference, that of their averages: draws are no clips.
    """
    scale = math.lcm(*(d.denominator for d in differences)) if differences else 1
    steps = [abs(int(d * scale)) for d in differences if d]
    seen = abs(int(sum(differences) * scale))
    width = sum(steps)
    # ways[i]: probability that the sum is i - width.
    ways = np.zeros(2 * width + 1)
    ways[width] = 1
    for step in steps:
        ways = (np.roll(ways, step) + np.roll(ways, -step)) / 2  # nothing is pushed over an end: width is their sum
    sums = np.abs(np.arange(-width, width + 1))
    return min(1.0, float(ways[sums >= seen].sum()))


def paired_interval(chances: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """95 % interval of the difference of two paired proportions: method 10 of Newcombe (Improved confidence intervals
    for the difference between binomial proportions based on paired data, Statistics in Medicine, 1998).

    Args:
        chances: per clip, the probability in ``[0, 1]`` of being right in the first and in the second row. Those of
            randomised rows enter as one draw each would on average; several draws vary less, so the interval is then
            a wide one.

    Returns:
        Lower and upper end in ``[-1, 1]``.
    """
    n = len(chances)
    both = sum(a * b for a, b in chances)
    first, second = sum(a for a, _ in chances), sum(b for _, b in chances)
    neither = n - first - second + both
    p, q = first / n, second / n
    (l1, u1), (l2, u2) = wilson(min(first, n), n), wilson(min(second, n), n)
    spread = first * (n - first) * second * (n - second)
    product = both * neither - (first - both) * (second - both)
    if product > 0:
        product = max(product - n / 2, 0.0)  # Newcombe's continuity correction
    phi = product / math.sqrt(spread) if spread > 0 else 0.0
    return (
        max(-1.0, p - q - _side(p - l1, u2 - q, phi)),
        min(1.0, p - q + _side(u1 - p, q - l2, phi)),
    )


def _side(one: float, other: float, phi: float) -> float:
    return math.sqrt(max(0.0, one * one - 2 * phi * one * other + other * other))


def holm(values: Sequence[float]) -> list[float]:
    """p-values after Holm's correction (A simple sequentially rejective multiple test procedure, Scandinavian Journal
    of Statistics, 1979), in the order given."""
    adjusted = [1.0] * len(values)
    least = 0.0
    for rank, i in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        least = max(least, min(1.0, (len(values) - rank) * values[i]))
        adjusted[i] = least
    return adjusted
