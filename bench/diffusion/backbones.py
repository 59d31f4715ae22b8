"""Backbones by name: the shipped ones with their weights, the published ones from a hub or a folder."""

from __future__ import annotations

import functools
from collections.abc import Callable

from bench.diffusion.base import DiffusionBackbone
from bench.diffusion.tiny import ImageTiny, LatentTiny, PixelTiny
from bench.errors import BenchError, nearest
from bench.weights.places import GUIDED, only_looked_for, pipeline_place
from bench.weights.zoo import load_shipped

BACKBONES: dict[str, Callable[[], DiffusionBackbone]] = {
    "pixel_tiny": PixelTiny,
    "latent_tiny": LatentTiny,
    "image_tiny": ImageTiny,
}
"""Shipped with the package."""

PUBLISHED: dict[str, str] = {
    "modelscope": "damo-vilab/text-to-video-ms-1.7b",
    "stable_diffusion": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "guided_diffusion": "",
}
"""The usual name on the Hugging Face hub; empty if there is none."""

NAMES = (*BACKBONES, *PUBLISHED)
PRECISIONS = ("fp32", "fp16", "bf16")


def build_backbone(name: str) -> DiffusionBackbone:
    """Makes a shipped backbone without trained weights.

    Raises:
        BenchError: there is none of that name.
    """
    if name not in BACKBONES:
        raise BenchError(
            f"There is no shipped diffusion backbone {name!r}{nearest(name, BACKBONES)}; known: {', '.join(BACKBONES)}."
        )
    return BACKBONES[name]()


def load_backbone(name: str, weights: str = "", precision: str = "fp32") -> DiffusionBackbone:
    """A backbone with its weights, in evaluation mode and without weight gradients.

    The last published one is kept and shared: do not change it in place.

    Args:
        name: ``pixel_tiny``, ``latent_tiny`` or ``image_tiny``, shipped with the package, their checksums verified;
            ``modelscope``, ``stable_diffusion`` or ``guided_diffusion``, loaded by diffusers.
        weights: of a published one: a local folder in diffusers' layout or a name on the Hugging Face hub, which must
            have been downloaded (``bench fetch``); its usual hub name if empty.
        precision: of a published one's weights, ``fp32``, ``fp16`` or ``bf16``. Latents between its calls are fp32.

    Raises:
        BenchError: there is none of that name (the nearest is given), its weights are not on this machine, damaged or
            of another architecture, or a shipped backbone is asked for other weights or another precision.
    """
    if precision not in PRECISIONS:
        raise BenchError(f"There is no precision {precision!r}: choose one of {', '.join(PRECISIONS)}.")
    if name in PUBLISHED:
        hub = PUBLISHED[name]
        if not (weights or hub):
            raise BenchError(
                f"The backbone {name!r} has no usual place on a hub: give 'weights', OpenAI's file "
                f"{GUIDED}, a hub name or a folder in diffusers' layout."
            )
        place = pipeline_place(name, weights or hub)
        backbone = PixelTiny() if only_looked_for(place) else _shared(name, str(place), precision)
    elif name in BACKBONES:
        if weights or precision != "fp32":
            raise BenchError(f"The backbone {name!r} is shipped with its weights: leave 'weights' and 'precision' out.")
        backbone = BACKBONES[name]()
        load_shipped(backbone, name)
    else:
        raise BenchError(f"There is no diffusion backbone {name!r}{nearest(name, NAMES)}; known: {', '.join(NAMES)}.")
    return backbone.eval().requires_grad_(False)


@functools.lru_cache(maxsize=1)
def _shared(name: str, weights: str, precision: str) -> DiffusionBackbone:
    """One copy for all purifiers of a grid: these networks have a billion weights, which nobody changes."""
    from bench.diffusion.published import LOADERS  # imports transformers, which takes seconds

    return LOADERS[name](weights, precision)
