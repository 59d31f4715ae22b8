"""Attacks that take turns on the clips that those before them have left."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from bench.attack.base import AttackResult
from bench.attack.best import Best
from bench.attack.losses import cross_entropy
from bench.attack.survivors import Survivors
from bench.attack.target import Target

Turn = Callable[[Survivors], AttackResult]
"""An attack on the clips that are left."""

Look = Callable[[Tensor, Survivors], tuple[Tensor, Tensor, Tensor]]
"""Asks about candidates ``(b, 3, T, H, W)`` of the clips that are left: their scores, how often each was wrong, and
which clips leave, all ``(b,)``."""


def in_turn(left: Survivors, turns: Iterable[Turn], look: Look, best: Best) -> AttackResult:
    """Runs attacks one after another, each on the clips that those before it have left, and keeps the worst of all.

    Returns:
        The clips that are kept, and the traces one after another; none if an attack has none.
    """
    traces: list[Tensor] = []
    for turn in turns:
        if not len(left):
            break
        rows = left.rows
        result = turn(left)
        if result.trace is not None:
            whole = torch.full((len(result.trace), len(best.clips)), float("nan"))
            whole[:, rows] = result.trace
            traces.append(whole)
        score, wrong, gone = look(result.clips, left)
        best.keep(result.clips, score, wrong, rows)
        left.drop(gone)
    return AttackResult(best.clips, torch.cat(traces) if traces else None)


def one_look(target: Target) -> Look:
    """Believes one answer: the score is the cross-entropy, and a clip that is wrong leaves."""

    def look(candidates: Tensor, left: Survivors) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            answer = target.ask(candidates, left.rows)
        broken = left.wrong(answer.decision)
        return cross_entropy(answer.logits, left.labels), broken, broken

    return look
