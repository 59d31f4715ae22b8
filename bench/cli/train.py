"""``bench train``: a network is trained, exported and measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from bench.cli.app import Device, err, out, prepare_device, stoppable

if TYPE_CHECKING:
    import torch

    from bench.training.loop import TrainingState


class _Settings(TypedDict):
    """What the training and the export of its weights are both told."""

    seed: int
    work: Path
    device: torch.device
    start: Path | None
    new_head: bool


def train(
    model: Annotated[str, typer.Option(help="Registered model.")],
    dataset: Annotated[str, typer.Option(help="Registered data set.")] = "motion12",
    recipe: Annotated[str, typer.Option(help="Training recipe.")] = "standard",
    steps: Annotated[int | None, typer.Option(help="Optimiser steps, in place of the recipe's.")] = None,
    seed: Annotated[int, typer.Option(help="Of data order and initial weights.")] = 0,
    device: Device = "auto",
    work: Annotated[Path | None, typer.Option(help="Folder of the training state; resumed if present.")] = None,
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of the weights and their manifest.")] = Path(
        "runs/zoo"
    ),
    curves: Annotated[Path, typer.Option(help="Folder of the picture of the learning curve.")] = Path("runs/curves"),
    start: Annotated[Path | None, typer.Option(help="File of weights to start from, in place of the recipe's.")] = None,
    new_head: Annotated[bool, typer.Option(help="Start the final layer afresh if --start has other classes.")] = False,
    measure_only: Annotated[bool, typer.Option(help="Measure exported weights again; train nothing.")] = False,
) -> None:
    """Train a network and export its weights with a manifest entry; a stopped training resumes.

    With --measure-only, weights that are already in --out are measured again and their figures replaced.
    """
    with err.status("Loading ..."):
        from bench.training.loop import default_work, export, remeasure
        from bench.training.loop import train as fit
        from bench.training.recipes import recipe_of

        chosen = recipe_of(recipe, steps)
        torch_device = prepare_device(device)
    if measure_only:
        with err.status("Measuring ..."):
            entry = remeasure(model, dataset, out=out_folder, device=torch_device, start=start)
        out.print_json(json.dumps(entry))
        return
    folder = work or default_work(model, dataset, chosen, seed)
    settings: _Settings = {"seed": seed, "work": folder, "device": torch_device, "start": start, "new_head": new_head}
    stopped = f"Stopped. The same command continues from the last state in {folder}."
    with stoppable(stopped), TrainProgress(f"{model} on {dataset}", chosen.steps) as progress:
        network = fit(model, dataset, chosen, report=progress.report, **settings)
    with err.status("Measuring the exported weights ..."):
        entry = export(
            network, model, dataset, chosen, seconds=progress.seconds, out=out_folder, curves=curves, **settings
        )
    out.print_json(json.dumps(entry))


class TrainProgress:
    """The bar of ``bench train``: steps, figures, time left. Shown on standard error.

    Attributes:
        seconds: spent on the training so far, earlier sittings included.
    """

    def __init__(self, title: str, steps: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.seconds = 0.0
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=err,
        )
        self._task = self._bar.add_task(title, total=steps, figures="")

    def __enter__(self) -> TrainProgress:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def report(self, state: TrainingState) -> None:
        """Shows where the training stands."""
        self.seconds = state.seconds
        figures = " ".join(f"{name} {value:.3f}" for name, value in {"loss": state.loss, **state.figures}.items())
        self._bar.update(self._task, completed=state.step, figures=figures)
