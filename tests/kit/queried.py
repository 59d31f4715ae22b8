"""Classifiers that an attack may only ask, and what it asks them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench import Target

Curve = Callable[[Tensor], Tensor]


class Two(nn.Module):
    """Two classes; the second leads by ``<weight, clip> + lead``, and by what a curve adds.

    Notes what it is asked, and refuses to be differentiated.
    """

    def __init__(self, weight: Tensor, lead: float, curve: Curve | None = None) -> None:
        super().__init__()
        self.weight, self.lead, self.curve = weight.double(), lead, curve
        self.seen: list[Tensor] = []

    def score(self, clips: Tensor) -> Tensor:
        linear = (clips.double() * self.weight).flatten(1).sum(1) + self.lead
        return linear if self.curve is None else linear + self.curve(clips.double())

    def forward(self, clips: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        self.seen.append(clips.clone())
        score = self.score(clips)
        return torch.stack([-score / 2, score / 2], 1)


def target_of(model: nn.Module, count: int, kind: str) -> Target:
    """A ``decisive``, ``stochastic`` or ``transfer`` target."""
    return Target(lambda x, rows: model(x), count, **({} if kind == "decisive" else {kind: True}))


def zeros(count: int) -> Tensor:
    """The first class, for so many clips."""
    return torch.zeros(count, dtype=torch.int64)
