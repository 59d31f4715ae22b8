"""The shipped diffusion models: small enough for a CPU, of the three kinds that purifiers are built on.

``pixel_tiny`` denoises whole clips in pixel space, ``latent_tiny`` is ModelScope's architecture (an image autoencoder
and a 3-D U-Net with temporal layers) at toy width, ``image_tiny`` is an image model applied frame by frame.
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DModel, UNet3DConditionModel
from torch import Tensor, nn

from bench.diffusion.base import DiffusionBackbone

# diffusers is only partly typed, and its classes attach methods where type checkers do not see them.
_AutoencoderKL: Any = AutoencoderKL
_UNet2D: Any = UNet2DModel
_UNet3D: Any = UNet3DConditionModel


def embed_time(t: Tensor, size: int) -> Tensor:
    """Sinusoidal features ``(B, size)`` of timesteps ``(B,)`` (Ho et al., 2020; Vaswani et al., 2017)."""
    rates = torch.exp(-math.log(10000) * torch.arange(size // 2, device=t.device, dtype=torch.float32) / (size // 2))
    angles = t.float()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)


def _zero(module: nn.Module) -> None:
    """Sets the weights to zero: a residual starts as nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)


class _Block(nn.Module):
    """Residual block: 3x3 in each frame, then 3 frames at each position, modulated by the time embedding."""

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, inputs)
        self.spatial = nn.Conv3d(inputs, outputs, (1, 3, 3), padding=(0, 1, 1))
        self.modulate = nn.Linear(embedding, 2 * outputs)
        self.norm2 = nn.GroupNorm(8, outputs)
        self.temporal = nn.Conv3d(outputs, outputs, (3, 1, 1), padding=(1, 0, 0))
        self.shortcut = nn.Conv3d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        _zero(self.temporal)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.spatial(F.silu(self.norm1(x)))
        scale, shift = self.modulate(embedding)[..., None, None, None].chunk(2, 1)
        hidden = self.norm2(hidden) * (1 + scale) + shift
        return self.shortcut(x) + self.temporal(F.silu(hidden))


class VideoUNet(nn.Module):
    """A U-Net of clips without attention; every level halves the frames and leaves the time axis alone.

    Args:
        channels: of the input and of the output.
        widths: channels of each level.
        embedding: size of the time embedding.
    """

    def __init__(self, channels: int, widths: Sequence[int], embedding: int = 64) -> None:
        super().__init__()
        self.embedding = embedding
        self.time = nn.Sequential(
            nn.Linear(embedding, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU()
        )
        self.enter = nn.Conv3d(channels, widths[0], (1, 3, 3), padding=(0, 1, 1))
        self.down_blocks = nn.ModuleList(_Block(w, w, embedding) for w in widths[:-1])
        pairs = list(itertools.pairwise(widths))
        self.downs = nn.ModuleList(nn.Conv3d(w, after, (1, 2, 2), (1, 2, 2)) for w, after in pairs)
        self.middle = nn.ModuleList(_Block(widths[-1], widths[-1], embedding) for _ in range(2))
        self.ups = nn.ModuleList(nn.ConvTranspose3d(after, w, (1, 2, 2), (1, 2, 2)) for w, after in pairs)
        self.up_blocks = nn.ModuleList(_Block(2 * w, w, embedding) for w in widths[:-1])
        self.norm = nn.GroupNorm(8, widths[0])
        self.leave = nn.Conv3d(widths[0], channels, (1, 3, 3), padding=(0, 1, 1))
        _zero(self.leave)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """``(B, C, T, h, w)`` at timesteps ``(B,)`` to the same shape."""
        embedding = self.time(embed_time(t, self.embedding).to(x.dtype))
        x = self.enter(x)
        kept = []
        for block, down in zip(self.down_blocks, self.downs, strict=True):
            x = block(x, embedding)
            kept.append(x)
            x = down(x)
        for block in self.middle:
            x = block(x, embedding)
        for block, up in zip(reversed(self.up_blocks), reversed(self.ups), strict=True):
            x = block(torch.cat([up(x), kept.pop()], 1), embedding)
        return self.leave(F.silu(self.norm(x)))


def cosines(block: int, kept: int) -> Tensor:
    """The ``kept`` patterns of lowest frequency of the two-dimensional cosine transform, ``(kept, block, block)``,
    orthonormal."""
    k = torch.arange(block, dtype=torch.float32)
    basis = torch.cos(math.pi * k[:, None] * (k + 0.5) / block) * math.sqrt(2 / block)
    basis[0] /= math.sqrt(2)
    places = sorted(itertools.product(range(block), repeat=2), key=lambda p: (sum(p), max(p), p))[:kept]
    return torch.stack([basis[i][:, None] * basis[j] for i, j in places])


def colour_cosines(block: int, kept: int) -> Tensor:
    """The patterns of :func:`cosines` for each colour by itself, ``(3 kept, 3, block, block)``, orthonormal: a
    convolution of stride ``block`` with them is the transform, its transpose the way back."""
    patterns = torch.zeros(3 * kept, 3, block, block)
    for colour in range(3):
        patterns[colour::3, colour] = cosines(block, kept)
    return patterns


class Preconditioned(DiffusionBackbone):
    """A model whose network is preconditioned as in EDM (Karras et al., NeurIPS 2022, table 1), channel by channel.

    With ``y = x / sqrt(abar) = x0 + s e`` the estimate is ``x0 = c_skip y + c_out net(c_in y)``: the Wiener estimate
    of each channel plus what the network knows better. What the network is given and what it is to return have unit
    variance at every noise size. Pictures have little variance at fine scales, so the channels should be those of a
    transform that tells scales apart; then the skip does not leave in any channel more noise than there is signal. The
    noise follows from the estimate.
    """

    variance: Tensor
    """Of the channels of clean latents, ``(C',)``, after :meth:`analyse`."""

    def analyse(self, latents: Tensor) -> Tensor:
        """Latents ``(B, C, T, h, w)`` to the network's channels ``(B, C', T, h', w')``, by an orthonormal transform."""
        return latents

    def synthesise(self, channels: Tensor) -> Tensor:
        """The way back."""
        return channels

    @abstractmethod
    def network(self, x: Tensor, t: Tensor) -> Tensor:
        """The bare network on ``(B, C', T, h', w')``."""

    def _estimate(self, channels: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The clean channels, and the squared error ``(B, 1, 1, 1, 1)`` to expect of the Wiener estimate alone."""
        level, d2 = self._levels(t, channels), self.variance.to(channels.dtype)[:, None, None, None]
        s2, y = (1 - level) / level, channels / level.sqrt()
        clean = d2 / (s2 + d2) * y + (s2 * d2 / (s2 + d2)).sqrt() * self.network(y / (s2 + d2).sqrt(), t)
        return clean, (s2 * d2 / (s2 + d2)).mean(1, keepdim=True)

    def linear(self, noisy: Tensor, t: int) -> Tensor:
        """The Wiener estimate alone, of latents noised to timestep ``t``: what a trained network must beat."""
        level, d2 = self.level(t), self.variance.to(noisy.dtype)[:, None, None, None]
        return self.synthesise(d2 / ((1 - level) / level + d2) * self.analyse(noisy) / level**0.5)

    def clean(self, latents: Tensor, t: Tensor) -> Tensor:
        """The estimate of the clean latents."""
        return self.synthesise(self._estimate(self.analyse(latents), t)[0])

    def noise(self, latents: Tensor, t: Tensor) -> Tensor:
        level = self._levels(t, latents)
        return (latents - level.sqrt() * self.clean(latents, t)) / (1 - level).sqrt()

    def loss(self, noisy: Tensor, t: Tensor, clean: Tensor) -> Tensor:
        """Mean squared error of the estimate, relative to that of the Wiener estimate: even over noise sizes."""
        estimate, expected = self._estimate(self.analyse(noisy), t)
        return ((estimate - self.analyse(clean)).square() / expected).mean()


class PixelSpace(Preconditioned):
    """A preconditioned model of the clips themselves, scaled to ``[-1, 1]``.

    The network sees the cosine transform of blocks of 4x4 pixels: full detail in 48 channels at a quarter of the width
    and height.
    """

    pixel_space = True
    block = 4
    patterns: Tensor

    def __init__(self) -> None:
        super().__init__(clean_level=1.0)
        self.register_buffer("patterns", colour_cosines(self.block, self.block**2), persistent=False)
        self.register_buffer("variance", torch.ones(3 * self.block**2))

    @torch.no_grad()
    def calibrate(self, clips: Tensor) -> None:
        """Measures :attr:`variance` on clips ``(B, 3, T, H, W)`` in ``[0, 1]``, before training."""
        self.variance.copy_(self.analyse(self.encode(clips)).square().mean(dim=(0, 2, 3, 4)))

    def analyse(self, latents: Tensor) -> Tensor:
        frames = latents.transpose(1, 2)
        coefficients = F.conv2d(frames.flatten(0, 1), self.patterns, stride=self.block)
        return coefficients.unflatten(0, frames.shape[:2]).transpose(1, 2)

    def synthesise(self, channels: Tensor) -> Tensor:
        frames = channels.transpose(1, 2)
        images = F.conv_transpose2d(frames.flatten(0, 1), self.patterns, stride=self.block)
        return images.unflatten(0, frames.shape[:2]).transpose(1, 2)

    def encode_frames(self, frames: Tensor) -> Tensor:
        return frames

    def decode_frames(self, latents: Tensor) -> Tensor:
        return latents


class PixelTiny(PixelSpace):
    """A pixel-space denoiser of clips.

    Args:
        widths: channels of the U-Net's levels.
    """

    def __init__(self, widths: Sequence[int] = (64, 96)) -> None:
        super().__init__()
        self.size_multiple = self.block * 2 ** (len(widths) - 1)
        self.unet = VideoUNet(3 * self.block**2, widths)

    def network(self, x: Tensor, t: Tensor) -> Tensor:
        return self.unet(x, t)


class ImageTiny(PixelSpace):
    """An image denoiser applied to every frame by itself: diffusers' 2-D U-Net.

    Args:
        widths: channels of the U-Net's levels.
    """

    per_frame = True

    def __init__(self, widths: Sequence[int] = (48, 64)) -> None:
        super().__init__()
        self.size_multiple = self.block * 2 ** (len(widths) - 1)
        self.unet: Any = _UNet2D(
            in_channels=3 * self.block**2,
            out_channels=3 * self.block**2,
            block_out_channels=tuple(widths),
            down_block_types=("DownBlock2D",) * len(widths),
            up_block_types=("UpBlock2D",) * len(widths),
            layers_per_block=1,
            norm_num_groups=8,
            add_attention=False,
        )
        _zero(self.unet.conv_out)

    def network(self, x: Tensor, t: Tensor) -> Tensor:
        out = self.unet(x.transpose(1, 2).flatten(0, 1), t.repeat_interleave(x.shape[2])).sample
        return out.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


class TinyAutoencoder(nn.Module):
    """diffusers' ``AutoencoderKL`` for small frames, beside a linear shortcut from patches to latents and back.

    The shortcut starts as a truncated cosine transform, so a short training refines a faithful code instead of having
    to find one. Half of the patch's numbers are kept: with few, encoding and decoding alone would filter adversarial
    perturbations out, and a latent purifier would get the credit.

    Args:
        patterns: cosine patterns kept per colour; there are three times as many latent channels.
        widths: channels of the levels; there is one halving fewer than levels.
    """

    scale: Tensor
    variance: Tensor

    def __init__(self, patterns: int = 8, widths: Sequence[int] = (16, 32, 64)) -> None:
        super().__init__()
        self.halvings = len(widths) - 1
        block, channels = 2**self.halvings, 3 * patterns
        self.kl: Any = _AutoencoderKL(
            latent_channels=channels,
            block_out_channels=tuple(widths),
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            up_block_types=("UpDecoderBlock2D",) * len(widths),
            layers_per_block=1,
            norm_num_groups=8,
            mid_block_add_attention=False,
        )
        self.shortcut_in = nn.Conv2d(3, channels, block, stride=block, bias=False)
        self.shortcut_out = nn.ConvTranspose2d(channels, 3, block, stride=block, bias=False)
        start = colour_cosines(block, patterns)
        _zero(self.kl.quant_conv)
        _zero(self.kl.decoder.conv_out)
        with torch.no_grad():
            self.shortcut_in.weight.copy_(start)
            self.shortcut_out.weight.copy_(start)
            self.kl.quant_conv.bias[channels:] = -9  # a narrow posterior: about a hundredth of the latents' spread
        # As published models do, one factor for all channels: noise then drowns the channels that hold fine detail
        # first. The channels' variances, after scaling, are for the denoiser's preconditioning.
        self.register_buffer("scale", torch.tensor(1.0))
        self.register_buffer("variance", torch.ones(channels))

    def posterior(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance, both ``(N, C, h, w)``, of the code of frames in ``[-1, 1]``."""
        posterior = self.kl.encode(frames).latent_dist
        return posterior.mean + self.shortcut_in(frames), posterior.logvar

    def reconstruct(self, code: Tensor) -> Tensor:
        """A code to frames in about ``[-1, 1]``."""
        return self.kl.decode(code).sample + self.shortcut_out(code)

    def encode(self, frames: Tensor) -> Tensor:
        """Frames ``(N, 3, H, W)`` in ``[-1, 1]`` to latents ``(N, C, h, w)``: the posterior's mean, scaled."""
        return self.posterior(frames)[0] / self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Latents to frames in about ``[-1, 1]``."""
        return self.reconstruct(latents * self.scale)


class LatentTiny(Preconditioned):
    """ModelScope's architecture at toy width: an image autoencoder, and diffusers' 3-D U-Net on its latents.

    The prompt is always empty, so its embedding is one learned constant, and there is no guidance.

    Args:
        patterns: of the autoencoder.
        widths: channels of the U-Net's levels.
        prompt: length of the prompt's embedding.
    """

    prompt: Tensor
    frames_at_once = 32

    def __init__(self, patterns: int = 8, widths: Sequence[int] = (32, 64), prompt: int = 16) -> None:
        super().__init__()
        self.autoencoder = TinyAutoencoder(patterns)
        self.size_multiple = 2 ** (self.autoencoder.halvings + len(widths) - 1)
        self.unet: Any = _UNet3D(
            in_channels=3 * patterns,
            out_channels=3 * patterns,
            block_out_channels=tuple(widths),
            down_block_types=("DownBlock3D",) * (len(widths) - 1) + ("CrossAttnDownBlock3D",),
            up_block_types=("CrossAttnUpBlock3D",) + ("UpBlock3D",) * (len(widths) - 1),
            layers_per_block=1,
            norm_num_groups=8,
            cross_attention_dim=prompt,
            attention_head_dim=4,
        )
        _zero(self.unet.conv_out)
        self.prompt = nn.Parameter(torch.zeros(1, 1, prompt))

    def encode_frames(self, frames: Tensor) -> Tensor:
        return self.autoencoder.encode(frames)

    def decode_frames(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(latents)

    @property
    def variance(self) -> Tensor:  # type: ignore[override]
        return self.autoencoder.variance

    def network(self, x: Tensor, t: Tensor) -> Tensor:
        return self.unet(x, t, self.prompt.expand(len(x), -1, -1)).sample
