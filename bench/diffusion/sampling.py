"""Trajectories through the noise levels: down by DDIM, DDPM or the reverse SDE, up by DDIM inversion.

Each takes latents and a list of timesteps in the order of :func:`bench.diffusion.schedule.timesteps`, highest first.
With gradients every network call is computed again on the way back: one latent per step is kept at most, and no graph.
``up`` and ``down`` are filled with the latents at each timestep, for whoever compares the two ways
(:class:`Trajectory`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from bench.diffusion.base import DiffusionBackbone
from bench.diffusion.replay import replayed
from bench.diffusion.schedule import add_noise, at_time, ddim_step, ddpm_step
from bench.seeds import ClipRandom

# Where DiffPure's solver stops, in the time of its SDE: just before the clean end.
_SDE_END = 1e-5

# From so many steps on, the latents of a gradient in pixel space are not all kept.
_MANY = 20


class Trajectory:
    """Latents by timestep, on the way up and on the way down; -1 is the clean level.

    Attributes:
        up: the diffused latents.
        down: the denoised ones.
    """

    def __init__(self) -> None:
        self.up: dict[int, Tensor] = {}
        self.down: dict[int, Tensor] = {}

    def deviation(self) -> Tensor:
        """How far the way down strays from the way up: mean squared error over latents and timesteps, ``(B,)``.

        DiffAttack's deviated-reconstruction loss (Kang, Song and Li, NeurIPS 2023), equal weights. The distance is
        not specified there, and a third of the timesteps is sampled; here all that both ways visit count.
        """
        both = [(self.up[t] - latents).square().flatten(1).mean(1) for t, latents in self.down.items() if t in self.up]
        return torch.stack(both).mean(0)


def predict(backbone: DiffusionBackbone, latents: Tensor, t: int) -> Tensor:
    """The noise in latents, its activations computed again on the way back instead of kept."""
    return replayed(partial(backbone.predict_noise, t=t), latents)


def noise_to(
    backbone: DiffusionBackbone,
    latents: Tensor,
    t: int,
    rng: ClipRandom,
    *,
    short_by: int = 0,
    below: Sequence[int] = (),
    path: Trajectory | None = None,
) -> Tensor:
    """Clean latents noised to timestep ``t``, one draw per clip.

    Args:
        short_by: timesteps by which the noise of every timestep falls short of the table's.
        below, path: with a path, the same draw at these lower timesteps, and the clean latents, are written to it.
    """
    noise = rng.normal(*latents.shape[1:], device=latents.device).to(latents.dtype)
    if path is not None:
        path.up |= {s: add_noise(latents, noise, backbone.level(s - short_by)) for s in below} | {-1: latents}
    return add_noise(latents, noise, backbone.level(t - short_by))


def downward(times: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Pairs of timesteps ``(from, to)``; the last goes to -1, the clean latent."""
    return pairwise([*times, -1])


def _note(way: dict[int, Tensor] | None, t: int, latents: Tensor) -> None:
    if way is not None:
        way[t] = latents


def denoise_ddim(
    backbone: DiffusionBackbone, noisy: Tensor, times: Sequence[int], down: dict[int, Tensor] | None = None
) -> Tensor:
    """Deterministic denoising from ``times[0]`` to the clean level (Song et al., ICLR 2021)."""
    for t, after in downward(times):
        noisy = ddim_step(noisy, predict(backbone, noisy, t), backbone.level(t), backbone.level(after))
        _note(down, after, noisy)
    return noisy


def denoise_ddpm(
    backbone: DiffusionBackbone,
    noisy: Tensor,
    times: Sequence[int],
    rng: ClipRandom,
    down: dict[int, Tensor] | None = None,
) -> Tensor:
    """Ancestral denoising from ``times[0]`` to the clean level (Ho et al., NeurIPS 2020); strides are allowed."""

    def step(noisy: Tensor, t: int, after: int, rng: ClipRandom) -> Tensor:
        fresh = rng.normal(*noisy.shape[1:], device=noisy.device).to(noisy.dtype)
        return ddpm_step(noisy, predict(backbone, noisy, t), backbone.level(t), backbone.level(after), fresh)

    return _walk(backbone, noisy, times, step, rng, down)


def denoise_sde(
    backbone: DiffusionBackbone,
    noisy: Tensor,
    times: Sequence[int],
    rng: ClipRandom,
    down: dict[int, Tensor] | None = None,
) -> Tensor:
    """The reverse-time variance-preserving SDE from ``times[0]`` to the clean end, by Euler-Maruyama.

    DiffPure (Nie et al., Diffusion Models for Adversarial Purification, ICML 2022, eq. 5) as its code solves it:
    timestep ``t`` of ``N`` stands at time ``s = t / N``, and a step to ``r`` is

        ``x + (s - r) beta(s) (x / 2 + score) + sqrt((s - r) beta(s)) fresh``, ``score = -e(x, t) / sqrt(1 - abar(s))``

    with ``beta(s)`` and ``abar(s)`` in continuous time (:func:`bench.diffusion.schedule.at_time`); the last step ends
    at 1e-5. So the network is asked at ``t`` about latents whose level is that of ``t - 1``, which those that come in
    must have. The table's levels are no substitute for the SDE's: ``log(abar[t-2] / abar[t-1])`` in place of
    ``beta(s) / N`` takes the beta at the end of a step for that at its start, which counts where betas are small, and
    ``1 - abar[t-1]`` in place of ``1 - abar(s)`` is half a beta off in the score. On data of deviation .05 these two
    come to .0025 of the solution, and the last 1e-5 of time to .0001. With strides the steps are longer ones of the
    same SDE.
    """
    count = len(backbone.alphas_cumprod)

    def step(noisy: Tensor, t: int, after: int, rng: ClipRandom) -> Tensor:
        fresh = rng.normal(*noisy.shape[1:], device=noisy.device).to(noisy.dtype)
        beta, level = at_time(backbone.alphas_cumprod, t / count)
        passed = beta * (t / count - (_SDE_END if after < 0 else after / count))
        score = -predict(backbone, noisy, t) / math.sqrt(1 - level)
        return noisy + passed * (noisy / 2 + score) + math.sqrt(passed) * fresh

    return _walk(backbone, noisy, times, step, rng, down)


_Step = Callable[[Tensor, int, int, ClipRandom], Tensor]


def _walk(
    backbone: DiffusionBackbone,
    noisy: Tensor,
    times: Sequence[int],
    step: _Step,
    rng: ClipRandom,
    down: dict[int, Tensor] | None,
) -> Tensor:
    """All steps down, ``step(noisy, from, to, rng)`` each.

    A latent is kept of every step, and in pixel space it is as large as a clip: a hundred of them are more than all
    that a network needs. With a gradient, many steps there are taken in ``sqrt(n)`` parts, of which only the first
    latent is kept, and which are walked once more on the way back, with the same draws (Chen et al., Training Deep Nets
    with Sublinear Memory Cost, arXiv 1604.06174, 2016).
    """
    steps = list(downward(times))
    many = backbone.pixel_space and len(steps) > _MANY and down is None
    if many and torch.is_grad_enabled() and noisy.requires_grad:
        size = math.isqrt(len(steps) - 1) + 1
        for begin in range(0, len(steps), size):
            noisy = replayed(_Part(step, steps[begin : begin + size], rng), noisy)
        return noisy
    for t, after in steps:
        noisy = step(noisy, t, after, rng)
        _note(down, after, noisy)
    return noisy


class _Part:
    """Some steps, which draw the same whenever they are taken; the first time moves the streams on."""

    def __init__(self, step: _Step, steps: Sequence[tuple[int, int]], rng: ClipRandom) -> None:
        self.step, self.steps = step, steps
        self.before, self.present = rng.clone(), [rng]

    def __call__(self, noisy: Tensor) -> Tensor:
        rng = self.present.pop() if self.present else self.before.clone()
        for t, after in self.steps:
            noisy = self.step(noisy, t, after, rng)
        return noisy


def invert_ddim(
    backbone: DiffusionBackbone,
    latents: Tensor,
    times: Sequence[int],
    *,
    share_first: bool = False,
    up: dict[int, Tensor] | None = None,
) -> Tensor:
    """Deterministic noising of clean latents up to ``times[0]``: DDIM run backwards.

    The noise of a step is predicted at the timestep *after* it on the present latent.

    Args:
        backbone: the model.
        latents: clean ones, ``(B, C, T, h, w)``.
        times: timesteps, highest first.
        share_first: gives the noise that is predicted for the first frame to every frame: VideoPure's temporal
            inversion.
        up: if given, the latents at every timestep are written here.
    """
    _note(up, -1, latents)
    for after, t in reversed(list(downward(times))):
        noise = predict(backbone, latents, after)
        if share_first:
            noise = noise[:, :, :1].expand_as(noise)
        latents = ddim_step(latents, noise, backbone.level(t), backbone.level(after))
        _note(up, after, latents)
    return latents
