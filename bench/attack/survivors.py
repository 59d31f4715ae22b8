"""The clips of a batch that are still attacked."""

from __future__ import annotations

import torch
from torch import Tensor

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
