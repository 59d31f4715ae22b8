"""``timm:NAME``: an image network of timm (Wightman, PyTorch Image Models, 2019), asked about each frame."""

from __future__ import annotations

import importlib
from typing import Any

from bench.errors import BenchError, nearest
from bench.models.adapters._wrapped import Factory, Wrapped
from bench.models.base import build_seeded


def factory(name: str) -> Factory:
    """The factory of one of timm's networks.

    Raises:
        BenchError: timm is not installed, or has none of that name.
    """
    try:
        timm: Any = importlib.import_module("timm")
    except ImportError as error:
        raise BenchError(
            f"timm:{name} needs the library timm: pip install 'videorobustbench[timm]' ({error})."
        ) from error
    if not timm.is_model(name):
        raise BenchError(f"timm has no network {name!r}{nearest(name, timm.list_models())}.")

    def make(num_classes: int = 1000, seed: int = 0, options: Any = None) -> Wrapped:
        """An image network of timm; the logits of all frames are averaged.

        Args:
            num_classes: rows of the final layer.
            seed: of random weights, where no checkpoint is given.
            options: further arguments of timm.create_model, as a mapping.
        """
        network = build_seeded(
            lambda: timm.create_model(name, pretrained=False, num_classes=num_classes, **(options or {})), seed
        )
        config = timm.data.resolve_model_data_config(network)
        _, height, width = config["input_size"]
        cut = config.get("crop_pct") or 1.0
        return Wrapped(
            network,
            mean=config["mean"],
            std=config["std"],
            size=(height, width),
            resize=int(min(height, width) / cut),
            layout="frames",
            interpolation="bicubic" if config.get("interpolation") == "bicubic" else "bilinear",
        )

    return make
