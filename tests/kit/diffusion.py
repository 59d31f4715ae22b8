"""A diffusion model small enough for finite differences."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bench.diffusion.base import DiffusionBackbone
from bench.flow.tiny import TinyFlow


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
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            flow = TinyFlow(fine=4, coarse=4, width=4, reach_fine=1, reach_coarse=1)
            for parameter in flow.parameters():
                if not parameter.any():
                    nn.init.normal_(parameter, std=0.3)
        defense.flow = flow.eval().requires_grad_(False)
    return defense.double()
