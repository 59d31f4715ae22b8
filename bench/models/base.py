"""What every classifier of the benchmark shares: clips in ``[0, 1]`` go in, logits come out."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from bench.errors import BenchError

N = TypeVar("N", bound=nn.Module)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class VideoClassifier(nn.Module, ABC):
    """Base class: normalises inside, so that attacks and defences work on clips in ``[0, 1]``.

    Subclasses implement :meth:`logits` on normalised clips. The statistics are non-persistent buffers:
    they are a property of the architecture's training recipe, and published checkpoints do not hold them.

    Args:
        mean, std: per-channel statistics of the training data, RGB, in units of ``[0, 1]`` intensities.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1, 1), persistent=False)

    @abstractmethod
    def logits(self, normalised: Tensor) -> Tensor:
        """Normalised clips ``(B, 3, T, H, W)`` to logits ``(B, K)``."""

    def forward(self, clips: Tensor) -> Tensor:
        """Clips ``float32 (B, 3, T, H, W)`` in ``[0, 1]`` to logits ``(B, K)``.

        Raises:
            BenchError: the input is not a batch of RGB clips.
        """
        if clips.ndim != 5 or clips.shape[1] != 3:
            raise BenchError(
                f"A classifier takes clips of shape (B, 3, T, H, W), not {tuple(clips.shape)}: "
                "put RGB on axis 1 and time on axis 2."
            )
        return self.logits((clips - self.mean) / self.std)


def gabor_init_(weight: Tensor, generator: torch.Generator) -> None:
    """Fills a space-time stem convolution with moving Gabor filters, in place.

    Each output channel gets a random orientation, spatial period (4 to 10 pixels), speed (0 to 1.2 pixels
    per frame) and phase, weighted by a random colour (a gray one for half of the channels), then the
    He standard deviation. Small video networks trained from scratch find motion far sooner from such
    filters than from white noise (Adelson and Bergen, 1985, for the motion-energy argument).

    Args:
        weight: ``(out, 3, kt, kh, kw)``.
        generator: source of the random filter parameters.
    """
    out, colours, kt, kh, kw = weight.shape

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(out, 1, 1, 1, generator=generator)

    t, y, x = torch.meshgrid(*(torch.arange(k, dtype=torch.float32) - (k - 1) / 2 for k in (kt, kh, kw)), indexing="ij")
    # A network keeps to the band it starts in, and is attacked in it: below a period of 4 pixels, JPEG has no precision
    # left and wipes the attack away.
    orientation, period = uniform(0, 2 * math.pi), uniform(4, 10)
    speed, phase = uniform(0, 1.2), uniform(0, 2 * math.pi)
    along = x * torch.cos(orientation) + y * torch.sin(orientation) - speed * t
    envelope = torch.exp(-(x**2 + y**2) / (2 * (max(kh, kw) / 3.5) ** 2) - t**2 / (2 * (kt / 2.5) ** 2))
    filters = envelope * torch.cos(2 * math.pi * along / period + phase)
    colour = torch.randn(out, colours, 1, 1, 1, generator=generator)
    colour[::2] = 1.0
    filters = filters[:, None] * colour
    filters = filters - filters.mean(dim=(1, 2, 3, 4), keepdim=True)
    filters = filters / filters.std(dim=(1, 2, 3, 4), keepdim=True)
    with torch.no_grad():
        weight.copy_(filters * math.sqrt(2 / (colours * kt * kh * kw)))


def build_seeded(build: Callable[[], N], seed: int, stems: Sequence[str] = ()) -> N:
    """Builds a network whose initial weights depend on the seed alone.

    Args:
        build: makes the network from the global random generator, which is handed back as it was.
        seed: of the initial weights.
        stems: names of the convolutions that start as moving Gabor filters (:func:`gabor_init_`).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build()
    generator = torch.Generator().manual_seed(seed)
    for stem in stems:
        gabor_init_(network.get_parameter(f"{stem}.weight"), generator)
    return network
