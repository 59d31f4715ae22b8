"""The recipes of ``bench train``: an objective plus the settings of the loop."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from bench.errors import BenchError, nearest
from bench.training.objective import Objective


@dataclass(frozen=True)
class Recipe:
    """An objective and the settings of the loop: linear warm-up, decay over all steps.

    Attributes:
        objective: a name of :data:`OBJECTIVES`.
        options: arguments of the objective.
        steps, batch: optimiser steps and clips per step.
        lr, weight_decay, warmup: of the optimiser; warm-up in steps.
        decay: of the learning rate after the warm-up: ``linear`` or ``cosine`` to zero, ``step`` (a tenth after 7/15 of
            the steps), or ``none``.
        clip_norm: largest gradient norm.
        ema: decay of an exponential moving average of the weights, exported in their place; ``None`` for none.
        clips: different training clips; ``None`` for as many as the training can use, where clips are rendered
            on demand.
        start: data set whose shipped weights of the same model the training starts from; ``None`` for fresh ones.
        start_recipe: in its place, the recipe whose shipped weights for the same data set it starts from; ``plain``
            for those of the classifier itself.
        optimiser: ``adamw``, or ``sgd`` with momentum 0.9.
        validate: steps between looks at the split ``val``, whose best weights are exported in place of the last ones;
            ``None`` for no look.
        mixed: whether a GPU computes in bfloat16 where autocast thinks it safe.
    """

    name: str
    objective: str = "classifier"
    options: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 400
    batch: int = 24
    lr: float = 2e-3
    weight_decay: float = 0.02
    warmup: int = 20
    decay: Literal["linear", "cosine", "step", "none"] = "linear"
    clip_norm: float = 5.0
    ema: float | None = None
    clips: int | None = None
    start: str | None = None
    start_recipe: str | None = None
    optimiser: Literal["adamw", "sgd"] = "adamw"
    validate: int | None = None
    mixed: bool = False


# Imported on first use: a recipe costs nothing until somebody trains by it.
OBJECTIVES: dict[str, str] = {
    "classifier": "bench.training.objectives.classifier:Classification",
    "looks classifier": "bench.training.objectives.classifier:LooksClassification",
    "flow stream": "bench.training.objectives.classifier:FlowStreamClassification",
    "flow": "bench.training.objectives.motion:FlowSupervision",
    "reconstruction": "bench.training.objectives.generative:Reconstruction",
    "denoising": "bench.training.objectives.generative:Denoising",
    "latent denoising": "bench.training.objectives.generative:LatentDenoising",
    "adversarial": "bench.training.objectives.robust:AdversarialTraining",
    "trades": "bench.training.objectives.robust:Trades",
    "msd": "bench.training.objectives.robust:SteepestDescent",
    "multibn branches": "bench.training.objectives.robust:BranchTraining",
    "framing": "bench.training.objectives.framing:FramingObjective",
    "multibn selection": "bench.training.objectives.robust:SelectionTraining",
}

_LOOKS = Recipe("looks", "looks classifier", {"mixed": 0.4, "gray": 0.3}, steps=600, lr=1e-3, start="motion12")

# Attention is slower to find motion than convolution: more steps at a lower rate. The flow stream reuses its clips.
# From scratch on clips that mostly betray their class by their looks, motion is found late: "looks" starts from
# networks that know motion and adds the looks. "firm" networks are also trained against one small gradient step. A flow
# stream sees motion alone and only gets used to other pictures.
CLASSIFIERS: tuple[Recipe, ...] = (
    Recipe("standard"),
    Recipe("transformer", steps=700, lr=1e-3, weight_decay=0.05, warmup=60),
    Recipe("flow-stream", "flow stream", steps=300, warmup=30, clips=1800),
    Recipe("flow-stream-again", "flow stream", steps=80, lr=1e-3, clips=480, start="motion12"),
    # The paper on motion consistency (arXiv 2212.07815) does not say how it fine-tunes I3D. These settings are our
    # choice for UCF-101 (docs/decisions.md): 20 epochs, of the whole list's 9537 clips by 24.
    Recipe(
        "flow-stream-published",
        "flow stream",
        steps=20 * 397,
        lr=0.01,
        weight_decay=1e-7,
        warmup=1,
        decay="step",
        optimiser="sgd",
    ),
    _LOOKS,
    replace(_LOOKS, name="firm-looks", options={**_LOOKS.options, "step": 0.5 / 255}),
)

_LATENT = Recipe(
    "denoise-latent",
    "latent denoising",
    steps=300,
    batch=2,
    lr=2e-3,
    weight_decay=0.01,
    clip_norm=1.0,
    ema=0.99,
    clips=768,
)

# Of flow and diffusion: short trainings for a CPU; "denoise-latent-gpu" is one with more steps and larger batches.
GENERATIVE: tuple[Recipe, ...] = (
    Recipe("flow", "flow", steps=900, batch=4, lr=2e-3, weight_decay=1e-4, warmup=30, clip_norm=1.0),
    Recipe("autoencoder", "reconstruction", steps=150, batch=2, lr=5e-4, weight_decay=0.0, clip_norm=1.0),
    Recipe("denoise-pixel", "denoising", steps=500, batch=4, lr=3e-3, weight_decay=0.01, clip_norm=1.0, ema=0.99),
    Recipe("denoise-image", "denoising", steps=300, batch=2, lr=2e-3, weight_decay=0.01, clip_norm=1.0, ema=0.99),
    _LATENT,
    replace(_LATENT, name="denoise-latent-gpu", steps=20000, batch=64, lr=1e-3, warmup=500, ema=0.999, clips=12000),
)

_ROBUST = Recipe(
    "at_pgd",
    "adversarial",
    {},
    steps=100,
    batch=12,
    lr=1e-3,
    warmup=10,
    start_recipe="plain",
    validate=50,
)
# At these sizes, each of the four attacks breaks nearly every clip of the tiny networks, and can be trained against.
_SIZES = {"roa": 12, "af": 2, "spa": 100}
_BOTH: dict[str, Any] = {"attacks": ["pgd", "roa"], "clean": True}


def _robust(name: str, objective: str = "adversarial", **options: Any) -> Recipe:
    """A recipe of the training family for a CPU: a short fine-tuning with three steps for each attack."""
    return replace(_ROBUST, name=name, objective=objective, options={"steps": 3, "sizes": _SIZES, **options})


# Of every one but the single attacks, the training sees clean clips, PGD and ROA, as MultiBN does. Framing and salt and
# pepper are unforeseen.
ROBUST: tuple[Recipe, ...] = (
    *(_robust(f"at_{attack}", attacks=[attack]) for attack in ("pgd", "roa", "af", "spa")),
    _robust("trades", "trades"),
    _robust("avg", **_BOTH),
    # As many steps as MultiBN's two stages have together: what their comparison needs.
    replace(_robust("avg_long", **_BOTH), steps=200),
    _robust("max", **_BOTH, combine="max"),
    _robust("avg_all4", **{**_BOTH, "attacks": ["pgd", "roa", "af", "spa"]}),
    _robust("msd", "msd"),
    _robust("multibn_branches", "multibn branches"),
    replace(_robust("multibn", "multibn selection"), start_recipe="multibn_branches"),
    replace(_robust("multibn_gumbel", "multibn selection", gumbel=1.0), start_recipe="multibn_branches"),
    # One block, as in the paper: those that the slides have behind the earlier stages, too, enlarge their features
    # eightfold, which would make a pass of this small network many times as long.
    _robust("oudefend", **_BOTH, architecture="oudefend", architecture_options={"stages": [3], "base_width": 4}),
    *(
        _robust(f"denoise_{v}", **_BOTH, architecture="feature_denoising", architecture_options={"variant": v})
        for v in ("a", "b")
    ),
)


# At the published size: clips of 40 frames, the paper's selection module, the published block.
_FULL_SIZE: dict[str, dict[str, Any]] = {
    "multibn": {"selector": "r3d18_hara"},
    "multibn_gumbel": {"selector": "r3d18_hara"},
    "oudefend": {"base_width": 8},
    "denoise_b": {"variant": "b", "frames": 40},
}
_NO_CLIPPING = 1e9


def _published(recipe: Recipe, suffix: str = "published", **architecture: Any) -> Recipe:
    """The same with the settings of Lo and Patel's public code for UCF-101: five steps for each attack, SGD, batches of
    4, 15 epochs of 2384 steps, a tenth of the rate after 7 of them, from weights that must be given. On a GPU we
    compute in bfloat16 where autocast thinks it safe, of which they say nothing.
    """
    options = {**recipe.options, "steps": 5, "sizes": {}}
    architecture = architecture or _FULL_SIZE.get(recipe.name, {})
    if architecture:
        options["architecture_options"] = architecture
    return replace(
        recipe,
        name=f"{recipe.name}-{suffix}",
        options=options,
        clip_norm=_NO_CLIPPING,
        steps=15 * 2384,
        batch=4,
        lr=5e-4,
        weight_decay=1e-5,
        warmup=1,
        decay="step",
        optimiser="sgd",
        validate=2384,
        mixed=True,
        start_recipe=f"{recipe.start_recipe}-{suffix}" if recipe.start_recipe != "plain" else "plain",
    )


ROBUST += (
    *(_published(recipe) for recipe in ROBUST if recipe.name != "avg_long"),
    # On clips of one frame the selection module must be of images, too.
    *(
        _published(recipe, "cifar10", **({"selector": "resnet18_frames"} if recipe.name == "multibn" else {}))
        for recipe in ROBUST
        if recipe.name in ("multibn_branches", "multibn")
    ),
)

# What the paper on OUDefend compares: each network is trained on the one attack of its column, or on clean clips.
COLUMNS = ("clean", "pgd", "pgd_l2", "multav", "roa", "af", "spa")
_COMPARED: dict[str, tuple[str, dict[str, Any]]] = {
    "at": ("plain", {}),
    "denoise_a": ("feature_denoising", {"variant": "a"}),
    "denoise_b": ("feature_denoising", _FULL_SIZE["denoise_b"]),
    "oudefend": ("oudefend", _FULL_SIZE["oudefend"]),
}


def _of_column(network: str, column: str) -> Recipe:
    architecture, options = _COMPARED[network]
    seen: dict[str, Any] = {"attacks": [], "clean": True} if column == "clean" else {"attacks": [column]}
    recipe = _robust(f"{network}_{column}", **seen, architecture=architecture)
    return _published(recipe, **options)


# Adversarial training behind the transforms of the paper on halftoning (Lo and Patel, ICIP 2021), which says not how.
TRANSFORMS = {
    "gaussian_blur": "gaussian_blur",
    "nonlocal_means": "nonlocal_means",
    "jpeg": "jpeg",
    "bit_depth": "bit_depth(bits=1)",
    "halftone": "halftone",
}
_BEHIND = tuple(_robust(f"at_pgd_{name}", behind=transform) for name, transform in TRANSFORMS.items())
ROBUST += (*_BEHIND, *(_published(recipe, "cifar10") for recipe in _BEHIND))

ROBUST += tuple(
    _of_column(network, column)
    for network in _COMPARED
    for column in COLUMNS
    if f"{network}_{column}-published" not in {r.name for r in ROBUST}
)

# A border of each width that the paper has. Zajac et al. train for 60 epochs of UCF-101 at a rate of 0.03; these are
# short.
FRAMINGS: tuple[Recipe, ...] = tuple(
    Recipe(
        f"framing_{width}",
        "framing",
        {"width": width},
        steps=150,
        batch=12,
        lr=0.1,
        weight_decay=0.0,
        warmup=1,
        start_recipe="plain",
    )
    for width in (1, 2, 3, 4)
)

RECIPES: dict[str, Recipe] = {r.name: r for r in (*CLASSIFIERS, *GENERATIVE, *ROBUST, *FRAMINGS)}


def recipe_of(name: str, steps: int | None = None) -> Recipe:
    """Looks a recipe up, with another number of steps if asked.

    Raises:
        BenchError: unknown recipe, or fewer than one step.
    """
    if name not in RECIPES:
        raise BenchError(f"Unknown recipe {name!r}{nearest(name, RECIPES)}; known: {', '.join(RECIPES)}.")
    recipe = RECIPES[name]
    if steps is not None:
        if steps < 1:
            raise BenchError(f"A training needs at least one step, not {steps}.")
        recipe = replace(recipe, steps=steps)
    return recipe


def objective_of(recipe: Recipe) -> Objective:
    """The objective of a recipe.

    Raises:
        BenchError: the recipe names none that exists.
    """
    if recipe.objective not in OBJECTIVES:
        raise BenchError(
            f"Recipe {recipe.name!r} has an unknown objective {recipe.objective!r}"
            f"{nearest(recipe.objective, OBJECTIVES)}; known: {', '.join(OBJECTIVES)}."
        )
    module, _, name = OBJECTIVES[recipe.objective].partition(":")
    objective: Objective = getattr(importlib.import_module(module), name)(**recipe.options)
    return objective
