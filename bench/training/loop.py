"""One training loop; a recipe is an objective plus settings."""

from __future__ import annotations

import json
import math
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench.data.base import Dataset
from bench.errors import BenchError
from bench.files import replacing
from bench.models.base import build_seeded
from bench.models.robust import entry_name
from bench.registry import DATASETS, MODELS, Spec
from bench.seeds import seed_of
from bench.training.curve import Curve
from bench.training.data import split_of
from bench.training.objective import Objective
from bench.training.objectives.classifier import Classification
from bench.training.recipes import Recipe, objective_of
from bench.weights.files import load_checkpoint, load_strictly, sha256_of
from bench.weights.zoo import zoo_file


@dataclass(frozen=True)
class TrainingState:
    """Where a training stands, for a progress display.

    Attributes:
        step, steps: done, and to do in all.
        loss: of the last batch; ``nan`` right after resuming.
        figures: the objective's figures, running means over about 20 steps.
        seconds: spent so far, earlier sittings included.
    """

    step: int
    steps: int
    loss: float
    figures: Mapping[str, float]
    seconds: float


class _Average:
    """Exponential moving average of a network's floating-point state; what is counted is copied.

    The decay starts low and rises to its value, ``min(decay, (1 + n) / (10 + n))`` after ``n`` updates, so that
    the initial weights are forgotten even in a short training.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.state = {k: v.detach().clone() for k, v in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        self.updates += 1
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, 1 - keep)
            else:
                self.state[name].copy_(value)


def _rate(recipe: Recipe, step: int) -> float:
    """Factor of the learning rate at a step."""
    part = step / recipe.steps
    decay = {
        "linear": 1 - part,
        "cosine": 0.5 * (1 + math.cos(math.pi * part)),
        "step": 1.0 if part < 7 / 15 else 0.1,
        "none": 1.0,
    }[recipe.decay]
    return min(1.0, (step + 1) / max(1, recipe.warmup)) * decay


def _start_file(model: str, dataset: str, recipe: Recipe) -> Path | None:
    """The shipped weights that a recipe starts from; ``None`` if it starts afresh.

    Raises:
        BenchError: no such weights are shipped.
    """
    if recipe.start is None and recipe.start_recipe is None:
        return None
    model, dataset = Spec.parse(model).name, Spec.parse(dataset).name
    name, where = model, recipe.start or dataset
    if recipe.start_recipe not in (None, "plain"):
        name = entry_name(model, str(recipe.start_recipe))
    file = zoo_file(name, where)
    if file is None:
        how = f" by recipe {recipe.start_recipe}" if name != model else ""
        raise BenchError(
            f"Recipe {recipe.name!r} starts from weights of {model!r} trained on {where}{how}, and none are shipped: "
            f"train {model!r} on {where} first{how}, with --out bench/zoo (docs/zoo.md has the recipes), or "
            "give a file with --start."
        )
    return file


def with_new_head(state: Mapping[str, Tensor], model: str, dataset: str, seed: int, path: Path) -> dict[str, Tensor]:
    """Weights of a classifier whose final layer is replaced by a fresh one, for another number of classes.

    Raises:
        BenchError: more than one layer has another shape.
    """
    own = build_seeded(lambda: Classification().build(model, dataset, seed), seed_of("head", seed)).state_dict()
    other = {k: own[k] for k, v in state.items() if k in own and own[k].shape != v.shape}
    layers = {k.rpartition(".")[0] for k in other}
    if len(layers) > 1:
        raise BenchError(
            f"{path} differs from {model} in more than its final layer ({', '.join(sorted(layers))}): give weights of "
            "the same architecture."
        )
    return {**state, **other}


def _training_clips(dataset: str, recipe: Recipe) -> Dataset:
    # A data set that is rendered on demand has as many training clips as the training can use.
    rendered = any(p.name == "length" for p in DATASETS.get(Spec.parse(dataset).name).parameters)
    length = {"length": recipe.clips or recipe.steps * recipe.batch} if rendered else {}
    return split_of(dataset, "train", **length)


def _batches(
    data: Dataset, objective: Objective, recipe: Recipe, seed: int, first: int
) -> Iterator[tuple[Tensor, ...]]:
    """Batches ``first`` and on: a new random order of the split each epoch, loaded one batch ahead."""
    refs = data.refs()
    if len(refs) < recipe.batch:
        raise BenchError(f"The training split holds {len(refs)} clips, fewer than one batch of {recipe.batch}.")
    per_epoch = len(refs) // recipe.batch
    orders: dict[int, Tensor] = {}

    def batch(step: int) -> tuple[Tensor, ...]:
        epoch, at = divmod(step, per_epoch)
        if epoch not in orders:
            orders.clear()
            generator = torch.Generator().manual_seed(seed_of("epoch", seed, epoch))
            orders[epoch] = torch.randperm(len(refs), generator=generator)
        chosen = orders[epoch][at * recipe.batch : (at + 1) * recipe.batch]
        return objective.batch(data, [refs[int(i)] for i in chosen])

    if first >= recipe.steps:
        return
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(batch, first)
        for step in range(first, recipe.steps):
            ready = ahead.result()
            if step + 1 < recipe.steps:
                ahead = pool.submit(batch, step + 1)
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
    start: Path | None = None,
    new_head: bool = False,
) -> nn.Module:
    """Trains a network on the ``train`` split of a data set, resuming where it stopped.

    Besides its state, ``work`` receives the learning curve: ``curve.csv`` and, at the end, ``curve.png``. A
    resumed training ends with the same weights as an uninterrupted one.

    Args:
        work: folder of the training state; a state of the same settings found there is continued.
        report: called after each step.
        start: file of weights to start from, in place of those that the recipe names.
        new_head: whether the final layer starts afresh where those weights are for another number of classes.

    Returns:
        The network in evaluation mode, with the averaged weights if the recipe asks for them, or those that were best
        on the validation split.

    Raises:
        BenchError: a name is unknown, or the state in ``work`` belongs to other settings.
    """
    objective = objective_of(recipe)
    network = build_seeded(lambda: objective.build(model_name, dataset_name, seed), seed_of("weights", seed)).to(device)
    start = start or _start_file(model_name, dataset_name, recipe)
    if start is not None:
        state = objective.read(start, model_name)
        if new_head:
            state = with_new_head(state, model_name, dataset_name, seed, start)
        objective.adopt(network, state, start, model_name, dataset_name)
    data = _training_clips(dataset_name, recipe)
    objective.inspect(data)
    trained = [p for p in network.parameters() if p.requires_grad]
    optimiser = _optimiser(recipe, trained)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(recipe, step))
    average = _Average(network, recipe.ema) if recipe.ema is not None else None
    settings = {"model": model_name, "dataset": dataset_name, "seed": seed, **asdict(recipe)}
    if start is not None:
        settings["new_head"] = new_head
        settings["start"] = f"{recipe.start or recipe.start_recipe} {sha256_of(start)}"
    if Spec.parse(model_name).name in MODELS.names():
        settings["code"] = MODELS.get(Spec.parse(model_name).name).code
    state_file, first, earlier = work / "state.pt", 0, 0.0
    shown: dict[str, float] = {}
    best: dict[str, Any] = {}
    if state_file.is_file():
        try:
            state = torch.load(state_file, map_location=device, weights_only=True)
        except (RuntimeError, EOFError, UnpicklingError) as error:
            raise BenchError(f"{state_file} is damaged: delete it to begin again, or give another --work.") from error
        if state["settings"] != settings:
            raise BenchError(
                f"{state_file} holds a training with other settings or code: give another --work or delete it."
            )
        network.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        if average is not None:
            average.state, average.updates = state["average"], state["step"]
        first, shown, earlier, best = state["step"], state["figures"], state["seconds"], state["best"]
        report(TrainingState(first, recipe.steps, math.nan, shown, earlier))
    work.mkdir(parents=True, exist_ok=True)
    curve = Curve(work / "curve.csv", first)
    begun = time.monotonic()
    # Dropout draws from the global generator: seed it step by step, and hand it back as it was.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for step, batch in enumerate(_batches(data, objective, recipe, seed, first), start=first):
            torch.manual_seed(seed_of("dropout", seed, step))
            generator = torch.Generator().manual_seed(seed_of("step", seed, step))
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.mixed and device.type == "cuda"):
                loss, figures = objective.loss(network, tuple(part.to(device) for part in batch), generator)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(trained, recipe.clip_norm)
            rate = optimiser.param_groups[0]["lr"]
            optimiser.step()
            schedule.step()
            if average is not None:
                average.update(network)
            shown = {k: v if k not in shown else 0.95 * shown[k] + 0.05 * v for k, v in figures.items()}
            looked: dict[str, float] = {}
            if recipe.validate and ((step + 1) % recipe.validate == 0 or step + 1 == recipe.steps):
                looked = objective.validate(network, dataset_name, device)
                if "val_union" in looked and looked["val_union"] >= best.get("union", -1.0):
                    weights = {k: v.detach().clone() for k, v in network.state_dict().items()}
                    best = {"union": looked["val_union"], "step": step + 1, "weights": weights}
            value, seconds = float(loss.detach()), earlier + time.monotonic() - begun
            curve.add(step + 1, value, {**figures, **looked}, rate, seconds)
            report(TrainingState(step + 1, recipe.steps, value, shown, seconds))
            if (step + 1) % save_every == 0 or step + 1 == recipe.steps:
                curve.save()
                with replacing(state_file) as partial:
                    torch.save(
                        {
                            "settings": settings,
                            "step": step + 1,
                            "figures": shown,
                            "seconds": seconds,
                            "best": best,
                            "model": network.state_dict(),
                            "optimiser": optimiser.state_dict(),
                            "schedule": schedule.state_dict(),
                            **({"average": average.state} if average is not None else {}),
                        },
                        partial,
                    )
    if curve.rows:
        curve.draw(work / "curve.png", f"{model_name} on {dataset_name}, recipe {recipe.name}")
    if average is not None:
        network.load_state_dict(average.state)
    if best:
        network.load_state_dict(best["weights"])
    return network.eval().requires_grad_(False)


def _optimiser(recipe: Recipe, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(parameters, lr=recipe.lr, momentum=0.9, weight_decay=recipe.weight_decay)
    return torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{torch.backends.cpu.get_cpu_capability()} {platform.machine()}, {threads} thread{'s' * (threads > 1)}"


def _quoted(text: str) -> str:
    """For a command line."""
    return text if text.replace("_", "").replace(":", "").isalnum() else f'"{text}"'


def _read_manifest(folder: Path) -> dict[str, Any]:
    file = folder / "manifest.json"
    try:
        entries: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise BenchError(f"{file} is damaged ({error}): restore it, or give another --out.") from error
    return entries


def _write_manifest(folder: Path, entries: Mapping[str, Any]) -> None:
    text = json.dumps(dict(sorted(entries.items())), indent=2) + "\n"
    with replacing(folder / "manifest.json") as partial:
        partial.write_text(text, encoding="utf-8")


def export(
    network: nn.Module,
    model_name: str,
    dataset_name: str,
    recipe: Recipe,
    *,
    seed: int,
    seconds: float,
    out: Path,
    device: torch.device,
    work: Path | None = None,
    curves: Path | None = None,
    start: Path | None = None,
    new_head: bool = False,
) -> dict[str, Any]:
    """Writes the weights as half-precision safetensors, measures *that file* on test clips, and adds its
    entry to ``manifest.json`` in ``out``.

    Args:
        work, curves: where the training left ``curve.png``, and the folder it is copied to as
            ``<model>-<dataset>.png``.
        start, new_head: as the training was told.

    Returns:
        The manifest entry.
    """
    out.mkdir(parents=True, exist_ok=True)
    objective = objective_of(recipe)
    model, clips = Spec.parse(model_name).name, Spec.parse(dataset_name).name
    named = objective.entry(model, recipe.name)
    stem = f"{named['model']}-{clips}"
    name = f"{stem}.safetensors"
    weights = {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    with replacing(out / name) as partial:  # whoever uses the old weights keeps them until the new ones are measured
        save_file({k: v.cpu().contiguous() for k, v in weights.items()}, partial)
        partial.chmod(0o644)  # safetensors writes for the owner alone; these are to be installed
        load_strictly(network, load_file(partial), partial)
        if work is not None and curves is not None and (work / "curve.png").is_file():
            curves.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(work / "curve.png", curves / f"{stem}.png")
        told = f" --start {start}" * (start is not None) + " --new-head" * new_head
        start = start or _start_file(model_name, dataset_name, recipe)
        entry = {
            "kind": objective.kind,
            **named,
            "dataset": clips,
            "sha256": sha256_of(partial),
            "recipe": asdict(recipe),
            "seed": seed,
            "parameters": sum(p.numel() for p in network.parameters()),
            "precision": "float16",
            **({"started_from": sha256_of(start)} if start is not None else {}),
            "hardware": _hardware(device),
            "minutes": round(seconds / 60, 1),
            "torch": torch.__version__.split("+")[0],
            "command": f"bench train --model {_quoted(model_name)} --dataset {_quoted(dataset_name)} "
            f"--recipe {recipe.name} "
            f"--steps {recipe.steps} --seed {seed} --out bench/zoo{told}",
            "figures": objective.measure(network, dataset_name, device),
        }
        # Read late: another training may have added its entry while this one was measured.
        entries = {**_read_manifest(out), name: entry}
    _write_manifest(out, entries)
    return entry


def remeasure(
    model_name: str, dataset_name: str, *, out: Path, device: torch.device, start: Path | None = None
) -> dict[str, Any]:
    """Measures exported weights again, without training, and puts the figures into the manifest.

    Args:
        out: folder of the weights and their ``manifest.json``.
        start: file of the classifier that a framing was learned on, if the recipe does not name it.

    Returns:
        The manifest entry.

    Raises:
        BenchError: there is no such entry, or the file does not match its checksum.
    """
    entries = _read_manifest(out)
    name = f"{Spec.parse(model_name).name}-{Spec.parse(dataset_name).name}.safetensors"
    if name not in entries:
        raise BenchError(f"{out / 'manifest.json'} has no entry {name}: train it first, without --measure-only.")
    if not (out / name).is_file() or sha256_of(out / name) != entries[name]["sha256"]:
        raise BenchError(f"{out / name} is absent or does not match its checksum in the manifest: train it again.")
    objective = objective_of(Recipe(**entries[name]["recipe"]))
    base = entries[name].get("base", model_name)
    network = objective.build(base, dataset_name, entries[name]["seed"]).to(device)
    if objective.kind == "framing":  # its figures are those of a classifier that is not in the file
        recipe = Recipe(**entries[name]["recipe"])
        classifier = start or _start_file(base, dataset_name, recipe)
        if classifier is None or sha256_of(classifier) != entries[name]["started_from"]:
            raise BenchError(f"{name} was learned on another classifier than {classifier}: give its file with --start.")
        objective.adopt(network, load_checkpoint(classifier), classifier, base, dataset_name)
    load_strictly(network, load_file(out / name), out / name)
    figures = objective.measure(network.eval().requires_grad_(False), dataset_name, device)
    entries = _read_manifest(out)
    entries[name] = {"kind": objective.kind, **entries[name], "figures": figures}
    _write_manifest(out, entries)
    entry: dict[str, Any] = entries[name]
    return entry


def default_work(model: str, dataset: str, recipe: Recipe, seed: int) -> Path:
    """Folder of a training's state when the user names none."""
    names = f"{Spec.parse(model).name}-{Spec.parse(dataset).name}"
    return Path("runs") / "train" / f"{names}-{recipe.name}-{recipe.steps}-{seed}"
