"""DiffPure: noise the clip, then let a diffusion model denoise it."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from bench import BenchError, ClipRandom, Purifier, register
from bench.diffusion.sampling import denoise_ddim, denoise_ddpm, noise_to
from bench.diffusion.schedule import timesteps
from bench.diffusion.shipped import load_backbone


class _DiffPure(Purifier):
    """Encode, noise to ``t_star``, denoise, decode. Differentiable from end to end, each network call checkpointed."""

    stochastic = True

    def __init__(self, backbone: str = "pixel_tiny", t_star: int = 100, steps: int = 5) -> None:
        super().__init__()
        if not all(isinstance(n, int) and not isinstance(n, bool) for n in (t_star, steps)):
            raise ValueError("t_star and steps must be whole numbers")
        self.backbone = load_backbone(backbone)
        last = len(self.backbone.alphas_cumprod) - 1
        if t_star > last:
            raise BenchError(f"The backbone {backbone!r} has timesteps up to {last}: t_star {t_star} is beyond them.")
        self.times = timesteps(t_star, steps)

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        noisy = noise_to(self.backbone, self.backbone.encode(clips), self.times[0], rng)
        return self.backbone.decode(self.denoise(noisy, rng))

    @abstractmethod
    def denoise(self, noisy: Tensor, rng: ClipRandom) -> Tensor:
        """Latents at timestep ``t_star`` to clean ones."""


@register(
    "diffpure_ddim",
    source="Nie et al., DiffPure, ICML 2022, with the sampler of Song et al., ICLR 2021; VideoPure's Diffpure_DDIM",
)
class DiffPureDDIM(_DiffPure):
    """Noises the clip to a timestep and denoises it by deterministic DDIM steps; one random draw per clip.

    ``t_star=101, steps=6`` is VideoPure's setting.

    Args:
        backbone: a diffusion backbone: ``pixel_tiny``, ``latent_tiny`` or ``image_tiny``.
        t_star: timestep of 1000 to which the clip is noised.
        steps: network calls, spaced evenly from ``t_star`` to 1.
    """

    def denoise(self, noisy: Tensor, rng: ClipRandom) -> Tensor:
        return denoise_ddim(self.backbone, noisy, self.times)


@register(
    "diffpure_ddpm",
    source="Nie et al., DiffPure, ICML 2022, with the sampler of Ho et al., NeurIPS 2020; VideoPure's Diffpure_DDPM",
)
class DiffPureDDPM(_DiffPure):
    """Noises the clip to a timestep and denoises it by ancestral sampling, with fresh noise at every step.

    ``t_star=101, steps=101`` (every timestep) is VideoPure's setting; fewer steps stride over timesteps.

    Args:
        backbone: a diffusion backbone: ``pixel_tiny``, ``latent_tiny`` or ``image_tiny``.
        t_star: timestep of 1000 to which the clip is noised.
        steps: network calls, spaced evenly from ``t_star`` to 1.
    """

    def denoise(self, noisy: Tensor, rng: ClipRandom) -> Tensor:
        return denoise_ddpm(self.backbone, noisy, self.times, rng)
