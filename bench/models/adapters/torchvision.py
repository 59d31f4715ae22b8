"""``torchvision:NAME``: the video classifiers of torchvision (torchvision.models.video)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bench.data.base import Missing
from bench.errors import BenchError, nearest
from bench.models.adapters._wrapped import Factory, Wrapped
from bench.models.base import build_seeded
from bench.weights.files import load_checkpoint, load_strictly
from bench.weights.places import MissingFiles, torchvision_file

# Networks that take clips of one length alone, and those trained with 16 frames.
_FRAMES = {"mvit_v1_b": 16, "mvit_v2_s": 16}


def factory(name: str) -> Factory:
    """The factory of one of torchvision's video networks.

    Raises:
        BenchError: torchvision has none of that name.
    """
    from torchvision.models import get_model, get_model_weights, list_models, video

    known = list_models(module=video)
    if name not in known:
        raise BenchError(
            f"torchvision has no video classifier {name!r}{nearest(name, known)}; it has: {', '.join(known)}."
        )

    def make(num_classes: int = 400, weights: str | None = None, seed: int = 0, options: Any = None) -> Wrapped:
        """A video classifier of torchvision, which sees what its published weights were evaluated on.

        Args:
            num_classes: rows of the final layer.
            weights: torchvision's name of published weights, such as KINETICS400_V1; random ones if not given.
            seed: of random weights.
            options: further arguments of torchvision's builder, as a mapping.
        """
        preset: Any = get_model_weights(name).DEFAULT.transforms()
        network: Any = build_seeded(lambda: get_model(name, num_classes=num_classes, **(options or {})), seed)
        if weights is not None:
            place = torchvision_file(name, weights)
            if isinstance(place, Missing):
                url = str(get_model_weights(name)[weights].url)
                raise MissingFiles([replace(place, get=url, licence="BSD-3-Clause (torchvision)")])
            preset = get_model_weights(name)[weights].transforms()
            load_strictly(network, load_checkpoint(place), place)
            network.class_names = tuple(get_model_weights(name)[weights].meta["categories"])
        return Wrapped(
            network,
            mean=preset.mean,
            std=preset.std,
            size=preset.crop_size,
            resize=preset.resize_size,
            frames=_FRAMES.get(name),
            antialias=False,
        )

    return make
