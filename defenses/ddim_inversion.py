"""DDIM inversion: carry the clip up to a noise level without noise, and down again."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from bench import ClipRandom, register
from bench.diffusion.purifier import DiffusionPurifier
from bench.diffusion.sampling import Trajectory, denoise_ddim, invert_ddim


@register(
    "ddim_inversion",
    source="Jiang et al., VideoPure: Diffusion-based Adversarial Purification for Video Recognition, IEEE TCSVT 2025: "
    "the baseline DDIM Inversion; sampler: Song, Meng and Ermon, Denoising Diffusion Implicit Models, ICLR 2021",
)
class DDIMInversion(DiffusionPurifier):
    """Inverts the clip deterministically to a noisy latent and denoises that by DDIM. Nothing is random.

    The defaults are VideoPure's setting, but for the backbone.

    Args:
        backbone: a diffusion backbone: ``pixel_tiny``, ``latent_tiny``, ``image_tiny`` (shipped), ``modelscope``,
            ``stable_diffusion`` or ``guided_diffusion``.
        t_star: timestep of 1000 up to which the clip is carried.
        steps: network calls each way, spaced evenly between 1 and ``t_star``.
        weights: of a published backbone, a hub name or a folder in diffusers' layout.
        precision: of a published backbone's weights: fp32, fp16 or bf16.
    """

    def purify_latents(
        self, latents: Tensor, clips: Tensor, times: Sequence[int], rng: ClipRandom, path: Trajectory | None = None
    ) -> list[Tensor]:
        path = path or Trajectory()
        return [denoise_ddim(self.backbone, invert_ddim(self.backbone, latents, times, up=path.up), times, path.down)]
