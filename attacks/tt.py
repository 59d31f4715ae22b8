"""Temporal Translation: gradients averaged over shifts of the clip in time."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from bench import Budget, Climb, ClipRandom, GradientAttack, Objective, Run, Survivors, at_least, register

_PAPER = "Wei et al., Boosting the Transferability of Video Adversarial Examples via Temporal Translation, AAAI 2022"
# The published offset of remote shifts, and the range of random ones.
_REMOTE, _RANDOM = 15, 101


def roll(clips: Tensor, shifts: Tensor) -> Tensor:
    """Shifts clips ``(b, 3, T, H, W)`` circularly in time, each by its own number of frames ``(b,)``."""
    frames = clips.shape[2]
    source = (torch.arange(frames, device=clips.device) - shifts.to(clips.device)[:, None]) % frames
    return clips.gather(2, source[:, None, :, None, None].expand_as(clips))


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

    Args:
        shifts: largest shift in frames; 7, the published setting, is a kernel of length 15.
        kernel: weights of the shifts: ``gaussian``, ``linear`` or ``uniform``.
        move: which frames a shift ``m`` other than 0 really moves by: ``adjacent`` (m), ``remote`` (15 more than its
            size) or ``random`` (drawn anew at each step, per clip).
        shifted: with a defence, ``clip``: every shifted copy is purified, or ``purified``: the clip is purified once
            and then shifted, which costs one purification per step instead of ``2 * shifts + 1``. The papers do not
            say.
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
        self.weights = kernel_weights(shifts, kernel)

    def passes(self, budget: Budget) -> tuple[int, int]:
        forwards, backwards = super().passes(budget)
        return forwards + backwards * (len(self.weights) - 1), backwards * len(self.weights)

    def ascent(self, run: Run, iterates: Tensor, left: Survivors, aim: Tensor, objective: Objective) -> Climb:
        nominal, real = self._moves(len(iterates), left.rng)
        if self.shifted == "purified":
            climb = run.target.gradient(
                iterates, left.rows, aim, objective, then=lambda clips: _copies(clips, real), weights=self.weights
            )
            return climb._replace(decision=climb.decision.unflatten(0, real.shape)[self.shifts])
        back = nominal if self.misregistered else real
        value = torch.zeros(len(iterates), dtype=torch.float64, device=iterates.device)
        gradient = torch.zeros_like(iterates)
        decisions = []
        for first in range(0, len(real), self.at_once):
            few = slice(first, first + self.at_once)
            count = len(real[few])
            climb = run.target.gradient(
                _copies(iterates, real[few]), left.rows.repeat(count), aim.repeat(count), objective
            )
            decisions.append(climb.decision.unflatten(0, (count, len(iterates))))
            for k, weight in enumerate(self.weights[few].tolist()):
                part = slice(k * len(iterates), (k + 1) * len(iterates))
                value += weight * climb.value[part].double()
                gradient += weight * roll(climb.gradient[part], -back[first + k])
        # Success counts on the clip as it is, not on a shifted copy.
        return Climb(value, gradient, torch.cat(decisions)[self.shifts])

    def _moves(self, clips: int, rng: ClipRandom) -> tuple[Tensor, Tensor]:
        """The shifts by name and by the frames they move, both ``(2 * shifts + 1, clips)``."""
        nominal = torch.arange(-self.shifts, self.shifts + 1)[:, None].expand(-1, clips)
        if self.move == "adjacent":
            return nominal, nominal
        moved = rng.integers(_RANDOM, len(nominal)).T if self.move == "random" else nominal.abs() + _REMOTE
        return nominal, torch.where(nominal == 0, 0, moved)


def _copies(clips: Tensor, shifts: Tensor) -> Tensor:
    """All shifted copies of clips, one shift after another: ``(S * n, 3, T, H, W)`` for shifts ``(S, b)``.

    There are ``n`` clips, ``b`` of them or several draws of each, one draw of all after another.
    """
    return torch.cat([roll(clips, each.repeat(len(clips) // len(each))) for each in shifts])


@register(
    "tt_mi",
    source=f"{_PAPER}; momentum: Dong et al., Boosting Adversarial Attacks with Momentum, CVPR 2018, algorithm 1",
)
class TTMI(TT):
    """Temporal Translation with momentum: gradients accumulate, each frame's first brought to a mean size of 1.

    Args:
        shifts: largest shift in frames; 7, the published setting, is a kernel of length 15.
        kernel: weights of the shifts: ``gaussian``, ``linear`` or ``uniform``.
        move: which frames a shift ``m`` other than 0 really moves by: ``adjacent`` (m), ``remote`` (15 more than its
            size) or ``random`` (drawn anew at each step, per clip).
        shifted: with a defence, ``clip``: every shifted copy is purified, or ``purified``: the clip is purified once
            and then shifted.
        misregistered: rolls gradients of remote and random shifts back by ``m``, as the published code does.
        at_once: shifted copies that go through the network together, if ``shifted`` is ``clip``.
        loss: ``ce``, ``margin`` or ``dlr``.
        target: nothing for an untargeted attack, or the class to reach: ``runner_up`` or ``least_likely``.
    """

    decay = 1.0

    def normalise(self, gradient: Tensor) -> Tensor:
        return gradient / gradient.abs().mean((1, 3, 4), keepdim=True).clamp_min(1e-30)
