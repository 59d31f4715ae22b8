"""What diffusion purifiers share: a backbone, the timesteps they visit, and a cheaper process that stands for them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from bench.defense.base import Purifier
from bench.diffusion.backbones import load_backbone
from bench.diffusion.lowpass import wiener
from bench.diffusion.sampling import Trajectory
from bench.diffusion.schedule import timesteps
from bench.errors import BenchError, at_least
from bench.seeds import ClipRandom


class DiffusionPurifier(Purifier):
    """Encodes, moves the latents through noise levels, decodes. Subclasses implement :meth:`purify_latents`.

    Differentiable from end to end; every network call and every part of the encoding and decoding is computed again on
    the way back, so a gradient keeps a few latents per step and no graph of the networks.

    Args:
        backbone: name of a diffusion backbone, see :mod:`bench.diffusion.backbones`.
        t_star: highest timestep visited, of 1000.
        steps: network calls on the way down, spaced evenly from ``t_star`` to 1.
        weights: of a published backbone, a hub name or a folder; its usual hub name if empty.
        precision: number format of a published backbone's weights, ``fp32``, ``fp16`` or ``bf16``.

    Raises:
        BenchError: ``t_star`` or ``steps`` is no whole number, the backbone cannot be loaded, or has no such timesteps.
    """

    def __init__(
        self,
        backbone: str = "pixel_tiny",
        t_star: int = 101,
        steps: int = 6,
        weights: str = "",
        precision: Literal["fp32", "fp16", "bf16"] = "fp32",
    ) -> None:
        super().__init__()
        at_least("t_star", t_star, 1)
        at_least("steps", steps, 1)
        self.times = timesteps(t_star, steps)
        self.backbone = load_backbone(backbone, weights, precision)
        last = len(self.backbone.alphas_cumprod) - 1
        if t_star > last:
            raise BenchError(f"The backbone {backbone!r} has timesteps up to {last}: t_star {t_star} is beyond them.")

    @abstractmethod
    def purify_latents(
        self, latents: Tensor, clips: Tensor, times: Sequence[int], rng: ClipRandom, path: Trajectory | None = None
    ) -> list[Tensor]:
        """The purified latents of each candidate.

        Args:
            latents: of the clips, ``(B, C, T, h, w)``.
            clips: as they came, ``(B, 3, T, H, W)``.
            times: timesteps to visit, highest first.
            rng: one stream per clip.
            path: if given, the latents on both ways are written here.
        """

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return self._purify(clips, rng)

    def deviation(self, clips: Tensor, rng: ClipRandom) -> tuple[Tensor, Tensor]:
        """See :meth:`bench.diffusion.sampling.Trajectory.deviation`."""
        path = Trajectory()
        purified = self._purify(clips, rng, path)
        return purified, path.deviation()

    def _purify(self, clips: Tensor, rng: ClipRandom, path: Trajectory | None = None) -> Tensor:
        candidates = self.purify_latents(self.backbone.encode(clips), clips, self.times, rng, path)
        if len(candidates) == 1:
            return self.backbone.decode(candidates[0])
        return self.backbone.decode(torch.cat(candidates)).unflatten(0, (len(candidates), len(clips)))

    def surrogate(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        """The same process in a third of the steps; several candidates are averaged in latent space."""
        fewer = timesteps(self.times[0], max(1, round(len(self.times) / 3)))
        candidates = self.purify_latents(self.backbone.encode(clips), clips, fewer, rng)
        return self.backbone.decode(sum(candidates[1:], candidates[0]) / len(candidates))

    def lowpass(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        """Encoder and decoder, and between them a linear filter in place of all network calls.

        What is kept is :func:`bench.diffusion.lowpass.wiener`, the linear denoiser of the clip's own spectrum; what the
        purifier adds of its own is :meth:`push`. All candidates have this one stand-in.
        """
        latents = self.backbone.encode(clips)
        kept = wiener(latents, self.backbone.level(self.times[0]), per_frame=self.backbone.per_frame)
        return self.backbone.decode(kept + self.push(latents) * (kept - latents))

    def push(self, latents: Tensor) -> float:
        """How far estimates are moved on, away from the encoded clip, on average over candidates, in distances."""
        return 0.0
