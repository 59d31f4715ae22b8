"""``bench fetch``: published weights by name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.app import DataRoot, err, out, stoppable
from bench.errors import BenchError, nearest

if TYPE_CHECKING:
    from bench.weights.sources import Source


def fetch(
    names: Annotated[list[str] | None, typer.Argument(help="What to fetch; lists what there is if not given.")] = None,
    data_root: DataRoot = None,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="The licence that is shown is accepted.")
    ] = False,
) -> None:
    """Download published weights: resumed where a download stopped, checksums compared, licence shown first.

    Without a name, lists what is known, whether it is here, and under which licence.
    """
    from bench.weights.sources import sources

    known = sources(data_root)
    if not names:
        _list(known)
        return
    for name in names:
        if name not in known:
            raise BenchError(f"Nothing to fetch is called {name!r}{nearest(name, known)}; 'bench fetch' lists all.")
    for name in names:
        _fetch(known[name], accept_licence)


def _list(known: dict[str, Source]) -> None:
    width = max(map(len, known))
    for name, source in known.items():
        state = "here" if isinstance(source.place, Path) else "by hand" if source.by_hand else "fetch"
        licence = f" ({source.licence})" if source.licence else ""
        out.print(f"{name:<{width}}  {state:<7}  {source.what}{licence}", highlight=False, soft_wrap=True)


def _fetch(source: Source, accepted: bool) -> None:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from bench.ready.fetch import fetch as get
    from bench.ready.fetch import sha256

    if isinstance(source.place, Path):
        out.print(f"{source.name} is here: {source.place}", highlight=False)
        return
    if not source.by_hand:
        out.print(f"{source.name}: {source.what}\n  licence: {source.licence}", highlight=False, soft_wrap=True)
        _ask(accepted)
    bar = Progress(
        TextColumn(source.name), BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=err, transient=True
    )
    with stoppable("Stopped. The same command goes on from there."), bar:
        task = bar.add_task("fetch", total=None)
        path = get(source, lambda here, total: bar.update(task, completed=here, total=total or None))
    if path.is_file() and source.sha256 is None:
        words = f"; no checksum is published, that of this file is sha256 {sha256(path)}"
    else:
        words = "; its checksum is right" if path.is_file() else "; the sizes of its files are right"
    out.print(f"{source.name} is in {path}{words}", highlight=False, soft_wrap=True)


def _ask(accepted: bool) -> None:
    if accepted:
        return
    if not sys.stdin.isatty():
        raise BenchError("Say that the licence is accepted: --accept-licence.")
    if not typer.confirm("Do you accept this licence?"):
        raise typer.Exit(1)
