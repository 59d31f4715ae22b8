"""Diffusion models whose answer is known, or that are small enough for finite differences."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bench.diffusion.base import DiffusionBackbone
from kit import flows


class GaussianWorld(DiffusionBackbone):
    """Clips whose values are independent normals of mean ``m`` and deviation ``s``: the best noise predictor is known.

    ``E[e | x] = (x - sqrt(a) E[x0 | x]) / sqrt(1 - a)`` with the posterior mean of a Gaussian.
    """

    pixel_space = True
    frames_at_once = 3

    def __init__(self, m: float = 0.2, s: float = 0.3, levels: Tensor | None = None) -> None:
        super().__init__(levels, clean_level=1.0)
        self.m, self.s = m, s
        self.calls: list[int] = []

    def encode_frames(self, frames: Tensor) -> Tensor:
        self.calls.append(len(frames))
        return frames

    def decode_frames(self, latents: Tensor) -> Tensor:
        self.calls.append(len(latents))
        return latents

    def noise(self, latents: Tensor, t: Tensor) -> Tensor:
        a = self._levels(t, latents)
        clean = self.m + a.sqrt() * self.s**2 / (a * self.s**2 + 1 - a) * (latents - a.sqrt() * self.m)
        return (latents - a.sqrt() * clean) / (1 - a).sqrt()


class Miniature(DiffusionBackbone):
    """A latent-space model small enough for finite differences, every part of it nonlinear."""

    frames_at_once = 2

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.down = nn.Conv2d(3, 4, 2, stride=2)
            self.up = nn.ConvTranspose2d(4, 3, 2, stride=2)
            self.spread = nn.Conv3d(4, 48, 3, padding=1)  # wide, so that keeping it would be noticed
            self.mix = nn.Conv3d(48, 4, 1)
        self.called: list[Tensor] = []

    def encode_frames(self, frames: Tensor) -> Tensor:
        return self.down(frames).tanh()

    def decode_frames(self, latents: Tensor) -> Tensor:
        return self.up(latents).tanh() * 0.9  # never clamped

    def noise(self, latents: Tensor, t: Tensor) -> Tensor:
        found = (self.mix(self.spread(latents).tanh()) + t.view(-1, 1, 1, 1, 1) / 100).tanh()
        self.called.append(found.detach().clone())
        return found


def miniature(defense: Any) -> Any:
    """A purifier with the miniature model, and a random flow net, in double precision."""
    defense.backbone = Miniature().eval().requires_grad_(False)
    if getattr(defense, "flow", None) is not None:
        defense.flow = flows.miniature()
    return defense.double()
