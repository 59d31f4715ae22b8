"""A classifier whose two branches, and whose selection between them, are known; clips of it, and a budget."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench import Budget, ClipRandom, DefendedClassifier, Target
from bench.defense.base import RobustModel

SHAPE = (3, 2, 4, 4)
LABELS = torch.zeros(3, dtype=torch.int64)
BUDGET = Budget("linf", 8 / 255, 10)


class Selecting(nn.Module):
    """The selection follows one half of the frame. The classifier looks at the other half, and only where the ``lp``
    branch is not chosen can it be fooled: its gradient on the selection's half is nothing."""

    selects = True

    def selection(self, clips: Tensor) -> Tensor:
        lead = 200 * (clips[..., :2].mean((1, 2, 3, 4)) - 0.5)
        return torch.stack([-lead, lead, torch.zeros_like(lead)], 1)

    def forward(self, clips: Tensor) -> Tensor:
        sure = self.selection(clips).detach().softmax(1)[:, 1]
        score = 100 * (clips[..., 2:].mean((1, 2, 3, 4)) - 0.5) - 9 * sure
        return torch.stack([-score, score], 1)


class Wrapped(RobustModel):
    """:class:`Selecting` in place of any classifier."""

    def wrap(self, classifier: nn.Module) -> nn.Module:
        return Selecting()


def clips(count: int = 3) -> Tensor:
    """Middle gray clips, their selection's half a little brighter."""
    found = torch.full((count, *SHAPE), 0.5)
    found[..., :2] = 0.51  # the lp branch is chosen
    return found


def target(count: int = 3) -> Target:
    """The classifier as attacks see it."""
    rng = ClipRandom(range(count))
    return DefendedClassifier(nn.Identity(), Wrapped(), "exact").target(rng)
