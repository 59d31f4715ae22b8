"""One training loop; a recipe is an objective plus settings."""

from __future__ import annotations

import json
import math
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench.data.base import Dataset
from bench.errors import BenchError
from bench.files import replacing, write_whole
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
from bench.weights.reading import read_plain
from bench.weights.zoo import parse_manifest, zoo_file


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


def _same_layout(stored: Mapping[str, Any], own: Mapping[str, Tensor]) -> bool:
    """Whether stored weights have the names, shapes and dtypes of a network's."""
    return stored.keys() == own.keys() and all(
        isinstance(stored[k], Tensor) and (stored[k].shape, stored[k].dtype) == (own[k].shape, own[k].dtype)
        for k in own
    )


def _moved(weights: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in weights.items()}


def _are_moments(stored: Mapping[int, Any], trained: Sequence[nn.Parameter], recipe: Recipe, step: int) -> bool:
    """Whether stored moments are those of the optimiser of these parameters after some steps."""
    names = {"momentum_buffer"} if recipe.optimiser == "sgd" else {"step", "exp_avg", "exp_avg_sq"}
    return all(
        moments.keys() == names
        and all(isinstance(value, Tensor) for value in moments.values())
        and (names == {"momentum_buffer"} or 0 < float(moments["step"]) <= step)
        and all(moments[name].shape == trained[place].shape for name in names - {"step"})
        and all(moments[name].dtype == trained[place].dtype for name in names - {"step"})
        for place, moments in stored.items()
    )


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    """Of a group of an optimiser's parameters, what stays the same over a training."""
    return {key: value for key, value in group.items() if key not in ("params", "lr")}


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


def _adopt(
    objective: Objective, network: nn.Module, start: Path, model: str, dataset: str, head_seed: int | None
) -> None:
    """Puts the weights of a file into a network, with a fresh final layer where that has a seed."""
    weights = objective.read(start, model)
    if head_seed is not None:
        weights = with_new_head(weights, model, dataset, head_seed, start)
    objective.adopt(network, weights, start, model, dataset)


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


class _Training:
    """A training under way: all that its state file holds, and one step of it.

    Args:
        settings: what a state must have been trained with to be continued.
    """

    def __init__(
        self,
        objective: Objective,
        network: nn.Module,
        recipe: Recipe,
        settings: Mapping[str, Any],
        device: torch.device,
    ) -> None:
        self.objective, self.network, self.recipe, self.device = objective, network, recipe, device
        self.settings = dict(settings)
        self.trained = [p for p in network.parameters() if p.requires_grad]
        self.optimiser = _optimiser(recipe, self.trained)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, lambda step: _rate(recipe, step))
        self.average = _Average(network, recipe.ema) if recipe.ema is not None else None
        self.step, self.seconds = 0, 0.0
        self.figures: dict[str, float] = {}
        self.best: dict[str, Any] = {}

    def shown(self, loss: float) -> TrainingState:
        """Where it stands, for a progress display."""
        return TrainingState(self.step, self.recipe.steps, loss, self.figures, self.seconds)

    def resume(self, file: Path) -> bool:
        """Goes on from a state, if there is one; whether there is.

        Raises:
            BenchError: the file is damaged, or of a training with other settings.
        """
        if not file.is_file():
            return False
        damaged = BenchError(f"{file} is damaged: delete it to begin again, or give another --work.")
        try:
            state = read_plain(file)
            known = state["settings"] == self.settings
        except (BenchError, KeyError, TypeError, RuntimeError, IndexError) as error:
            raise damaged from error
        if not known:
            raise BenchError(f"{file} holds a training with other settings or code: give another --work or delete it.")
        try:
            self._take(state)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError) as error:
            raise damaged from error
        return True

    def _take(self, state: Mapping[str, Any]) -> None:
        """Becomes what a state says.

        Raises:
            ValueError, or another: it is no state of this training.
        """
        own, step, best = self.network.state_dict(), state["step"], state["best"]
        figures, seconds = state["figures"], state["seconds"]
        averaged = [state["average"]] if self.average is not None else []
        kept = [best["weights"]] if best else []
        if not (
            type(step) is int
            and 0 <= step <= self.recipe.steps
            and isinstance(seconds, float | int)
            and all(isinstance(value, float | int) for value in figures.values())
            and all(_same_layout(weights, own) for weights in (state["model"], *averaged, *kept))
            and (not best or (isinstance(best["union"], float | int) and type(best["step"]) is int))
        ):
            raise ValueError("its values are of other kinds or shapes")
        fresh = [_options(group) for group in self.optimiser.param_groups]
        numbers = [group["params"] for group in self.optimiser.state_dict()["param_groups"]]
        known = [group["params"] for group in state["optimiser"]["param_groups"]] == numbers
        if not known or not _are_moments(state["optimiser"]["state"], self.trained, self.recipe, step):
            raise ValueError("its optimiser is that of another network")
        schedule = self.schedule.state_dict()  # all of it follows from the step
        if state["schedule"].keys() != schedule.keys() or state["schedule"]["last_epoch"] != step:
            raise ValueError("its learning rate is that of another step")
        self.network.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        groups, rate = self.optimiser.param_groups, self.recipe.lr * _rate(self.recipe, step)
        now = {"last_epoch": step, "_step_count": step + 1, "_last_lr": [group["lr"] for group in groups]}
        self.schedule.load_state_dict({**schedule, **now})
        if [_options(group) for group in groups] != fresh or any(not math.isclose(g["lr"], rate) for g in groups):
            raise ValueError("its optimiser has other options")
        if self.average is not None:
            self.average.state, self.average.updates = _moved(state["average"], self.device), step
        self.best = {**best, "weights": _moved(best["weights"], self.device)} if best else {}
        self.step, self.figures, self.seconds = step, figures, seconds

    def save(self, file: Path) -> None:
        """Writes the state, replacing the old one only when the new one is complete."""
        state = {
            "settings": self.settings,
            "step": self.step,
            "figures": self.figures,
            "seconds": self.seconds,
            "best": self.best,
            "model": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            **({"average": self.average.state} if self.average is not None else {}),
        }
        with replacing(file) as partial:
            torch.save(state, partial)

    def advance(self, batch: tuple[Tensor, ...], seed: int) -> tuple[float, Mapping[str, float], float]:
        """One step of the optimiser; the loss of the batch, the objective's figures of it, and the learning rate."""
        torch.manual_seed(seed_of("dropout", seed, self.step))
        generator = torch.Generator().manual_seed(seed_of("step", seed, self.step))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.mixed and self.device.type == "cuda"):
            loss, figures = self.objective.loss(self.network, tuple(part.to(self.device) for part in batch), generator)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, self.recipe.clip_norm)
        rate = self.optimiser.param_groups[0]["lr"]
        self.optimiser.step()
        self.schedule.step()
        if self.average is not None:
            self.average.update(self.network)
        means = self.figures
        self.figures = {k: v if k not in means else 0.95 * means[k] + 0.05 * v for k, v in figures.items()}
        self.step += 1
        return float(loss.detach()), figures, rate

    def validate(self, dataset: str) -> Mapping[str, float]:
        """Figures on the split ``val`` at the steps where the recipe looks at it; the best weights are kept."""
        every = self.recipe.validate
        if not every or (self.step % every and self.step != self.recipe.steps):
            return {}
        figures = self.objective.validate(self.network, dataset, self.device)
        if "val_union" in figures and figures["val_union"] >= self.best.get("union", -1.0):
            weights = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
            self.best = {"union": figures["val_union"], "step": self.step, "weights": weights}
        return figures

    def finished(self) -> nn.Module:
        """The network in evaluation mode, with the weights that are to be exported."""
        if self.average is not None:
            self.network.load_state_dict(self.average.state)
        if self.best:
            self.network.load_state_dict(self.best["weights"])
        return self.network.eval().requires_grad_(False)


def _settings(
    model: str, dataset: str, recipe: Recipe, seed: int, start: Path | None, new_head: bool
) -> dict[str, Any]:
    """What the weights of a training depend on."""
    settings = {"model": model, "dataset": dataset, "seed": seed, **asdict(recipe)}
    if start is not None:
        settings["new_head"] = new_head
        settings["start"] = f"{recipe.start or recipe.start_recipe} {sha256_of(start)}"
    if Spec.parse(model).name in MODELS.names():
        settings["code"] = MODELS.get(Spec.parse(model).name).code
    return settings


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
        _adopt(objective, network, start, model_name, dataset_name, seed if new_head else None)
    data = _training_clips(dataset_name, recipe)
    objective.inspect(data)
    settings = _settings(model_name, dataset_name, recipe, seed, start, new_head)
    training = _Training(objective, network, recipe, settings, device)
    state_file = work / "state.pt"
    if training.resume(state_file):
        report(training.shown(math.nan))
    work.mkdir(parents=True, exist_ok=True)
    curve = Curve(work / "curve.csv", training.step)
    begun = time.monotonic() - training.seconds
    # Dropout draws from the global generator: seed it step by step, and hand it back as it was.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for batch in _batches(data, objective, recipe, seed, training.step):
            loss, figures, rate = training.advance(batch, seed)
            validated = training.validate(dataset_name)
            training.seconds = time.monotonic() - begun
            curve.add(training.step, loss, {**figures, **validated}, rate, training.seconds)
            report(training.shown(loss))
            if training.step % save_every == 0 or training.step == recipe.steps:
                curve.save()
                training.save(state_file)
    if curve.rows:
        curve.draw(work / "curve.png", f"{model_name} on {dataset_name}, recipe {recipe.name}")
    return training.finished()


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


def _command(model: str, dataset: str, recipe: Recipe, seed: int, start: Path | None, new_head: bool) -> str:
    """The command line that repeats a training."""
    flags = f" --start {start}" * (start is not None) + " --new-head" * new_head
    return (
        f"bench train --model {_quoted(model)} --dataset {_quoted(dataset)} --recipe {recipe.name} "
        f"--steps {recipe.steps} --seed {seed} --out bench/zoo{flags}"
    )


def _read_manifest(folder: Path) -> dict[str, Any]:
    file = folder / "manifest.json"
    return parse_manifest(file.read_bytes(), file) if file.is_file() else {}


def _write_manifest(folder: Path, entries: Mapping[str, Any]) -> None:
    text = json.dumps(dict(sorted(entries.items())), indent=2) + "\n"
    write_whole(folder / "manifest.json", text)


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
    named = objective.entry(Spec.parse(model_name).name, recipe.name)
    stem = f"{named['model']}-{Spec.parse(dataset_name).name}"
    name = f"{stem}.safetensors"
    weights = {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    with replacing(out / name) as partial:  # whoever uses the old weights keeps them until the new ones are measured
        save_file({k: v.cpu().contiguous() for k, v in weights.items()}, partial)
        partial.chmod(0o644)  # safetensors writes for the owner alone; these are to be installed
        load_strictly(network, load_file(partial), partial)
        if work is not None and curves is not None and (work / "curve.png").is_file():
            curves.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(work / "curve.png", curves / f"{stem}.png")
        started_from = start or _start_file(model_name, dataset_name, recipe)
        entry = {
            "kind": objective.kind,
            **named,
            "dataset": Spec.parse(dataset_name).name,
            "sha256": sha256_of(partial),
            "recipe": asdict(recipe),
            "seed": seed,
            "parameters": sum(p.numel() for p in network.parameters()),
            "precision": "float16",
            **({"started_from": sha256_of(started_from)} if started_from is not None else {}),
            "hardware": _hardware(device),
            "minutes": round(seconds / 60, 1),
            "torch": torch.__version__.split("+")[0],
            "command": _command(model_name, dataset_name, recipe, seed, start, new_head),
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
