"""``bench train``: a network is trained, exported and measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.app import Device, err, out, prepare_device


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
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from bench.training.loop import TrainingState, default_work, export, remeasure
        from bench.training.loop import train as fit
        from bench.training.recipes import recipe_of

        chosen = recipe_of(recipe, steps)
        where = prepare_device(device)
    if measure_only:
        with err.status("Measuring ..."):
            entry = remeasure(model, dataset, out=out_folder, device=where, start=start)
        out.print_json(json.dumps(entry))
        return
    folder = work or default_work(model, dataset, chosen, seed)
    spent = 0.0
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns, console=err) as bar:
            task = bar.add_task(f"{model} on {dataset}", total=chosen.steps, figures="")

            def report(state: TrainingState) -> None:
                nonlocal spent
                spent = state.seconds
                figures = " ".join(f"{k} {v:.3f}" for k, v in {"loss": state.loss, **state.figures}.items())
                bar.update(task, completed=state.step, figures=figures)

            fitted = fit(
                model,
                dataset,
                chosen,
                seed=seed,
                work=folder,
                device=where,
                report=report,
                start=start,
                new_head=new_head,
            )
    except KeyboardInterrupt:
        err.print(f"Stopped. The same command continues from the last state in {folder}.")
        raise typer.Exit(130) from None
    with err.status("Measuring the exported weights ..."):
        entry = export(
            fitted,
            model,
            dataset,
            chosen,
            seed=seed,
            seconds=spent,
            out=out_folder,
            device=where,
            work=folder,
            curves=curves,
            start=start,
            new_head=new_head,
        )
    out.print_json(json.dumps(entry))
