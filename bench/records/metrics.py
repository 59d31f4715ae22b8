"""Accuracies, intervals, and what several attacks say together."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence

from bench.errors import BenchError

# Two-sided 95 % quantile of the standard normal distribution.
Z95 = 1.959963984540054


def wilson(hits: float, total: int, z: float = Z95) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson, 1927).

    Args:
        hits, total: correct clips, and all clips. A sum of probabilities may stand for the correct ones: its variance
            is at most that of a count, so the interval is then a wide one.
        z: normal quantile; the default gives 95 %.

    Returns:
        Lower and upper end in ``[0, 1]``; ``(0, 1)`` for no clips at all.

    Raises:
        BenchError: ``hits`` is not between 0 and ``total``.
    """
    if not 0 <= hits <= total:
        raise BenchError(f"{hits} correct out of {total} clips is impossible.")
    if total == 0:
        return 0.0, 1.0
    p = hits / total
    centre = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    # At the ends the interval touches 0 or 1 exactly; rounding must not push it off.
    return (0.0 if hits == 0 else max(0.0, centre - half)), (1.0 if hits == total else min(1.0, centre + half))


def union(verdicts: Mapping[str, Mapping[str, Sequence[bool]]]) -> dict[str, float]:
    """Per clip: correct under *every* attack, or the probability of that under the attack that hurts most.

    A deterministic defence gives one verdict per clip and attack, and the clip counts if all are right. A randomised
    one gives several draws. The least of their averages would be too low: the more attacks, the unluckier the draws of
    one of them. So the attack is chosen by every other draw, judged by the rest, then the other way round, and
    averaged: no draw is both chosen by and counted.

    Args:
        verdicts: ``{attack: {clip: whether each draw was right}}``. A clip that some attack has no outcome for is left
            out.

    Returns:
        ``{clip: 0 or 1, or a probability}``.
    """
    if not verdicts:
        return {}
    shared = set.intersection(*(set(clips) for clips in verdicts.values()))
    return {clip: _worst([clips[clip] for clips in verdicts.values()]) for clip in sorted(shared)}


def _worst(draws: Sequence[Sequence[bool]]) -> float:
    if all(len(set(d)) == 1 for d in draws):  # no draw contradicts another: nothing was lucky
        return float(all(d[0] for d in draws))
    halves = [(d[0::2], d[1::2] or d[0::2]) for d in draws]
    return (_chosen(halves) + _chosen([(judge, choose) for choose, judge in halves])) / 2


def _chosen(halves: Sequence[tuple[Sequence[bool], Sequence[bool]]]) -> float:
    """What one half says of the attacks that are worst by the other; ties are averaged."""
    shares = [mean(choose) for choose, _ in halves]
    return mean([mean(judge) for share, (_, judge) in zip(shares, halves, strict=True) if share == min(shares)])


def roc_area(attacked: Sequence[float], clean: Sequence[float]) -> float:
    """Area under the curve of a detector: how often an attacked clip scores higher than a clean one, ties by half.

    Args:
        attacked, clean: scores, at least one each.

    Raises:
        BenchError: there are none of one kind, or a score is not a number.
    """
    if not attacked or not clean or any(map(math.isnan, (*attacked, *clean))):
        raise BenchError("The area under a detector's curve needs scores of attacked and of clean clips, all numbers.")
    ordered = sorted(clean)
    wins = sum(bisect_left(ordered, score) + bisect_right(ordered, score) for score in attacked)
    return wins / (2 * len(attacked) * len(clean))


def mean(accuracies: Sequence[float]) -> float:
    """Plain average over attacks; ``nan`` for none."""
    return sum(accuracies) / len(accuracies) if accuracies else math.nan
