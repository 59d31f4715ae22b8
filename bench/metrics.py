"""Accuracies, intervals, and what several attacks say together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from bench.errors import BenchError

# Two-sided 95 % quantile of the standard normal distribution.
Z95 = 1.959963984540054


def wilson(hits: int, total: int, z: float = Z95) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson, 1927).

    Args:
        hits, total: correct clips, and all clips.
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


def union(correct: Mapping[str, Mapping[str, bool]]) -> dict[str, bool]:
    """Per clip: correct under *every* attack.

    Args:
        correct: ``{attack: {clip: correct}}``. A clip that some attack has no outcome for is left out.

    Returns:
        ``{clip: correct under all}``.
    """
    if not correct:
        return {}
    shared = set.intersection(*(set(clips) for clips in correct.values()))
    return {clip: all(clips[clip] for clips in correct.values()) for clip in sorted(shared)}


def mean(accuracies: Sequence[float]) -> float:
    """Plain average over attacks; ``nan`` for none."""
    return sum(accuracies) / len(accuracies) if accuracies else math.nan
