"""Trajectories through the noise levels: down by DDIM, DDPM or the reverse SDE, up by DDIM inversion.

Each takes latents and a list of timesteps in the order of :func:`bench.diffusion.schedule.timesteps`, highest first.
With gradients every network call is computed again on the way back: one latent per step is kept, and no graph. ``up``
and ``down`` are filled with the latents at each timestep, for whoever compares the two ways (:class:`Trajectory`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from bench.diffusion.base import DiffusionBackbone
from bench.diffusion.replay import replayed
from bench.diffusion.schedule import add_noise, ddim_step, ddpm_step
from bench.seeds import ClipRandom


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
    below: Sequence[int] = (),
    path: Trajectory | None = None,
) -> Tensor:
    """Clean latents noised to timestep ``t``, one draw per clip.

    Args:
        below, path: with a path, the same draw at these lower timesteps, and the clean latents, are written to it.
    """
    noise = rng.normal(*latents.shape[1:], device=latents.device).to(latents.dtype)
    if path is not None:
        path.up |= {s: add_noise(latents, noise, backbone.level(s)) for s in below} | {-1: latents}
    return add_noise(latents, noise, backbone.level(t))


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
    for t, after in downward(times):
        fresh = rng.normal(*noisy.shape[1:], device=noisy.device).to(noisy.dtype)
        noisy = ddpm_step(noisy, predict(backbone, noisy, t), backbone.level(t), backbone.level(after), fresh)
        _note(down, after, noisy)
    return noisy


def denoise_sde(
    backbone: DiffusionBackbone,
    noisy: Tensor,
    times: Sequence[int],
    rng: ClipRandom,
    down: dict[int, Tensor] | None = None,
) -> Tensor:
    """The reverse-time variance-preserving SDE from ``times[0]`` to the clean level, by Euler-Maruyama.

    DiffPure (Nie et al., Diffusion Models for Adversarial Purification, ICML 2022, eq. 5) with the score
    ``-e / sqrt(1 - abar)``. The integral of ``beta`` over a step is ``log(after / level)``, so strides are allowed;
    with small ones it agrees with :func:`denoise_ddpm`.
    """
    for t, after in downward(times):
        fresh = rng.normal(*noisy.shape[1:], device=noisy.device).to(noisy.dtype)
        level = backbone.level(t)
        beta = math.log(backbone.level(after) / level)
        score = -predict(backbone, noisy, t) / math.sqrt(1 - level)
        noisy = noisy + beta * (noisy / 2 + score) + math.sqrt(beta) * fresh
        _note(down, after, noisy)
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
