"""The clips of a batch that are still attacked."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from bench.seeds import ClipRandom
from bench.threat.budgets import Budget


def fetch(*values: Tensor) -> tuple[Tensor, ...]:
    """What a step has found out about its clips, ``(b,)`` each, as ``float64`` on the CPU.

    All come in one transfer: it waits for the device, and a step should wait once.
    """
    if all(value.is_cpu for value in values):
        return tuple(value.detach().double() for value in values)
    return tuple(torch.stack([value.detach().double() for value in values]).cpu())


def upload(values: Tensor, like: Tensor) -> Tensor:
    """Values of the CPU on another tensor's device. Nothing waits: CUDA has read them when it returns."""
    return values.to(like.device, non_blocking=True)


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
        here: the same on the clips' device.
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
        self.here = upload(self.rows, clips)
        self.clips, self.labels, self.budget = self.of(clips), self.of(labels), budget.select(self.rows)
        self.__dict__.pop("project", None)

    def __len__(self) -> int:
        return len(self.rows)

    def of(self, values: Tensor) -> Tensor:
        """Their part of values of the whole batch, ``(B, ...)`` on the clips' device."""
        return values if len(self.rows) == len(values) else values[self.here]

    @cached_property
    def project(self) -> Callable[[Tensor], Tensor]:
        """Brings points ``(b, 3, T, H, W)`` back into the balls around them, see :meth:`Norm.projector`."""
        return self.budget.geometry.projector(self.clips, self.budget.size)

    @property
    def rng(self) -> ClipRandom:
        """Their streams, shared with the whole batch."""
        return self._all[3].select(self.rows)

    def wrong(self, decision: Tensor) -> Tensor:
        """Which of them a decision ``(b,)`` gets wrong: ``bool (b,)``, on the clips' device."""
        return decision.to(self.labels.device) != self.labels

    def drop(self, gone: Tensor) -> Tensor:
        """Takes some of them out: ``bool (b,)``. Returns which of them stay, ``int64``, on the clips' device."""
        stay = (~gone.cpu()).nonzero()[:, 0]
        if len(stay) < len(self):
            self.rows = self.rows[stay]
            self._take()
        return upload(stay, self.clips)
