"""Training the tiny diffusion backbones: the autoencoder, and the three denoisers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.data.base import ClipRef, Dataset
from bench.diffusion.backbones import build_backbone
from bench.diffusion.base import DiffusionBackbone
from bench.diffusion.sampling import denoise_ddim, invert_ddim
from bench.diffusion.schedule import add_noise, predict_clean, timesteps
from bench.diffusion.tiny import LatentTiny, PixelSpace, Preconditioned, TinyAutoencoder
from bench.errors import BenchError
from bench.training.data import split_of
from bench.training.objective import Objective
from bench.training.objectives.mixture import load_mixed
from bench.weights.zoo import load_shipped

AUTOENCODERS = {"autoencoder_tiny": TinyAutoencoder}
MEASURED_TIMES = (10, 25, 50, 100, 250, 500)


def small_times(generator: torch.Generator, count: int, steps: int, power: float = 2.5) -> Tensor:
    """Timesteps ``int64 (count,)``, stratified over the batch: ``steps * u^power`` with ``u`` uniform.

    Purification starts at small timesteps, so these are trained most: with power 2.5, 40 % of the draws fall below a
    tenth of the schedule and 69 % below four tenths; none is left out.
    """
    u = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return (steps * u**power).long().clamp(max=steps - 1)


def psnr(mse: float, peak: float = 1.0) -> float:
    """Peak signal-to-noise ratio in decibels."""
    return 10 * math.log10(peak**2 / max(mse, 1e-12))


def _test_clips(dataset: str, count: int, device: torch.device) -> Tensor:
    data = split_of(dataset, "test")
    return torch.stack([data.load(r) for r in data.refs()[:count]]).to(device)


class Reconstruction(Objective):
    """Mean squared error of an autoencoder of frames, with a small Kullback-Leibler term (Rombach et al., CVPR 2022).

    Attributes:
        frames: drawn from each clip of a batch.
        kl: weight of the divergence of the latents from a standard normal.
    """

    kind = "autoencoder"
    frames: ClassVar[int] = 4
    kl: ClassVar[float] = 1e-6

    def build(self, model: str, dataset: str, seed: int = 0) -> nn.Module:
        if model not in AUTOENCODERS:
            raise BenchError(f"Recipe autoencoder trains {', '.join(AUTOENCODERS)}, not {model!r}.")
        return AUTOENCODERS[model]().train()

    def batch(self, data: Dataset, refs: Sequence[ClipRef]) -> tuple[Tensor, ...]:
        return (load_mixed(data, refs),)

    def loss(
        self, network: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, float]]:
        coder = cast(TinyAutoencoder, network)
        (clips,) = batch
        which = torch.randperm(clips.shape[2], generator=generator)[: self.frames]
        frames = 2 * clips[:, :, which].transpose(1, 2).flatten(0, 1) - 1
        mean, logvar = coder.posterior(frames)
        noise = torch.randn(mean.shape, generator=generator).to(frames.device)
        error = F.mse_loss(coder.reconstruct(mean + (logvar / 2).exp() * noise), frames)
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        with torch.no_grad():  # the statistics of the latents, slowly forgotten as the encoder changes
            spread = mean.square().mean(dim=(0, 2, 3))
            scale = coder.scale.square().lerp(spread.mean(), 0.05).sqrt()
            coder.variance.lerp_(spread / scale.square(), 0.05)
            coder.scale.copy_(scale)
        return error + self.kl * divergence, {"psnr": psnr(float(error.detach()), 2.0)}

    @torch.no_grad()
    def measure(self, network: nn.Module, dataset: str, device: torch.device) -> dict[str, Any]:
        coder = cast(TinyAutoencoder, network)
        clips = _test_clips(dataset, 24, device)
        frames = 2 * clips.transpose(1, 2).flatten(0, 1) - 1
        latents = torch.cat([coder.encode(part) for part in frames.split(32)])
        decoded = torch.cat([coder.decode(part) for part in latents.split(32)])
        error = float(F.mse_loss(decoded.clamp(-1, 1), frames))
        return {
            "psnr_db": round(psnr(error, 2.0), 2),
            "latent_std": round(float(latents.std()), 3),
            "clips": len(clips),
        }


class Denoising(Objective):
    """Denoising of whole clips, small timesteps most (:func:`small_times`), by the loss of Karras et al. (NeurIPS
    2022), whose weight is even over all noise sizes."""

    kind = "diffusion"

    def build(self, model: str, dataset: str, seed: int = 0) -> nn.Module:
        backbone = build_backbone(model)
        if not isinstance(backbone, PixelSpace):
            raise BenchError(f"This recipe trains models of pixels, which {model!r} is not: take another recipe.")
        data = split_of(dataset, "train")
        backbone.calibrate(load_mixed(data, data.refs()[:48]))
        return backbone.train()

    def batch(self, data: Dataset, refs: Sequence[ClipRef]) -> tuple[Tensor, ...]:
        return (2 * load_mixed(data, refs) - 1,)

    def loss(
        self, network: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, float]]:
        backbone = cast(Preconditioned, network)
        (clean,) = batch
        t = small_times(generator, len(clean), len(backbone.alphas_cumprod)).to(clean.device)
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        level = backbone.alphas_cumprod.to(clean.device)[t].float().view(-1, 1, 1, 1, 1)
        noisy = add_noise(clean, noise, level)
        return backbone.loss(noisy, t, clean), {}

    @torch.no_grad()
    def measure(self, network: nn.Module, dataset: str, device: torch.device) -> dict[str, Any]:
        """Error of one-step denoising in the latent space by timestep, beside that of leaving the noise in and that of
        the linear filter which the network starts from, and the error of DDIM inversion to timestep 250 and back."""
        backbone = cast(Preconditioned, network)
        clips = _test_clips(dataset, 24, device)
        latents = torch.cat([backbone.encode(part) for part in clips.split(4)])
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(latents.shape, generator=generator).to(device)
        table = {}
        for t in MEASURED_TIMES:
            level = backbone.level(t)
            noisy = add_noise(latents, noise, level)
            estimate = torch.cat([predict_clean(x, backbone.predict_noise(x, t), level) for x in noisy.split(4)])
            table[str(t)] = {
                "mse": float(f"{float(F.mse_loss(estimate, latents)):.3g}"),
                "noise": float(f"{(1 - level) / level:.3g}"),
                "linear": float(f"{float(F.mse_loss(backbone.linear(noisy, t), latents)):.3g}"),
            }
        few = latents[:8]
        times = timesteps(250, 25)
        back = torch.cat([denoise_ddim(backbone, invert_ddim(backbone, x, times), times) for x in few.split(4)])
        decoded = torch.cat([backbone.decode(x) for x in latents.split(4)])
        returned = torch.cat([backbone.decode(x) for x in back.split(4)])
        return {
            "denoising": table,
            "inversion_250_mse": float(f"{float(F.mse_loss(back, few)):.3g}"),
            "inversion_250_psnr_db": round(psnr(float(F.mse_loss(returned, decoded[:8]))), 2),
            "encode_decode_psnr_db": None
            if backbone.pixel_space
            else round(psnr(float(F.mse_loss(decoded, clips))), 2),
            "clips": len(clips),
        }


class LatentDenoising(Denoising):
    """Noise prediction in the latent space of the shipped autoencoder, which stays as it is.

    Clips are encoded once and their latents kept, so that a step costs the U-Net alone.
    """

    def __init__(self) -> None:
        self._backbone: DiffusionBackbone | None = None
        self._kept: dict[str, Tensor] = {}

    def build(self, model: str, dataset: str, seed: int = 0) -> nn.Module:
        backbone = build_backbone(model)
        if not isinstance(backbone, LatentTiny):
            raise BenchError(f"Recipe denoise-latent trains latent models, and {model!r} is none.")
        load_shipped(backbone.autoencoder, "autoencoder_tiny")
        backbone.train()
        backbone.autoencoder.eval().requires_grad_(False)
        self._backbone, self._kept = backbone, {}
        return backbone

    def batch(self, data: Dataset, refs: Sequence[ClipRef]) -> tuple[Tensor, ...]:
        assert self._backbone is not None
        absent = [r for r in refs if r.id not in self._kept]
        if absent:
            clips = load_mixed(data, absent).to(next(self._backbone.parameters()).device)
            with torch.no_grad():
                latents = self._backbone.encode(clips).cpu()
            self._kept |= {r.id: z.half() for r, z in zip(absent, latents, strict=True)}
        return (torch.stack([self._kept[r.id] for r in refs]).float(),)
