"""What all commands share: the application, its consoles and the options that several commands take."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from bench import __version__

if TYPE_CHECKING:
    import torch

app = typer.Typer(
    name="bench",
    help="VideoRobustBench: how robust a video classifier really is.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
# Tables need about 110 columns; a pipe or a file has no width of its own, but for what COLUMNS says, which the console
# reads. Labels may hold brackets: no text is markup.
_KNOWS_WIDTH = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit()
out = Console(width=None if _KNOWS_WIDTH else 120, soft_wrap=False, markup=False)
err = Console(stderr=True, highlight=False, markup=False)

Checkpoint = Annotated[Path | None, typer.Option(help="Weights of the classifier.")]
DataRoot = Annotated[Path | None, typer.Option(help="Folder of the data set's files.")]
DatasetName = Annotated[
    str | None,
    typer.Option("--dataset", help="Data set in place of the grid's, such as folder(root='clips')."),
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Results = Annotated[Path, typer.Option(help="Folder of result files.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bench {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def prepare_device(name: str) -> torch.device:
    """The device of that name, with this process made ready to compute on it for long.

    Raises:
        BenchError: there is no such device.
    """
    from bench.run.engine import keep_freed_memory, pick_device

    device = pick_device(name)
    if device.type == "cpu":
        keep_freed_memory()
    return device


@contextmanager
def loading() -> Iterator[Callable[[int, int], None]]:
    """Shows on standard error that something is loaded.

    Gives what shows a bar in its place, once the clips of a grid are looked at: it is told how many of how many classes
    of clips are done.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    status = err.status("Loading ...")
    bar = Progress(
        TextColumn("Selecting clips"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
        console=err,
        transient=True,
    )

    def watch(done: int, total: int) -> None:
        if not bar.tasks:
            status.stop()
            bar.start()
            bar.add_task("select", total=total)
        bar.update(bar.tasks[0].id, completed=done)

    status.start()
    try:
        yield watch
    finally:
        status.stop()
        if bar.tasks:
            bar.stop()


@contextmanager
def stoppable(message: str) -> Iterator[None]:
    """Ctrl-C ends the command with a sentence on standard error and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        err.print(message)
        raise typer.Exit(130) from None


def warn_broken() -> None:
    """Names on standard error every component that could not be imported."""
    from bench.registry import REGISTRIES

    for registry in REGISTRIES.values():
        for what, why in registry.broken.items():
            err.print(f"Warning: {what} could not be imported: {why}", style="yellow", markup=False)
