"""Small classifiers of clips of any size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench import Target


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


class Smooth(nn.Module):
    """A smooth classifier of clips of any size, in five classes: a convolution, and the mean of what it finds.

    Args:
        scale: of the logits; the larger, the surer it is.
    """

    def __init__(self, scale: float = 30.0) -> None:
        super().__init__()
        self.scale = scale
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv, self.head = nn.Conv3d(3, 6, 3, padding=1), nn.Linear(6, 5)

    def forward(self, clips: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(4 * self.conv(clips)).mean(dim=(2, 3, 4)))
        return self.scale * logits


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


class Ordered(nn.Module):
    """A small network with some memory of time: every clip's answer depends on the order of its frames."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = nn.Conv3d(3, 6, 3, padding=1)
            self.head = nn.Linear(6 * 5, classes)

    def forward(self, clips: Tensor) -> Tensor:
        hidden = torch.tanh(3 * self.conv(clips)).mean((3, 4))
        return 8 * self.head(nn.functional.interpolate(hidden, size=5, mode="linear").flatten(1))


class Scaled(nn.Module):
    """Another classifier, its logits less some offset times a number: as sure of itself as you like."""

    def __init__(self, net: nn.Module, scale: float, offset: Tensor | float = 0.0) -> None:
        super().__init__()
        self.net, self.scale, self.offset = net, scale, offset

    def forward(self, clips: Tensor) -> Tensor:
        logits: Tensor = self.scale * (self.net(clips) - self.offset)
        return logits


class Corner(nn.Module):
    """Class 1 where the upper left corner is bright: only a border can say so."""

    def forward(self, clips: Tensor) -> Tensor:
        score = 20 * (clips[..., :2, :2].mean((1, 2, 3, 4)) - 0.9)
        return torch.stack([-score, score], 1)


def right(net: nn.Module, clips: Tensor) -> Tensor:
    """The classes that a network sees: labels with which it is right."""
    with torch.no_grad():
        return net(clips).argmax(1)


def gradient_of(net: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    """The gradient of the cross entropy with respect to the clips."""
    x = x.clone().requires_grad_(True)
    (found,) = torch.autograd.grad(nn.functional.cross_entropy(net(x), labels, reduction="sum"), x)
    return found


def transfer(net: nn.Module, count: int) -> Target:
    """A network as a target whose answers never end an attack."""
    return Target(lambda x, rows, then=None: net(x if then is None else then(x)), count, stochastic=True)
