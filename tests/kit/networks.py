"""Small classifiers of clips of any size."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Two(nn.Module):
    """Two classes; the second leads by ``<weight, clip> + lead``, summed clip by clip. Notes what it is asked."""

    def __init__(self, weight: Tensor, lead: float) -> None:
        super().__init__()
        self.weight, self.lead = weight, lead
        self.seen: list[Tensor] = []

    def forward(self, clips: Tensor) -> Tensor:
        self.seen.append(clips.detach().clone())
        score = (clips * self.weight.to(clips)).flatten(1).sum(1) + self.lead
        return torch.stack([-score / 2, score / 2], 1)


class Wavy(nn.Module):
    """A smooth classifier of clips of any size, summed clip by clip so that no clip's logits depend on its batch."""

    def __init__(self, classes: int = 5, seed: int = 0, steepness: float = 1.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.mix = nn.Parameter(torch.randn(classes, 6, 64, generator=generator))
        self.bias = nn.Parameter(torch.randn(classes, 6, generator=generator))
        self.steepness = steepness

    def one(self, clip: Tensor) -> Tensor:
        values = clip.flatten()
        mix = self.mix.to(values.dtype).repeat(1, 1, -(-len(values) // 64))[..., : len(values)]
        waves = torch.tanh((mix * (values - 0.5)).sum(-1) + self.bias.to(values.dtype))
        return self.steepness * waves.sum(1)

    def forward(self, clips: Tensor) -> Tensor:
        return torch.stack([self.one(clip) for clip in clips])


class OnImages(nn.Module):
    """A clip as an image: its frames stand below one another."""

    def __init__(self, model: nn.Module, frames: int = 1) -> None:
        super().__init__()
        self.model, self.frames = model, frames
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.detach().clone())
        return self.model(images.unflatten(2, (self.frames, -1)))
