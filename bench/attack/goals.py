"""Which class an attack pushes a clip away from, or towards."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from bench.attack.target import Target

Goal = Literal["runner_up", "least_likely"]
"""The class to reach, by the clean logits."""


def check_goal(goal: Goal | None) -> None:
    """Raises :class:`ValueError` unless a goal is one, or there is none."""
    if goal is not None and goal not in get_args(Goal):
        raise ValueError(f"target must be runner_up, least_likely or nothing, not {goal!r}")


@torch.no_grad()
def aim_at(target: Target, clips: Tensor, labels: Tensor, goal: Goal | None) -> Tensor:
    """The class each clip is pushed away from (untargeted: its own) or towards, never its own: ``int64 (B,)``.

    A goal costs one forward pass.
    """
    if goal is None:
        return labels
    logits = target(clips).scatter(1, labels[:, None], float("-inf" if goal == "runner_up" else "inf"))
    return logits.argmax(1) if goal == "runner_up" else logits.argmin(1)
