"""Encoding and decoding alone: what a latent-space defence owes to its autoencoder."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from bench import ClipRandom, Purifier, register
from bench.diffusion.backbones import load_backbone


@register(
    "encode_decode",
    source="VideoRobustBench's own control for purifiers in latent space, such as Jiang et al., VideoPure: "
    "Diffusion-based Adversarial Purification for Video Recognition, IEEE TCSVT 2025",
)
class EncodeDecode(Purifier):
    """Sends the clip through a backbone's encoder and decoder, without any diffusion.

    A purifier in latent space can only take credit for what exceeds this row.

    Args:
        backbone: a diffusion backbone; of a pixel-space one, nothing is lost and nothing gained.
        weights: of a published backbone, a hub name or a folder in diffusers' layout.
        precision: of a published backbone's weights: fp32, fp16 or bf16.
    """

    def __init__(
        self, backbone: str = "latent_tiny", weights: str = "", precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    ) -> None:
        super().__init__()
        self.backbone = load_backbone(backbone, weights, precision)

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return self.backbone.decode(self.backbone.encode(clips))
