"""The universal framing attack on a classifier that looks at a corner."""

from __future__ import annotations

import torch
from torch import Tensor

from bench import Budget, ClipRandom
from bench.attacks.af_universal import UniversalFramingAttack
from kit.networks import Corner


def attacked(made: UniversalFramingAttack, clips: Tensor, size: float) -> Tensor:
    """Clips whose border the attack has painted; ``size`` is the budget's."""
    labels = torch.zeros(len(clips), dtype=torch.int64)
    found = made(Corner(), clips, labels, Budget("framing", size), ClipRandom(range(len(clips))))
    return found.clips
