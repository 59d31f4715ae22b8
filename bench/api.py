"""``bench.evaluate``: one's own classifier, clips and labels, in five lines; and what it shares with ``bench run``."""

from __future__ import annotations

import itertools
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, cast, overload

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from bench.attack.base import Attack
from bench.attack.moves import Moves
from bench.data.base import ClipRef, Dataset
from bench.defense.base import Defense, Purifier, RobustModel
from bench.defense.defended import automatic, why_not
from bench.defense.nature import drawing_from
from bench.errors import BenchError
from bench.grids.grid import DatasetSection, Grid, find_grid, override, read_mapping
from bench.plan.cells import Component, Plan
from bench.plan.classes import strangers
from bench.plan.components import Parts, check_attacks, make_component, with_baseline
from bench.plan.expand import make_plan
from bench.plan.probe import ask, first_clip, in_words
from bench.plan.select import Asking
from bench.records.audits import read_audit
from bench.records.flat import flat_losses, probabilities
from bench.records.identity import ComponentIdentity, Gradient
from bench.records.results import CellResult, pass_seconds, to_frame
from bench.registry import ATTACKS, DATASETS, DEFENSES, Registry, Spec
from bench.report.across import means_across
from bench.report.bar import RunProgress
from bench.report.figures import published_data
from bench.report.plot import draw, figure_data
from bench.report.render import heading, render
from bench.report.reported import Reported, shipped_folder
from bench.report.tables import Table, TableOptions, make_tables
from bench.run.crew import Crew, ThisProcess
from bench.run.engine import LocalEngine, pick_device
from bench.run.export import collect, export
from bench.run.loading import CACHE_GB, Frames
from bench.run.runner import CONTROL_CLIPS, Keep, Progress, Runner
from bench.run.store import Store
from bench.threat.budgets import Budget
from bench.weights.files import fingerprint

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class GridRun:
    """What a run of a grid gave.

    Attributes:
        results: a cell each, with the outcome of every clip, in the order of the plan.
        tables: all that the grid says of its tables is in them.
        computed: outcomes that were not in the store before.
        removed: names of result files of an earlier measurement, which are gone.
        warnings: what makes a figure doubtful although nothing failed: networks that are random or look at the other
            clips of a batch, that return probabilities or name other classes, attacks whose loss never moved; one
            sentence each.
    """

    results: list[CellResult]
    tables: list[Table]
    computed: int
    removed: list[str]
    warnings: list[str]

    @property
    def frame(self) -> pd.DataFrame:
        """One line per clip and cell: docs/frame.md says what every column is."""
        return to_frame(self.results)


def run_grid(
    grid: str | Path | Mapping[str, Any] = "demo",
    *,
    models: Sequence[str] = (),
    defenses: Sequence[str] = (),
    attacks: Sequence[str] = (),
    label: str | None = None,
    wrap: Mapping[str, Any] | None = None,
    dataset: str | None = None,
    clips: int | None = None,
    steps: int | None = None,
    seed: int | None = None,
    precision: str | None = None,
    data_root: Path | str | None = None,
    checkpoint: Path | str | None = None,
    results: Path | str = "results",
    device: str = "auto",
    batch_size: int | None = None,
    retry: bool = False,
    control: int = CONTROL_CLIPS,
    fail_fast: bool = False,
    keep: Keep = "all",
    cache: float = CACHE_GB,
    progress: bool = True,
) -> GridRun:
    """What ``bench run`` does, from Python: runs a grid, keeps every outcome, and writes result files.

    What is stored already is not computed again, and a run that was stopped goes on where it was.

    Args:
        grid: name of a shipped grid, path of a grid file, or a mapping with the keys of one, among them ``name``.
        models, defenses, attacks: in place of the grid's, as on the command line.
        label, wrap, dataset, clips, steps, seed, precision: as :func:`bench.grids.grid.override` takes them.
        data_root: folder of the data set's files.
        checkpoint: weights of the one classifier.
        results: folder of results; files go to a folder of the grid's name in it, and the store beside them.
        device: ``auto``, ``cpu`` or ``cuda``.
        batch_size, retry, control, fail_fast, keep, cache: as :func:`run_plan` takes them.
        progress: show a bar on standard error.

    Returns:
        Results, tables, and the frame of all outcomes as ``.frame``.

    Raises:
        BenchError: bad input, or a fault of the machine, in one sentence. What was computed is stored.

    Example:
        >>> run = bench.run_grid("demo", defenses=["jpeg"], clips=6)
        >>> run.frame.groupby(["defense", "attack"]).chance.mean()
    """
    chosen = override(
        read_mapping(grid) if isinstance(grid, Mapping) else find_grid(str(grid)),
        models=models,
        defenses=defenses,
        attacks=attacks,
        label=label,
        wrap=wrap,
        dataset=dataset,
        clips=clips,
        steps=steps,
        seed=seed,
        precision=precision,
    )
    folder, torch_device = Path(results), pick_device(device)
    plan = make_plan(
        chosen,
        data_root=Path(data_root) if data_root is not None else None,
        checkpoint=Path(checkpoint) if checkpoint is not None else None,
        asking=Asking(torch_device, folder / ".store"),
    )
    with RunProgress() if progress else nullcontext() as bar:
        measured = run_plan(
            plan,
            folder / ".store",
            results_folder=folder,
            device=torch_device,
            batch_size=batch_size,
            retry=retry,
            control=control,
            fail_fast=fail_fast,
            progress=bar,
            keep=keep,
            cache=cache,
        )
    for warning in measured.warnings:
        warnings.warn(warning, stacklevel=2)
    return measured


def run_plan(
    plan: Plan,
    store_folder: Path,
    *,
    results_folder: Path | None = None,
    device: torch.device,
    batch_size: int | None = None,
    retry: bool = False,
    control: int = CONTROL_CLIPS,
    fail_fast: bool = False,
    progress: Progress | None = None,
    crew: Crew | None = None,
    keep: Keep = "all",
    cache: float = CACHE_GB,
) -> GridRun:
    """Brings every cell of a plan up to date and makes its tables. What is stored already is not computed again.

    Args:
        store_folder: where outcomes and shared clips are kept.
        results_folder: where result files are written, in a folder of the grid's name; none are if it is not given.
        batch_size: clips per batch; chosen if not given.
        retry: run clips again that failed, were missing or came back invalid.
        control: clips per adaptive cell that are also attacked with a budget of size 0.
        fail_fast: stop at the first clip with which a component fails.
        progress: is told what is done.
        crew: works on the batches in place of this process; it was given this plan.
        keep: the adversarial clips that stay in the store: ``all``, ``shared`` (those that serve every defence) or
            ``none``.
        cache: gigabytes of decoded clips that are kept beside them, or in the folder that ``BENCH_CACHE`` names.

    Raises:
        BenchError: a setting turns out to be impossible, the reported figures of the grid do not exist, its audit is
            damaged, or the results cannot be written. Everything computed so far is stored.
    """
    grid = plan.grid
    # Before anything is computed: a mistake here must not show after hours.
    reported = Reported(grid.reported, shipped_folder()) if grid.reported else None
    audits = read_audit(results_folder / grid.name) if results_folder is not None else []
    frames = Frames.beside(store_folder, cache)
    workers = crew or ThisProcess(plan, LocalEngine(device), fail_fast=fail_fast, frames=frames)
    store = Store(store_folder)
    store.computed_by = lambda: workers.computed_by
    try:
        runner = Runner(
            plan,
            store,
            workers,
            batch_size=batch_size,
            retry=retry,
            control=control,
            fail_fast=fail_fast,
            progress=progress,
            keep=keep,
        )
        runner.run()
        removed: list[str] = []
        if results_folder is None:
            results = collect(plan, store)
        else:
            results, removed = export(plan, store, results_folder, ran=runner.computed > 0)
    finally:
        store.close()
    options = TableOptions.of(
        grid,
        reported=reported,
        skipped=plan.skipped,
        seconds=lambda: pass_seconds(results),
        across=means_across(grid.across, results_folder),
        audits=audits,
    )
    return GridRun(
        results=results,
        tables=make_tables(results, options),
        computed=runner.computed,
        removed=removed,
        warnings=[*_strangers(plan), *_natures(plan), *_probabilities(plan, device), *map(str, flat_losses(results))],
    )


def _networks(plan: Plan) -> dict[str, nn.Module]:
    """The classifiers of a plan by label, those to transfer from among them."""
    units = [cell.unit.model for cell in plan.cells if cell.unit and cell.unit.model]
    return {model.label: model.instance for model in (*(cell.model for cell in plan.cells), *units)}


def _strangers(plan: Plan) -> list[str]:
    """Classes of the clips that networks do not have among the names of theirs."""
    return strangers(plan.dataset, _networks(plan))


def _natures(plan: Plan) -> list[str]:
    """What the networks of a plan are, and do not say."""
    models = _networks(plan)
    return [
        words
        for label, nature in plan.natures.items()
        if label in models
        for words in in_words(label, models[label], nature)
    ]


def _probabilities(plan: Plan, device: torch.device) -> list[str]:
    """A sentence on every network of a plan that answers its first clip with probabilities.

    Behind a purifier stands the bare classifier, which is asked once.
    """
    clip = first_clip(plan.dataset, plan.refs)
    if clip is None:
        return []
    networks: dict[int, tuple[nn.Module, str]] = {}
    for cell in plan.cells:
        by = "" if isinstance(cell.defense.instance, Purifier) else cell.defense.label
        network = cell.defended.classifier
        networks.setdefault(id(network), (network, probabilities(cell.model.label, by)))
    return list(dict.fromkeys(words for network, words in networks.values() if _is_softmax(network, clip, device)))


def _is_softmax(network: nn.Module, clip: Tensor, device: torch.device) -> bool:
    """Whether a network answers with probabilities. Of one that raises, the outcomes say why."""
    try:
        answer = ask(network, clip[None], device)
    except Exception:  # noqa: BLE001 - whatever it is, each of its outcomes has it
        return False
    return isinstance(answer, Tensor) and answer.ndim == 2 and answer.is_floating_point() and are_probabilities(answer)


def are_probabilities(logits: Tensor) -> bool:
    """Whether rows ``(B, K)`` all lie in ``[0, 1]`` and sum to 1 within 1e-5 (AutoAttack's test, Croce and Hein), or
    within the rounding of each, where that is coarser."""
    values = logits.double()
    close = max(1e-5, logits.shape[1] * torch.finfo(logits.dtype).eps)
    return bool(((values >= 0) & (values <= 1)).all() & ((values.sum(1) - 1).abs() <= close).all())


class _InMemory(Dataset):
    """The user's clips."""

    def __init__(self, clips: Tensor, labels: Tensor) -> None:
        self._refs = [ClipRef(f"clip-{i:05d}", int(label)) for i, label in enumerate(labels)]
        self._clips = {ref.id: clip for ref, clip in zip(self._refs, clips, strict=True)}
        self.classes = ()  # these clips need not show them all

    def refs(self) -> list[ClipRef]:
        return self._refs

    def load(self, ref: ClipRef) -> Tensor:
        return self._clips[ref.id]


def _array(given: Any, name: str) -> Tensor:
    try:
        return torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BenchError(f"{name} must be a tensor or an array, not a {type(given).__name__}: {error}.") from error


def _checked(model: Any, clips: Any, labels: Any) -> _InMemory:
    """The user's clips as a data set, if they and the classifier are what they should be."""
    if not isinstance(model, nn.Module):
        raise BenchError(f"model must be a torch.nn.Module, not a {type(model).__name__}.")
    _check_weights(model)
    clips, labels = _array(clips, "clips"), _array(labels, "labels")
    if clips.ndim != 5 or clips.shape[1] != 3 or clips.dtype != torch.float32:
        raise BenchError(
            f"clips must be float32 of shape (N, 3, T, H, W) in [0, 1], not {clips.dtype} {tuple(clips.shape)}."
        )
    if not len(clips) or labels.shape != clips.shape[:1] or labels.is_floating_point():
        raise BenchError(
            f"labels must be one integer per clip: {len(clips)} clips, labels {labels.dtype} {tuple(labels.shape)}."
        )
    if int(labels.min()) < 0:
        raise BenchError(f"labels must be classes counted from 0, but one is {int(labels.min())}.")
    if not bool(((clips >= 0) & (clips <= 1)).all()):
        raise BenchError("clips must lie in [0, 1] and be finite; divide 8-bit frames by 255.")
    return _InMemory(_plain(clips), _plain(labels))


def _check_weights(model: nn.Module) -> None:
    """Raises :class:`BenchError` if a network cannot be asked or differentiated for what its weights are."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise BenchError(f"{name} of the model has no shape yet: pass one clip through its lazy layers first.")
        if tensor.is_meta:
            raise BenchError(f"{name} of the model is on the meta device and has no values: load its weights first.")
        if tensor.is_inference():
            raise BenchError(
                f"{name} of the model was made under torch.inference_mode(), so that no gradient passes through it: "
                "make the model outside of it."
            )


def _plain(tensor: Tensor) -> Tensor:
    """On the CPU, and open to gradients even if it was made under ``torch.inference_mode()``."""
    with torch.inference_mode(False):
        return (tensor.clone() if tensor.is_inference() else tensor.detach()).cpu()


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Puts modes, gradient flags and the device of somebody else's network back, and the random generators.

    Gradients are taken inside, whatever mode the caller is in.
    """
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    device = next((p.device for p in model.parameters()), None)
    try:
        with torch.inference_mode(False), torch.enable_grad(), drawing_from(0):
            yield
    finally:
        if device is not None:
            model.to(device)
        for module, training in modes:
            module.training = training
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _components(given: Any, registry: Registry) -> list[Component[Any]]:
    """One component, or a list of them; instances of one class are told apart by numbers, in labels and in the store.

    Raises:
        BenchError: there is none, one cannot be made, or one is named twice.
    """
    listed = list(given) if isinstance(given, list | tuple) else [given]
    if not listed:
        raise BenchError(f"There is nothing to do: the list of {registry.kind}s is empty.")
    found: dict[str, Component[Any]] = {}
    for one in listed:
        made = _component(one, registry)
        if made.label in found and isinstance(one, (str, Mapping, Spec)):
            raise BenchError(f"The {registry.kind} {made.label} is listed twice: leave one out.")
        number = sum(other.label.partition(" #")[0] == made.label for other in found.values()) + 1
        if number > 1:
            label = f"{made.label} #{number}"
            made = replace(made, label=label, identity=ComponentIdentity(name=label))
        found[made.label] = made
    return list(found.values())


def _component(given: Any, registry: Registry) -> Component[Any]:
    if isinstance(given, Component):
        return given
    if isinstance(given, (Attack, Purifier, RobustModel)):
        name = type(given).__name__
        return Component(name, given, ComponentIdentity(name=name))
    spec = Spec.parse(given)
    return make_component(spec, registry)


@dataclass(frozen=True, kw_only=True)
class _Question:
    """What is asked about the user's classifier: how well one defence does against one attack.

    Attributes:
        gradient: how the attack differentiates the defence; ``None`` if it does not look at it.
        label: of the attack's column.
    """

    defense: Component[Defense]
    attack: Component[Attack]
    gradient: Gradient | None
    label: str
    budget: Budget
    seed: int

    @classmethod
    def read(cls, *, defense: Any, attack: Any, gradient: str, budget: Any, seed: int) -> _Question:
        """Reads what :func:`evaluate` is given.

        Raises:
            BenchError: a component cannot be made, or the gradient does not exist for the defence.
        """
        defense, attack = _component(defense, DEFENSES), _component(attack, ATTACKS)
        chosen = cast(Gradient, gradient)  # what is none is refused here
        if isinstance(attack.instance, Moves):
            if gradient not in ("auto", "strongest"):
                raise BenchError(f"{attack.label} takes gradients of its own, not {gradient!r}: leave it out.")
            chosen = "strongest"
        elif gradient == "auto":
            chosen = automatic(defense.instance)
        reason = why_not(defense.instance, chosen)
        if reason:
            raise BenchError(reason)
        adaptive = attack.instance.uses_model and chosen != "none"
        shown = f"+{chosen}" if adaptive and chosen != "strongest" else ""
        return cls(
            defense=defense,
            attack=attack,
            gradient=chosen if adaptive else None,
            label=attack.label.upper() + shown,
            budget=budget if isinstance(budget, Budget) else Budget.parse(budget or {}),
            seed=seed,
        )

    def plan(self, model: nn.Module, dataset: Dataset) -> Plan:
        """The grid of it: the defence beside the undefended row, under this attack and none."""
        how = {"gradient": self.gradient, "label": self.label}
        grid = Grid(
            name="evaluate",
            dataset=DatasetSection(name="clips"),
            models=["model"],
            defenses=["defense"],
            attacks=[{"attack": "adaptive" if self.gradient == "strongest" else "given", **how}],
            budgets=[self.budget.settings()],
            seed=self.seed,
        )
        name = type(model).__name__
        parts = Parts(
            dataset=Component("clips", dataset, ComponentIdentity(name="clips")),
            models=[Component(name, model, ComponentIdentity(name=name, weights=fingerprint(model)))],
            defenses=with_baseline([self.defense]),
            attacks={self.label: self.attack},
        )
        check_attacks(grid, parts.attacks)
        return make_plan(grid, parts)

    def frame(self, results: Iterable[CellResult]) -> pd.DataFrame:
        """The outcomes under attack of the row that was asked about, beside those without one."""
        frame = to_frame(r for r in results if r.defense == self.defense.label)
        clean = frame[frame["knowledge"] == "clean"].set_index("clip")["correct"]
        frame = frame[frame["attack"] == self.label].reset_index(drop=True)
        frame.insert(list(frame.columns).index("correct") + 1, "clean_correct", frame["clip"].map(clean))
        return frame


def _print(tables: Iterable[Table]) -> None:
    console = Console(width=None if Console().is_terminal else 120, markup=False)
    for table in tables:
        console.print(heading(table), soft_wrap=True)
        console.print(render(table))


@dataclass(frozen=True)
class Evaluated:
    """What :func:`evaluate` gives if the clips are to be kept.

    Attributes:
        frame: one row per clip, defence and attack.
        adversarial: by the labels of defence and attack, as in the frame: ``float32 (N, 3, T, H, W)``, in the order of
            the clips; not a number where a clip could not be attacked.
    """

    frame: pd.DataFrame
    adversarial: dict[tuple[str, str], Tensor]


OneDefense = str | Mapping[str, Any] | Defense
OneAttack = str | Mapping[str, Any] | Attack


class _How(TypedDict, total=False):
    """The other options of :func:`evaluate`, for type checkers."""

    defense: OneDefense | Sequence[OneDefense]
    attack: OneAttack | Sequence[OneAttack]
    gradient: str
    budget: Budget | Mapping[str, Any] | None
    batch_size: int | None
    device: str
    seed: int
    verbose: bool


@overload
def evaluate(
    model: nn.Module,
    clips: Tensor | np.ndarray,
    labels: Tensor | np.ndarray | list[int],
    *,
    keep: Literal[False] = ...,
    **how: Unpack[_How],
) -> pd.DataFrame: ...


@overload
def evaluate(
    model: nn.Module,
    clips: Tensor | np.ndarray,
    labels: Tensor | np.ndarray | list[int],
    *,
    keep: Literal[True],
    **how: Unpack[_How],
) -> Evaluated: ...


def evaluate(
    model: nn.Module,
    clips: Tensor | np.ndarray,
    labels: Tensor | np.ndarray | list[int],
    *,
    defense: OneDefense | Sequence[OneDefense] = "none",
    attack: OneAttack | Sequence[OneAttack] = "pgd",
    gradient: str = "auto",
    budget: Budget | Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    seed: int = 0,
    verbose: bool = True,
    keep: bool = False,
) -> pd.DataFrame | Evaluated:
    """Attacks a classifier behind a defence and judges every clip.

    Args:
        model: clips ``float32 (B, 3, T, H, W)`` in ``[0, 1]`` to logits ``(B, K)``; it normalises inside.
            It is in evaluation mode, without weight gradients, while it is evaluated, and left as it was. One that
            draws random numbers says ``stochastic = True``.
        clips: ``float32 (N, 3, T, H, W)`` in ``[0, 1]``, RGB.
        labels: true classes, ``(N,)`` integers.
        defense: a registered defence (``"jpeg(quality=50)"``), an instance of your own, or a list of such.
        attack: a registered attack, an instance of your own, or a list of such; ``"adaptive"`` runs the strongest that
            are known for the kind of the defence, each through a gradient of its own.
        gradient: ``exact``, ``bpda``, ``none`` (gray-box: the attack sees the bare classifier), or ``auto``:
            exact where it exists, else bpda.
        budget: a :class:`Budget` or its keys; linf 4/255 with 10 steps if not given.
        batch_size: clips per batch; chosen if not given.
        device: ``auto``, ``cpu`` or ``cuda``.
        seed: of every random choice.
        verbose: print the table.
        keep: also return the adversarial clips, as :class:`Evaluated`.

    Returns:
        A frame with one row per clip, and with lists one per clip, defence and attack: ``clip``, ``label``,
        ``clean_prediction`` and ``prediction`` (of the defended classifier), ``correct`` (under attack),
        ``clean_correct``, ``status``, distances, passes and the loss trace. docs/frame.md has all columns.

    Warns:
        UserWarning: the classifier returns probabilities, or the attack's loss never moved on clips that it leaves: the
            figure then says nothing. Or it is random without saying so, or looks at the other clips of a batch.

    Raises:
        BenchError: the input is not what it should be; the message says what to do.

    Example:
        >>> frame = bench.evaluate(model, clips, labels, defense="jpeg", attack="pgd", gradient="bpda")
        >>> frame["correct"].mean()
    """
    dataset = _checked(model, clips, labels)
    how: dict[str, Any] = {"gradient": gradient, "budget": budget, "seed": seed}
    pairs = itertools.product(_components(defense, DEFENSES), _components(attack, ATTACKS))
    # All are read before any is run: a mistake must not show after hours.
    questions = [_Question.read(defense=one, attack=other, **how) for one, other in pairs]
    torch_device = pick_device(device)
    frames, adversarial, said = [], dict[tuple[str, str], Tensor](), dict[str, None]()
    # One store for all: what they share is made once.
    with _as_it_was(model), tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for question in questions:
            plan = question.plan(model, dataset)
            measured = run_plan(
                plan,
                Path(folder),
                device=torch_device,
                batch_size=batch_size,
                keep="all" if keep else "shared",
                cache=0.0,
            )
            refused = [skipped for skipped in plan.skipped if skipped.defense == question.defense.label]
            if refused:
                raise BenchError(refused[0].reason)
            said |= dict.fromkeys(measured.warnings)
            frames.append(question.frame(measured.results))
            if keep:
                key = question.defense.label, question.label
                adversarial[key] = _kept(plan, Path(folder), question, dataset)
            if verbose:
                _print(measured.tables)
    for warning in said:
        warnings.warn(warning, stacklevel=2)
    frame = pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]
    return Evaluated(frame, adversarial) if keep else frame


def _kept(plan: Plan, store_folder: Path, question: _Question, dataset: _InMemory) -> Tensor:
    """The adversarial clips of the row that was asked about; not a number where there is none."""
    cell = next(c for c in plan.cells if c.defense.label == question.defense.label and c.attack_label == question.label)
    assert cell.unit is not None
    clips = torch.stack([dataset.load(ref) for ref in dataset.refs()])
    found = torch.full_like(clips, float("nan"))
    with Store(store_folder, writable=False) as store:
        done = store.clips_done(cell.unit.id) - store.clip_errors(cell.unit.id).keys()
        rows = [i for i, ref in enumerate(dataset.refs()) if ref.id in done]
        if rows:
            ids = [dataset.refs()[i].id for i in rows]
            found[rows] = store.load_clips(cell.unit.id, ids, clips[rows]).clips
    return found


def plot(
    *what: str,
    kind: str = "accuracy",
    against: str = "",
    attacks: Sequence[str] = (),
    budget: str = "",
    results: str | Path = "results",
) -> Figure:
    """Draws stored results, as ``bench plot`` does; docs/tables.md shows what.

    Args:
        what: ``GRID``, ``GRID:DEFENCE[@MODEL]``, results folders or result files.
        kind: ``accuracy`` against an argument, ``loss`` of attacks, ``confusion`` of the classes of one row, or
            ``measure``, what the defence of one row measures of clips.
        against: of accuracy, the argument: ``size``, ``steps``, ``t_star``, ``queries`` or any other of attacks and
            defences (``defense.steps`` where the name alone says too little); if not given, the one that differs.
        attacks: labels of attacks; all if not given, of ``confusion`` the clean clips.
        budget: the first words of the budgets that are drawn, such as ``linf 4/255``; all if not given.
        results: folder of the grids' folders.

    Raises:
        BenchError: nothing is called so, nothing differs in the argument, no losses are kept, or there is too much for
            one figure.
    """
    return draw(
        figure_data(
            *what,
            kind=kind,
            against=against,
            attacks=attacks,
            budget=budget,
            results=Path(results),
            names=class_names,
        )
    )


def figure(name: str, *, grid: str = "", attacks: Sequence[str] = (), results: str | Path = "results") -> Figure:
    """Draws a figure of a paper as it was measured here, as ``bench figure`` does; docs/tables.md lists them.

    Args:
        name: of the figure, such as ``videopure-4``.
        grid: whose results are drawn; if not given, the first of the figure's grids that has any.
        attacks: labels of attacks; those of the figure if not given.
        results: folder of the grids' folders.

    Raises:
        BenchError: there is no such figure, it is not known here what it shows, or there are no results of it.
    """
    return draw(published_data(name, grid, attacks=attacks, results=Path(results), names=class_names))


def class_names(dataset: str) -> Sequence[str]:
    """Names of the classes of a registered data set, in the order of their numbers; none where they are those of its
    files, or it is not installed here."""
    try:
        names = getattr(DATASETS.get(dataset).factory, "classes", ())
    except BenchError:
        return ()
    return names if isinstance(names, tuple | list) else ()
