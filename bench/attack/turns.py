"""Attacks that take turns on the clips that those before them have left."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from bench.attack.base import AttackResult
from bench.attack.best import Best
from bench.attack.losses import cross_entropy, margin
from bench.attack.survivors import Survivors
from bench.attack.target import Answer, Climb, Objective, Target, Transform, Wrapped

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
            whole = torch.full((len(result.trace), len(best.clips)), float("nan"), dtype=torch.float32)
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


class Looks:
    """Asks about each clip several times. The score is the mean margin of the best wrong class; a clip leaves that was
    wrong every time, unless it is made for transfer.

    Args:
        target: what is asked.
        count: how often.
    """

    def __init__(self, target: Target, count: int) -> None:
        self._target, self._count = target, count

    @torch.no_grad()
    def __call__(self, candidates: Tensor, left: Survivors) -> tuple[Tensor, Tensor, Tensor]:
        wrong = torch.zeros_like(left.labels, dtype=torch.int64)
        ahead = torch.zeros_like(left.labels, dtype=torch.float64)
        for _ in range(self._count):
            answer = self._target.ask(candidates, left.rows)
            wrong += left.wrong(answer.decision)
            ahead += margin(answer.logits.double(), left.labels)
        leaves = self._target.decisive or self._target.stochastic
        return ahead / self._count, wrong, (wrong == self._count) & leaves


class Part(Wrapped):
    """Some clips of a batch as a batch of their own; passes are counted, and streams drawn from, in the whole one.

    Args:
        whole: the target of the whole batch.
        rows: which of its clips these are, ``(b,)``.
    """

    def __init__(self, whole: Target, rows: Tensor) -> None:
        super().__init__(whole)
        self._rows = rows
        self._look_up()

    def _look_up(self) -> None:
        self.forwards, self.backwards = self._inner.forwards[self._rows], self._inner.backwards[self._rows]

    def _of_whole(self, rows: Tensor | None) -> Tensor:
        return self._rows if rows is None else self._rows[rows.cpu()]

    def ask(self, clips: Tensor, rows: Tensor | None = None, then: Transform | None = None) -> Answer:
        answer = self._inner.ask(clips, self._of_whole(rows), then)
        self._look_up()
        return answer

    def gradient(
        self,
        clips: Tensor,
        rows: Tensor | None,
        labels: Tensor,
        objective: Objective,
        then: Transform | None = None,
        weights: Tensor | None = None,
    ) -> Climb:
        climb = self._inner.gradient(clips, self._of_whole(rows), labels, objective, then, weights)
        self._look_up()
        return climb

    def value(self, clips: Tensor, rows: Tensor | None, labels: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
        found = self._inner.value(clips, self._of_whole(rows), labels, objective)
        self._look_up()
        return found
