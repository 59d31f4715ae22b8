"""The clips of a batch that are still attacked, and attacks that take turns on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from bench.attack.base import AttackResult
from bench.attack.best import Best
from bench.attack.losses import cross_entropy
from bench.attack.target import Target
from bench.seeds import ClipRandom
from bench.threat.budgets import Budget


class Survivors:
    """The clips of a batch that are still attacked: which they are, and their part of everything.

    Args:
        clips: the clean clips of the whole batch, ``(B, 3, T, H, W)``.
        labels: its true classes, ``int64 (B,)``.
        budget: the budget of the whole batch.
        rng: its streams, one per clip.
        rows: which clips to begin with; all, if not given.

    Attributes:
        rows: ``int64 (b,)``, on the CPU: which clips of the batch these are.
        clips, labels, budget: theirs.
    """

    def __init__(
        self, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom, rows: Tensor | None = None
    ) -> None:
        self._all = clips, labels, budget, rng
        self.rows = torch.arange(len(clips)) if rows is None else rows.cpu()
        self._take()

    def _take(self) -> None:
        clips, labels, budget, _ = self._all
        whole = len(self.rows) == len(clips)
        self.clips, self.labels = (clips, labels) if whole else (clips[self.rows], labels[self.rows])
        self.budget = budget.select(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def rng(self) -> ClipRandom:
        """Their streams, shared with the whole batch."""
        return self._all[3].select(self.rows)

    def wrong(self, decision: Tensor) -> Tensor:
        """Which of them a decision ``(b,)`` gets wrong: ``bool (b,)``, on the clips' device."""
        return decision.to(self.labels.device) != self.labels

    def drop(self, gone: Tensor) -> Tensor:
        """Takes some of them out: ``bool (b,)``. Returns which of them stay, on the device of ``gone``."""
        stay = ~gone
        if bool(gone.any()):
            self.rows = self.rows[stay.cpu()]
            self._take()
        return stay


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
