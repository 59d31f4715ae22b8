"""Noise schedules and the steps of the samplers, written from the papers.

A *level* is ``abar``, the share of the signal's variance that is left: ``x = sqrt(abar) x0 + sqrt(1 - abar) e``. The
steps take levels, not timesteps, so the same lines serve every schedule, every stride and both directions. A level
is a float, or a tensor that broadcasts against ``x``.

Sources: Ho et al., Denoising Diffusion Probabilistic Models, NeurIPS 2020; Song et al., Denoising Diffusion Implicit
Models, ICLR 2021.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.errors import BenchError

Level = float | Tensor


def scaled_linear(steps: int = 1000, first: float = 0.00085, last: float = 0.012) -> Tensor:
    """Levels ``float64 (steps,)`` of betas whose square roots are evenly spaced.

    The defaults are those of Stable Diffusion (Rombach et al., CVPR 2022) and of ModelScope's text-to-video model.
    """
    betas = torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64).square()
    return torch.cumprod(1 - betas, 0)


def linear(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Tensor:
    """Levels ``float64 (steps,)`` of evenly spaced betas (Ho et al., section 4)."""
    return torch.cumprod(1 - torch.linspace(first, last, steps, dtype=torch.float64), 0)


def timesteps(start: int, steps: int) -> list[int]:
    """Timesteps at which the network is asked on the way down, ``start`` first, 1 last, evenly spaced.

    ``timesteps(101, 6)`` is 101, 81, 61, 41, 21, 1 as in VideoPure; ``timesteps(101, 101)`` visits every one. A single
    step is ``start`` alone.

    Raises:
        BenchError: there are not that many timesteps.
    """
    if start < 1 or not 1 <= steps <= start:
        raise BenchError(f"There are no {steps} timesteps from {start} down to 1: ask for 1 to {max(start, 1)}.")
    if steps == 1:
        return [start]
    return [round(start - k * (start - 1) / (steps - 1)) for k in range(steps)]


def add_noise(clean: Tensor, noise: Tensor, level: Level) -> Tensor:
    """A noisy sample at ``level`` (Ho et al., eq. 4)."""
    return _root(level) * clean + _root(1 - level) * noise


def predict_clean(noisy: Tensor, noise: Tensor, level: Level) -> Tensor:
    """The clean sample that belongs to ``noisy`` if its noise is ``noise`` (Song et al., eq. 9)."""
    return (noisy - _root(1 - level) * noise) / _root(level)


def ddim_step(noisy: Tensor, noise: Tensor, level: Level, after: Level) -> Tensor:
    """One deterministic step between any two levels (Song et al., eq. 12 with sigma 0).

    ``after > level`` denoises; ``after < level`` is inversion, for which ``noise`` is the network's prediction at
    the timestep after the step.
    """
    return add_noise(predict_clean(noisy, noise, level), noise, after)


def ddpm_step(noisy: Tensor, noise: Tensor, level: Level, after: Level, fresh: Tensor) -> Tensor:
    """One ancestral step to a higher level, ``after > level`` (Ho et al., eq. 7 and algorithm 2).

    Between neighbouring timesteps this is DDPM with the small variance, ``(1 - after) / (1 - level) * beta``; with
    ``beta = 1 - level / after`` it also strides over timesteps. At ``after = 1`` no noise is added.

    Args:
        noise: the network's prediction.
        fresh: standard normal, the shape of ``noisy``.
    """
    alpha = level / after
    clean = predict_clean(noisy, noise, level)
    mean = (_root(after) * (1 - alpha) * clean + _root(alpha) * (1 - after) * noisy) / (1 - level)
    return mean + _root((1 - after) / (1 - level) * (1 - alpha)) * fresh


def at_time(levels: Tensor, s: float) -> tuple[float, float]:
    """``beta(s)`` and the level ``exp(-int_0^s beta)`` of a schedule in continuous time, as an SDE has it.

    The ``N`` betas of the table, times ``N``, are spread evenly over ``[0, 1]`` and joined by straight lines. For
    evenly spaced betas that is ``beta_0 + s (beta_1 - beta_0)`` (Song et al., Score-Based Generative Modeling through
    Stochastic Differential Equations, ICLR 2021, eq. 32), and the integral is exact. The level at ``s = t / N`` lies
    within half a beta of the table's at ``t - 1``, and a whole one from that at ``t``.

    Args:
        levels: of the table, ``float64 (N,)``.
        s: from 0 (clean) to 1.
    """
    before = torch.cat([levels.new_ones(1), levels[:-1]])
    betas = 1 - levels / before
    count = len(levels)
    place = s * (count - 1)
    entry = min(int(place), count - 2)
    part = place - entry
    beta = float(betas[entry] + part * (betas[entry + 1] - betas[entry]))
    passed = float((betas[:entry] + betas[1 : entry + 1]).sum() / 2 + part * (betas[entry] + beta) / 2)
    return count * beta, math.exp(-passed * count / (count - 1))


def _root(value: Level) -> Level:
    return value.sqrt() if isinstance(value, Tensor) else math.sqrt(value)
