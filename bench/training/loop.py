"""One training loop; a recipe is an objective plus settings."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench.attack import Attack
from bench.budgets import Budget
from bench.dataset import Dataset
from bench.errors import BenchError, nearest
from bench.metrics import wilson
from bench.models.checkpoints import build_classifier, load_strictly, sha256_of
from bench.registry import ATTACKS, DATASETS, Spec
from bench.seeds import ClipRandom, seed_of


@dataclass(frozen=True)
class Recipe:
    """Settings of the loop: AdamW, linear warm-up, linear decay to zero, cross-entropy.

    Attributes:
        steps, batch: optimiser steps and clips per step.
        lr, weight_decay, warmup: of AdamW; warm-up in steps.
        clip_norm: largest gradient norm.
    """

    name: str
    steps: int = 400
    batch: int = 24
    lr: float = 2e-3
    weight_decay: float = 0.02
    warmup: int = 20
    clip_norm: float = 5.0


RECIPES: dict[str, Recipe] = {"standard": Recipe("standard")}


@dataclass(frozen=True)
class TrainingState:
    """Where a training stands, for a progress display; ``seconds`` spent so far, earlier sittings included."""

    step: int
    steps: int
    loss: float
    accuracy: float
    seconds: float


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
        recipe = Recipe(**{**asdict(recipe), "steps": steps})
    return recipe


def _batches(data: Dataset, recipe: Recipe, seed: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches ``first`` and on: a new random order of the split each epoch, loaded one batch ahead."""
    refs = data.refs()
    if len(refs) < recipe.batch:
        raise BenchError(f"The training split holds {len(refs)} clips, fewer than one batch of {recipe.batch}.")
    per_epoch = len(refs) // recipe.batch

    def batch(step: int) -> tuple[Tensor, Tensor]:
        epoch, at = divmod(step, per_epoch)
        generator = torch.Generator().manual_seed(seed_of("epoch", seed, epoch))
        order = torch.randperm(len(refs), generator=generator)[at * recipe.batch : (at + 1) * recipe.batch]
        chosen = [refs[int(i)] for i in order]
        return torch.stack([data.load(r) for r in chosen]), torch.tensor([r.label for r in chosen])

    if first >= recipe.steps:
        return
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(batch, first)
        for step in range(first, recipe.steps):
            ready, ahead = ahead.result(), pool.submit(batch, min(step + 1, recipe.steps - 1))
            yield ready


def train(
    model_name: str,
    dataset_name: str,
    recipe: Recipe,
    *,
    seed: int,
    work: Path,
    device: torch.device,
    report: Callable[[TrainingState], None],
    save_every: int = 50,
) -> nn.Module:
    """Trains a registered classifier on the ``train`` split of a data set, resuming where it stopped.

    Args:
        work: folder of the training state; a state of the same settings found there is continued.
        report: called after each step.

    Raises:
        BenchError: a name is unknown, or the state in ``work`` belongs to other settings.
    """
    model = build_classifier(Spec.parse(model_name), None).to(device).train().requires_grad_(True)
    # A data set that is rendered on demand has as many training clips as the training can use.
    rendered = any(p.name == "length" for p in DATASETS.get(dataset_name).parameters)
    length = {"length": recipe.steps * recipe.batch} if rendered else {}
    data: Dataset = DATASETS.create(Spec(dataset_name, {"split": "train", **length}))
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda s: min(1.0, (s + 1) / recipe.warmup) * (1 - s / recipe.steps)
    )
    settings = {"model": model_name, "dataset": dataset_name, "seed": seed, **asdict(recipe)}
    state_file, first, accuracy, earlier = work / "state.pt", 0, 0.0, 0.0
    if state_file.is_file():
        state = torch.load(state_file, map_location=device, weights_only=True)
        if state["settings"] != settings:
            raise BenchError(f"{state_file} holds a training with other settings: give another --work or delete it.")
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        first, accuracy, earlier = state["step"], state["accuracy"], state["seconds"]
        report(TrainingState(first, recipe.steps, math.nan, accuracy, earlier))
    work.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    for step, (clips, labels) in enumerate(_batches(data, recipe, seed, first), start=first):
        logits = model(clips.to(device))
        labels = labels.to(device)
        loss = F.cross_entropy(logits, labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimiser.step()
        schedule.step()
        right = float((logits.detach().argmax(1) == labels).float().mean())
        accuracy = right if step == 0 else 0.95 * accuracy + 0.05 * right
        seconds = earlier + time.monotonic() - begun
        report(TrainingState(step + 1, recipe.steps, float(loss.detach()), accuracy, seconds))
        if (step + 1) % save_every == 0 or step + 1 == recipe.steps:
            partial = state_file.with_suffix(".part")
            torch.save(
                {
                    "settings": settings,
                    "step": step + 1,
                    "accuracy": accuracy,
                    "seconds": seconds,
                    "model": model.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "schedule": schedule.state_dict(),
                },
                partial,
            )
            partial.replace(state_file)
    return model.eval().requires_grad_(False)


def export(
    model: nn.Module,
    model_name: str,
    dataset_name: str,
    recipe: Recipe,
    *,
    seed: int,
    seconds: float,
    out: Path,
    device: torch.device,
    clean_clips: int = 600,
    attacked_clips: int = 96,
) -> dict[str, Any]:
    """Writes the weights as half-precision safetensors, measures *that file* on test clips, and adds its
    entry to ``manifest.json`` in ``out``.

    Returns:
        The manifest entry.
    """
    out.mkdir(parents=True, exist_ok=True)
    name = f"{model_name}-{dataset_name}.safetensors"
    weights = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file({k: v.cpu().contiguous() for k, v in weights.items()}, out / name)
    load_strictly(model, load_file(out / name), out / name)

    data: Dataset = DATASETS.create(Spec(dataset_name, {"split": "test"}))
    refs = data.refs()[:clean_clips]
    correct = 0
    for start in range(0, len(refs), 24):
        chunk = refs[start : start + 24]
        clips = torch.stack([data.load(r) for r in chunk]).to(device)
        with torch.no_grad():
            predicted = model(clips).argmax(1).cpu()
        correct += int((predicted == torch.tensor([r.label for r in chunk])).sum())
    attack: Attack = ATTACKS.create("pgd")
    survived = 0
    attacked = refs[:attacked_clips]
    for start in range(0, len(attacked), 24):
        chunk = attacked[start : start + 24]
        clips = torch.stack([data.load(r) for r in chunk]).to(device)
        labels = torch.tensor([r.label for r in chunk], device=device)
        rng = ClipRandom.for_clips([r.id for r in chunk], "export", seed)
        adversarial = attack(model, clips, labels, Budget(), rng).clips
        with torch.no_grad():
            survived += int((model(adversarial).argmax(1) == labels).sum())

    def figure(hits: int, total: int) -> dict[str, Any]:
        low, high = wilson(hits, total)
        return {
            "accuracy": round(100 * hits / total, 2),
            "interval": [round(100 * low, 2), round(100 * high, 2)],
            "clips": total,
        }

    entry = {
        "model": model_name,
        "dataset": dataset_name,
        "sha256": sha256_of(out / name),
        "recipe": asdict(recipe),
        "seed": seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "precision": "float16",
        "hardware": f"{platform.machine()}, {torch.get_num_threads()} threads"
        if device.type == "cpu"
        else torch.cuda.get_device_name(device),
        "minutes": round(seconds / 60, 1),
        "torch": torch.__version__.split("+")[0],
        "command": f"bench train --model {model_name} --dataset {dataset_name} --recipe {recipe.name} "
        f"--steps {recipe.steps} --seed {seed} --out bench/zoo",
        "figures": {"clean": figure(correct, len(refs)), "pgd10_linf_4_255": figure(survived, len(attacked))},
    }
    file = out / "manifest.json"
    entries = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    entries[name] = entry
    file.write_text(json.dumps(dict(sorted(entries.items())), indent=2) + "\n", encoding="utf-8")
    return entry


def default_work(model: str, dataset: str, recipe: Recipe, seed: int) -> Path:
    """Folder of a training's state when the user names none."""
    return Path("runs") / "train" / f"{model}-{dataset}-{recipe.name}-{recipe.steps}-{seed}"
