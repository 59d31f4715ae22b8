"""Robust networks: what the training family turns a classifier into, and those of them that are shipped."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from bench.errors import BenchError, nearest
from bench.models.base import build_seeded
from bench.models.blocks import FeatureDenoising, OUDefend, insert, stages_of
from bench.models.multibn import BRANCHES, MultiBN
from bench.registry import MODELS, Spec, register
from bench.weights.zoo import build_classifier, manifest


def plain(classifier: nn.Module, seed: int = 0) -> nn.Module:
    """The classifier itself: adversarial training changes its weights alone."""
    return classifier


def multibn(
    classifier: nn.Module, seed: int = 0, selector: str = "resnet3d_tiny", shortcuts: bool = False, select: str = "soft"
) -> MultiBN:
    """Branches of batch normalisation and a selection module, see :class:`~bench.models.multibn.MultiBN`.

    Args:
        selector: registered model that selects; Lo and Patel (IEEE TIP 2022) take a 3D ResNet-18. ``none`` for branches
            chosen by hand.
        shortcuts, select: see :class:`~bench.models.multibn.MultiBN`.
    """
    chooser = None
    if selector != "none":
        takes = {p.name for p in MODELS.get(selector).parameters}
        params = {"num_classes": len(BRANCHES), **({"seed": seed} if "seed" in takes else {})}
        chooser = build_classifier(Spec(selector, params), None)
    return MultiBN(classifier, chooser, shortcuts, select)


def oudefend(classifier: nn.Module, seed: int = 0, stages: Sequence[int] = (), base_width: int = 8) -> nn.Module:
    """An OUDefend block behind stages of a 3D ResNet; the depth of each follows from its stage, 4 less its number.

    Args:
        stages: numbers of the stages, from 1; all of them if empty, as on the slides. The paper and its code have one
            block, behind the third stage (conv4).
        base_width: see :class:`~bench.models.blocks.OUDefend`.
    """
    names = [f"layer{number}" for number in stages] or stages_of(classifier)

    def build() -> nn.Module:
        depths = iter(max(0, 4 - int(name.removeprefix("layer"))) for name in names)
        return insert(classifier, names, lambda c, t: OUDefend(c, base_width, next(depths)), _sample())

    return build_seeded(build, seed)


def feature_denoising(
    classifier: nn.Module, seed: int = 0, variant: Any = "a", frames: int = 16, zero_init: bool = True
) -> nn.Module:
    """A denoising block behind every stage of a 3D ResNet, see :class:`~bench.models.blocks.FeatureDenoising`.

    Args:
        frames: of the clips; only variant ``b`` depends on it.
    """

    def build() -> nn.Module:
        return insert(
            classifier,
            stages_of(classifier),
            lambda c, t: FeatureDenoising(c, variant, t, zero_init),
            _sample(frames),
        )

    return build_seeded(build, seed)


def _sample(frames: int = 16) -> torch.Tensor:
    """A clip that tells what size a stage's features have; its height and width do not matter."""
    return torch.zeros(1, 3, frames, 64, 64)


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "plain": plain,
    "multibn": multibn,
    "oudefend": oudefend,
    "feature_denoising": feature_denoising,
}
"""What a recipe may turn a classifier into, in place: functions of the classifier, a seed and options."""


def rebuilt(architecture: str, classifier: nn.Module, seed: int, options: Mapping[str, Any]) -> nn.Module:
    """A classifier turned into a robust network, with its own weights and, for what is added, seeded ones.

    Raises:
        BenchError: there is no such architecture, or the classifier cannot be turned into it.
    """
    if architecture not in ARCHITECTURES:
        raise BenchError(
            f"Unknown architecture {architecture!r}{nearest(architecture, ARCHITECTURES)}; known: "
            f"{', '.join(ARCHITECTURES)}."
        )
    return ARCHITECTURES[architecture](copy.deepcopy(classifier), seed, **options)


def entry_name(model: str, recipe: str) -> str:
    """Name under which a trained robust network is registered."""
    return f"{model}_{recipe}"


def _registered(entry: Mapping[str, Any]) -> None:
    """Makes one trained network a model like any other."""

    def build(num_classes: int = 12, seed: int = 0) -> nn.Module:
        takes = {p.name for p in MODELS.get(entry["base"]).parameters}
        known = {"num_classes": num_classes, "seed": seed}
        base = build_classifier(Spec(entry["base"], {k: v for k, v in known.items() if k in takes}), None)
        return rebuilt(entry["architecture"], base, seed, entry["architecture_options"])

    build.__doc__ = (
        f"``{entry['base']}``, trained by recipe ``{entry['recipe']['name']}``; docs/training.md says how.\n\n"
        "Args:\n    num_classes: rows of the final layer.\n    seed: of the initial weights."
    )
    build.__qualname__ = f"robust.{entry['model']}"
    fixed = {key: entry[key] for key in ("base", "architecture", "architecture_options")}
    register(entry["model"], kind="model", source=entry["source"], fixed=fixed)(build)


for _name in sorted({e["model"]: e for e in manifest().values() if e["kind"] == "robust"}.items()):
    _registered(_name[1])
