"""DiffPure: noise the clip, then let a diffusion model denoise it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from bench import ClipRandom, at_least, register
from bench.diffusion.purifier import DiffusionPurifier
from bench.diffusion.sampling import Trajectory, denoise_ddim, denoise_ddpm, denoise_sde, noise_to


class _DiffPure(DiffusionPurifier):
    """Noises the latents to ``t_star`` by one draw per clip and denoises them.

    Attributes:
        short_by: timesteps by which the noise falls short of those at which the network is asked.
    """

    stochastic = True
    short_by: int = 0

    def purify_latents(
        self, latents: Tensor, clips: Tensor, times: Sequence[int], rng: ClipRandom, path: Trajectory | None = None
    ) -> list[Tensor]:
        noisy = noise_to(self.backbone, latents, times[0], rng, short_by=self.short_by, below=times[1:], path=path)
        return [self.denoise(noisy, times, rng, path.down if path is not None else None)]

    @abstractmethod
    def denoise(self, noisy: Tensor, times: Sequence[int], rng: ClipRandom, down: dict[int, Tensor] | None) -> Tensor:
        """Latents at timestep ``times[0]`` to clean ones; those on the way go to ``down``, if given."""


@register(
    "diffpure_ddim",
    source="Nie et al., Diffusion Models for Adversarial Purification, ICML 2022, with the sampler of Song, Meng and "
    "Ermon, Denoising Diffusion Implicit Models, ICLR 2021; the baseline Diffpure_DDIM of Jiang et al., VideoPure: "
    "Diffusion-based Adversarial Purification for Video Recognition, IEEE TCSVT 2025",
)
class DiffPureDDIM(_DiffPure):
    """Noises the clip to a timestep and denoises it by deterministic DDIM steps; one random draw per clip.

    The defaults are VideoPure's setting, but for the backbone.

    Args:
        backbone: a diffusion backbone: ``pixel_tiny``, ``latent_tiny``, ``image_tiny`` (shipped), ``modelscope``,
            ``stable_diffusion`` or ``guided_diffusion``.
        t_star: timestep of 1000 to which the clip is noised.
        steps: network calls, spaced evenly from ``t_star`` to 1.
        weights: of a published backbone, a hub name or a folder in diffusers' layout.
        precision: of a published backbone's weights: fp32, fp16 or bf16.
    """

    def denoise(self, noisy: Tensor, times: Sequence[int], rng: ClipRandom, down: dict[int, Tensor] | None) -> Tensor:
        return denoise_ddim(self.backbone, noisy, times, down)


@register(
    "diffpure_ddpm",
    source="Nie et al., Diffusion Models for Adversarial Purification, ICML 2022, with the sampler of Ho, Jain and "
    "Abbeel, Denoising Diffusion Probabilistic Models, NeurIPS 2020; the baseline Diffpure_DDPM of Jiang et al., "
    "VideoPure: Diffusion-based Adversarial Purification for Video Recognition, IEEE TCSVT 2025",
)
class DiffPureDDPM(_DiffPure):
    """Noises the clip to a timestep and denoises it by ancestral sampling, with fresh noise at every step.

    The defaults are VideoPure's setting, but for the backbone: every timestep is visited. Fewer steps stride over
    timesteps and cost less.

    Args:
        backbone: a diffusion backbone: ``pixel_tiny``, ``latent_tiny``, ``image_tiny`` (shipped), ``modelscope``,
            ``stable_diffusion`` or ``guided_diffusion``.
        t_star: timestep of 1000 to which the clip is noised.
        steps: network calls, spaced evenly from ``t_star`` to 1.
        weights: of a published backbone, a hub name or a folder in diffusers' layout.
        precision: of a published backbone's weights: fp32, fp16 or bf16.
    """

    def __init__(
        self,
        backbone: str = "pixel_tiny",
        t_star: int = 101,
        steps: int = 101,
        weights: str = "",
        precision: Literal["fp32", "fp16", "bf16"] = "fp32",
    ) -> None:
        super().__init__(backbone, t_star, steps, weights, precision)

    def denoise(self, noisy: Tensor, times: Sequence[int], rng: ClipRandom, down: dict[int, Tensor] | None) -> Tensor:
        return denoise_ddpm(self.backbone, noisy, times, rng, down)


@register(
    "diffpure_sde",
    source="Nie et al., Diffusion Models for Adversarial Purification, ICML 2022, eq. 4 and 5, in pixel space",
)
class DiffPureSDE(_DiffPure):
    """Noises the clip to a timestep and solves the reverse-time SDE by Euler-Maruyama: DiffPure as first published.

    There the model is Guided Diffusion, frame by frame. The default is the setting for ImageNet (t* = 0.15 of 1);
    t* = 0.1, for CIFAR-10, is ``t_star=100, steps=100``. As in the authors' code, the noise is that of the
    timestep before, and the SDE is solved in continuous time, with steps of 1/1000 that end at 1e-5: see
    :func:`bench.diffusion.sampling.denoise_sde`.

    Args:
        backbone: a diffusion backbone: ``pixel_tiny``, ``latent_tiny``, ``image_tiny`` (shipped), ``modelscope``,
            ``stable_diffusion`` or ``guided_diffusion``.
        t_star: timestep of 1000 to which the clip is noised.
        steps: of the solver, spaced evenly from ``t_star`` to 1.
        weights: of a published backbone, a hub name or a folder in diffusers' layout.
        precision: of a published backbone's weights: fp32, fp16 or bf16.
    """

    short_by = 1

    def __init__(
        self,
        backbone: str = "pixel_tiny",
        t_star: int = 150,
        steps: int = 150,
        weights: str = "",
        precision: Literal["fp32", "fp16", "bf16"] = "fp32",
    ) -> None:
        super().__init__(backbone, t_star, steps, weights, precision)

    def denoise(self, noisy: Tensor, times: Sequence[int], rng: ClipRandom, down: dict[int, Tensor] | None) -> Tensor:
        return denoise_sde(self.backbone, noisy, times, rng, down)


# Timesteps and steps of the defences of these names.
_USUAL = {"ddim": (101, 6), "ddpm": (101, 101), "sde": (150, 150)}


@register(
    "diffpure_fixed",
    source="Liu et al., Towards Better Understanding of the Adversarial Robustness of Diffusion-Based Purification, "
    "arXiv 2404.14309: the deterministic white-box setting; Nie et al., Diffusion Models for Adversarial Purification, "
    "ICML 2022",
)
class DiffPureFixed(_DiffPure):
    """DiffPure whose noise is fixed beforehand and known to the attacker; nothing is random.

    Not a defence to deploy but a question to ask of one: how much of a randomised purifier's robustness is that the
    attacker cannot know the draw. All noise comes from one seed, the same for every clip and every call, so that what
    is attacked is what is judged.

    Args:
        sampler: ``ddim``, ``ddpm`` or ``sde``, as the defences of these names.
        seed: of all noise.
        backbone: a diffusion backbone: ``pixel_tiny``, ``latent_tiny``, ``image_tiny`` (shipped), ``modelscope``,
            ``stable_diffusion`` or ``guided_diffusion``.
        t_star: timestep of 1000 to which the clip is noised; the sampler's default if not given.
        steps: network calls, spaced evenly from ``t_star`` to 1; the sampler's default if not given.
        weights: of a published backbone, a hub name or a folder in diffusers' layout.
        precision: of a published backbone's weights: fp32, fp16 or bf16.
    """

    stochastic = False

    def __init__(
        self,
        sampler: Literal["ddim", "ddpm", "sde"] = "ddim",
        seed: int = 0,
        backbone: str = "pixel_tiny",
        t_star: int | None = None,
        steps: int | None = None,
        weights: str = "",
        precision: Literal["fp32", "fp16", "bf16"] = "fp32",
    ) -> None:
        if sampler not in _USUAL:
            raise ValueError(f"sampler must be one of {', '.join(_USUAL)}, not {sampler!r}")
        at_least("seed", seed, 0)
        start, count = _USUAL[sampler]
        super().__init__(
            backbone, start if t_star is None else t_star, count if steps is None else steps, weights, precision
        )
        self.sampler, self.seed = sampler, seed
        self.short_by = DiffPureSDE.short_by if sampler == "sde" else 0

    def purify_latents(
        self, latents: Tensor, clips: Tensor, times: Sequence[int], rng: ClipRandom, path: Trajectory | None = None
    ) -> list[Tensor]:
        return super().purify_latents(latents, clips, times, ClipRandom([self.seed] * len(latents)), path)

    def denoise(self, noisy: Tensor, times: Sequence[int], rng: ClipRandom, down: dict[int, Tensor] | None) -> Tensor:
        if self.sampler == "ddim":
            return denoise_ddim(self.backbone, noisy, times, down)
        sampled = denoise_ddpm if self.sampler == "ddpm" else denoise_sde
        return sampled(self.backbone, noisy, times, rng, down)
