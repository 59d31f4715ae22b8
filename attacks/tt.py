"""Temporal Translation: gradients averaged over shifts of the clip in time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from bench import (
    Budget,
    Climb,
    ClipRandom,
    GradientAttack,
    Objective,
    Run,
    Survivors,
    at_least,
    cross_entropy,
    log_odds,
    register,
    slope_of,
)

_PAPER = "Wei et al., Boosting the Transferability of Video Adversarial Examples via Temporal Translation, AAAI 2022"
# Random shifts are drawn below this.
_RANDOM = 101
# Share of the mean slope of all copies below which a clip has no say in its own gradient.
_HEARD = 0.01


def roll(clips: Tensor, shifts: Tensor | int) -> Tensor:
    """Shifts clips ``(b, 3, T, H, W)`` circularly in time by a number of frames, one for all or ``(b,)``."""
    if isinstance(shifts, int):
        return clips.roll(shifts, dims=2)
    frames = clips.shape[2]
    source = (torch.arange(frames, device=clips.device) - shifts.to(clips.device)[:, None]) % frames
    return clips.gather(2, source[:, None, :, None, None].expand_as(clips))


Shifts = Sequence[Tensor | int]
"""Of each copy, by how many frames it is shifted: all clips alike, or each by its own number, ``int64 (b,)``."""


def remote_shifts(shifts: int, frames: int) -> Tensor:
    """What the shifts ``-shifts .. shifts`` of a clip move as remote ones, ``int64 (2 * shifts + 1,)``.

    ``m + sign(m) * (frames / 2 - 1)``, counted round the clip: half a clip further, in the shift's own direction. 7
    shifts of 32 frames move by 10 to 16, 0, and 16 to 22.
    """
    m = torch.arange(-shifts, shifts + 1)
    return (m + m.sign() * max(frames // 2 - 1, 0)) % frames


def kernel_weights(shifts: int, kernel: str) -> Tensor:
    """Weights of the shifts ``-shifts .. shifts``, ``(2 * shifts + 1,)``, summing to one."""
    m = torch.arange(-shifts, shifts + 1, dtype=torch.float64)
    if kernel == "gaussian":  # three standard deviations reach the outermost shift
        weights = torch.exp(-(m**2) / (2 * (max(shifts, 1) / 3) ** 2))
    else:
        weights = 1 - m.abs() / (shifts + 1) if kernel == "linear" else torch.ones_like(m)
    return weights / weights.sum()


@register("tt", source=f"{_PAPER}, eq. 4")
class TT(GradientAttack):
    """Iterative FGSM on the loss averaged over circular shifts of the clip in time.

    Each step climbs ``sum_m w_m loss(roll(x, m))`` over the shifts ``m = -shifts .. shifts``. No random start; steps of
    ``size / steps`` unless the budget says otherwise. One step costs ``2 * shifts + 1`` passes.

    What the loss says of a copy counts by its slope, too: where logits are large, the copies that are wrong have all of
    it and the clip as it is has none, however near it is to being wrong. Where its slope is less than a hundredth of
    the mean over the copies, the log-odds of all of them are averaged in place of their cross-entropies, unless
    ``published``.

    Args:
        shifts: largest shift in frames; 7, the published setting, is a kernel of length 15.
        kernel: weights of the shifts: ``gaussian``, ``linear`` or ``uniform``.
        move: what a shift ``m`` other than 0 really moves by: ``adjacent`` (m), ``remote`` (half a clip less one frame
            further, see :func:`remote_shifts`) or ``random`` (drawn anew at each step, per clip).
        shifted: with a defence, ``clip``: every shifted copy is purified, or ``purified``: the clip is purified once
            and then shifted, which costs one purification per step instead of ``2 * shifts + 1``. The papers do not
            say.
        published: average cross-entropies whatever they are.
        misregistered: reproduces a slip of the published code: gradients of remote and random shifts are rolled back by
            ``m`` instead of by the shift applied.
        at_once: shifted copies that go through the network together, if ``shifted`` is ``clip``.
        loss: ``ce``, ``margin`` or ``dlr``.
        target: nothing for an untargeted attack, or the class to reach: ``runner_up`` or ``least_likely``.
    """

    reach = 1.0
    decay = 0.0

    def __init__(
        self,
        shifts: int = 7,
        kernel: Literal["gaussian", "linear", "uniform"] = "gaussian",
        move: Literal["adjacent", "remote", "random"] = "adjacent",
        shifted: Literal["clip", "purified"] = "clip",
        published: bool = False,
        misregistered: bool = False,
        at_once: int = 3,
        loss: str = "ce",
        target: Literal["runner_up", "least_likely"] | None = None,
    ) -> None:
        super().__init__(loss, target, momentum=self.decay)
        at_least("shifts", shifts, 0)
        at_least("at_once", at_once, 1)
        choices = {
            "kernel": (kernel, ("gaussian", "linear", "uniform")),
            "move": (move, ("adjacent", "remote", "random")),
            "shifted": (shifted, ("clip", "purified")),
        }
        for name, (value, known) in choices.items():
            if value not in known:
                raise ValueError(f"{name} must be {', '.join(known[:-1])} or {known[-1]}, not {value!r}")
        if misregistered and shifted == "purified":
            raise ValueError("misregistered gradients are rolled back by hand, so each shifted copy must be purified")
        self.shifts, self.move, self.shifted = shifts, move, shifted
        self.misregistered, self.at_once = misregistered, at_once
        # Whether the loss is one that weighs copies by how sure they are, and from which a clip is pushed away.
        self._may_level = self._loss is cross_entropy and target is None and not published
        self.weights = kernel_weights(shifts, kernel)

    def passes(self, budget: Budget) -> tuple[int, int]:
        forwards, backwards = super().passes(budget)
        return forwards + backwards * (len(self.weights) - 1), backwards * len(self.weights)

    def ascent(self, run: Run, iterates: Tensor, left: Survivors, aim: Tensor, objective: Objective) -> Climb:
        nominal, real = self._moves(iterates, left.rng)
        if self.shifted == "purified":
            climb = run.target.gradient(
                iterates,
                left.rows,
                aim,
                self._level(objective),
                then=lambda clips: _copies(clips, real),
                weights=self.weights,
            )
            return climb._replace(decision=climb.decision.unflatten(0, (len(real), -1))[self.shifts])
        back = nominal if self.misregistered else real
        value, steep = torch.zeros(2, len(iterates), dtype=torch.float64, device=iterates.device)
        gradient, level = torch.zeros_like(iterates), torch.zeros_like(iterates)
        slopes, decisions = [], []
        for first in range(0, len(real), self.at_once):
            few = slice(first, first + self.at_once)
            count = len(real[few])
            climb = run.target.gradient(
                _copies(iterates, real[few]), left.rows.repeat(count), aim.repeat(count), objective
            )
            decisions.append(climb.decision.unflatten(0, (count, len(iterates))))
            for k, weight in enumerate(self.weights[few].tolist()):
                part = slice(k * len(iterates), (k + 1) * len(iterates))
                loss, found = climb.value[part].double(), weight * roll(climb.gradient[part], -back[first + k])
                value += weight * loss
                gradient += found
                if self._may_level:
                    slopes.append(slope_of(loss))
                    steep += weight * slopes[-1]
                    level += found / slopes[-1].to(found)[:, None, None, None, None]
        if self._may_level:
            unheard = slopes[self.shifts] < _HEARD * steep
            gradient = torch.where(unheard[:, None, None, None, None], level, gradient)
        # Success counts on the clip as it is, not on a shifted copy.
        return Climb(value, gradient, torch.cat(decisions)[self.shifts])

    def _level(self, objective: Objective) -> Objective:
        """The objective of all copies together, with log-odds in place of the cross-entropies where one is unheard."""
        if not self._may_level:
            return objective

        def level(logits: Tensor, classes: Tensor) -> Tensor:
            by_shift = (len(self.weights), -1)
            value = objective(logits, classes).unflatten(0, by_shift)
            slope = slope_of(value.detach())
            mean = sum(weight * each for weight, each in zip(self.weights.tolist(), slope, strict=True))
            unheard = slope[self.shifts] < _HEARD * mean
            return torch.where(unheard, log_odds(logits, classes).unflatten(0, by_shift), value).flatten()

        return level

    def _moves(self, clips: Tensor, rng: ClipRandom) -> tuple[Shifts, Shifts]:
        """The shifts by name, and by the frames that they move."""
        nominal = list(range(-self.shifts, self.shifts + 1))
        if self.move == "adjacent":
            return nominal, nominal
        if self.move == "remote":
            return nominal, remote_shifts(self.shifts, clips.shape[2]).tolist()
        drawn = rng.integers(_RANDOM, len(nominal), device=clips.device)
        return nominal, [drawn[:, k] if m else 0 for k, m in enumerate(nominal)]


def _copies(clips: Tensor, shifts: Shifts) -> Tensor:
    """All shifted copies of clips, one shift after another: ``(S * n, 3, T, H, W)``.

    There are ``n`` clips: as many as shifts that are of one clip each, or several draws, one of all after another.
    """
    return torch.cat([roll(clips, m if isinstance(m, int) else m.repeat(len(clips) // len(m))) for m in shifts])


@register(
    "tt_mi",
    source=f"{_PAPER}; momentum: Dong et al., Boosting Adversarial Attacks with Momentum, CVPR 2018, algorithm 1",
)
class TTMI(TT):
    """Temporal Translation with momentum: gradients accumulate, each frame's first brought to a mean size of 1.

    Args:
        shifts: largest shift in frames; 7, the published setting, is a kernel of length 15.
        kernel: weights of the shifts: ``gaussian``, ``linear`` or ``uniform``.
        move: what a shift ``m`` other than 0 really moves by: ``adjacent`` (m), ``remote`` (half a clip less one frame
            further, see :func:`remote_shifts`) or ``random`` (drawn anew at each step, per clip).
        shifted: with a defence, ``clip``: every shifted copy is purified, or ``purified``: the clip is purified once
            and then shifted.
        published: averages cross-entropies whatever they are.
        misregistered: rolls gradients of remote and random shifts back by ``m``, as the published code does.
        at_once: shifted copies that go through the network together, if ``shifted`` is ``clip``.
        loss: ``ce``, ``margin`` or ``dlr``.
        target: nothing for an untargeted attack, or the class to reach: ``runner_up`` or ``least_likely``.
    """

    decay = 1.0

    def normalise(self, gradient: Tensor) -> Tensor:
        return gradient / gradient.abs().mean((1, 3, 4), keepdim=True).clamp_min(1e-30)
