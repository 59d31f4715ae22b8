"""The one-frame attack: a single frame of the clip is perturbed."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from bench import (
    AttackResult,
    BenchError,
    Budget,
    Climb,
    ClipRandom,
    GradientAttack,
    Objective,
    Run,
    Survivors,
    Target,
    at_least,
    register,
)

_STEP = 2 / 255


@register(
    "one_frame",
    source="Hwang et al., Just One Moment: Structural Vulnerability of Deep Action Recognition Against One Frame "
    "Attack, ICCV 2021 (the idea; the settings are ours)",
)
class OneFrame(GradientAttack):
    """Iterative FGSM on one frame; the others stay as they are, to the last bit.

    The paper perturbs one weak frame of a clip. Its bound, step length, number of steps, stopping rule and choice of
    the frame were not available to us, so what is built here is our choice (``docs/decisions.md``): steps of 2/255
    along the sign of the gradient, from the clean clip, in a ``one-frame`` budget, for which 16/255 and 20 steps are
    recommended. No figure of the paper may be compared with it.

    The gradient that chooses a frame is that of the first step, so the choice costs no pass of its own.

    Args:
        frame: which frame: ``gradient``, the one whose gradient at the clean clip has the largest sum of absolute
            values; ``random``, another draw for each of the budget's restarts; ``exhaustive``, one frame after the
            other until the clip is broken, an upper bound; or a number, counted from 0.
        loss: ``ce``, ``margin`` or ``dlr``.
        length: of ``exhaustive``, the number of frames of a clip, without which its cost could not be planned.
    """

    norms = ("one-frame",)

    def __init__(
        self, frame: Literal["gradient", "exhaustive", "random"] | int = "gradient", loss: str = "ce", length: int = 16
    ) -> None:
        if isinstance(frame, str):
            if frame not in ("gradient", "exhaustive", "random"):
                raise ValueError(f"frame must be gradient, exhaustive, random or a number, not {frame!r}")
        else:
            at_least("frame", frame, 0)
        at_least("length", length, 1)
        super().__init__(loss)
        self.frame, self.length = frame, length

    def check(self, budget: Budget) -> None:
        super().check(budget)
        if budget.restarts > 1 and self.frame != "random":
            raise BenchError(
                f"With frame={self.frame!r} nothing about the one-frame attack is random: it takes 1 restart, not "
                f"{budget.restarts}."
            )

    def passes(self, budget: Budget) -> tuple[int, int]:
        return super().passes(self._effort(budget))

    def run(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> AttackResult:
        frames = clips.shape[2]
        if isinstance(self.frame, int) and self.frame >= frames:
            raise BenchError(f"There is no frame {self.frame}: the clips have {frames} frames, 0 to {frames - 1}.")
        if self.frame == "exhaustive" and self.length != frames:
            raise BenchError(
                f"The search through all frames was planned for {self.length}, but the clips have {frames}: say "
                f"length={frames}."
            )
        return super().run(target, clips, labels, self._effort(budget), rng)

    def _effort(self, budget: Budget) -> Budget:
        """Every frame of an exhaustive search is a start of its own."""
        return replace(budget, restarts=self.length) if self.frame == "exhaustive" else budget

    def step_size(self, budget: Budget) -> float | Tensor:
        return _STEP if budget.step_size is None else budget.step_size

    def prepare(self, run: Run) -> dict[int, Tensor]:
        """The frame of each clip, ``int64 (B,)``, by the number of the start; chosen in its first step."""
        return {}

    def ascent(self, run: Run, iterates: Tensor, left: Survivors, aim: Tensor, objective: Objective) -> Climb:
        climb = super().ascent(run, iterates, left, aim, objective)
        if run.restart not in run.kept:
            frames = torch.zeros(len(run.clips), dtype=torch.int64, device=iterates.device)
            frames[left.here] = self._choose(climb.gradient, run.restart, left.rng)
            run.kept[run.restart] = frames
        numbers = torch.arange(iterates.shape[2], device=iterates.device)
        here = numbers == left.of(run.kept[run.restart])[:, None]
        return climb._replace(gradient=climb.gradient * here.to(climb.gradient)[:, None, :, None, None])

    def _choose(self, gradient: Tensor, start: int, rng: ClipRandom) -> Tensor:
        """The frame of each clip, ``int64 (b,)``."""
        if self.frame == "gradient":
            return gradient.double().abs().sum((1, 3, 4)).argmax(1)
        if self.frame == "random":
            return rng.integers(gradient.shape[2], device=gradient.device)
        frame = start if self.frame == "exhaustive" else int(self.frame)
        return torch.full((len(gradient),), frame, device=gradient.device)
