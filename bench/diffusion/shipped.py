"""Backbones by name, with their weights."""

from __future__ import annotations

from collections.abc import Callable

from bench.diffusion.base import DiffusionBackbone
from bench.diffusion.tiny import ImageTiny, LatentTiny, PixelTiny
from bench.errors import BenchError, nearest
from bench.models.checkpoints import load_shipped

BACKBONES: dict[str, Callable[[], DiffusionBackbone]] = {
    "pixel_tiny": PixelTiny,
    "latent_tiny": LatentTiny,
    "image_tiny": ImageTiny,
}


def build_backbone(name: str) -> DiffusionBackbone:
    """Makes a backbone without trained weights.

    Raises:
        BenchError: there is none of that name.
    """
    if name not in BACKBONES:
        raise BenchError(
            f"There is no diffusion backbone {name!r}{nearest(name, BACKBONES)}; known: {', '.join(BACKBONES)}."
        )
    return BACKBONES[name]()


def load_backbone(name: str) -> DiffusionBackbone:
    """A shipped backbone with its weights, checksum verified, in evaluation mode and without weight gradients.

    Raises:
        BenchError: there is none of that name (the nearest is given), or its file is absent or damaged.
    """
    backbone = build_backbone(name)
    load_shipped(backbone, name)
    return backbone.eval().requires_grad_(False)
