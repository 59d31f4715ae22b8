"""How ``bench show GRID:DEFENCE`` shows a row of results, clip by clip."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bench.cli.app import out

if TYPE_CHECKING:
    from bench.report.clips import ClipOfRow


def is_row(name: str, results: Path) -> bool:
    """Whether a name is that of a row: a result file, or what begins with a results folder and a colon."""
    if name.endswith(".json") and Path(name).is_file():
        return True
    heads = [name[:at] for at, letter in enumerate(name) if letter == ":" and at]
    return any((results / head).is_dir() or Path(head).is_dir() for head in heads)


def show_row(name: str, results: Path, clip: str | None, as_json: bool) -> None:
    """Prints the clips of a row, those first that fall to most; one of them with all its numbers.

    Raises:
        BenchError: there is no such row or clip, or there are several rows.
    """
    from bench.report.clips import clips_of, described
    from bench.report.rows import find_row

    row = find_row(name, results)
    lines = clips_of(row, clip)
    if as_json:
        typer.echo(json.dumps([described(line) for line in lines], indent=1))
        return
    out.print(f"{row}: {len(lines)} clips", style="bold", highlight=False)
    if clip is not None:
        _print_clip(lines[0])
        return
    _print_clips(lines)
    out.print("x: wrong. --clip ID shows all numbers of one.", style="dim", highlight=False)


def _print_clips(lines: list[ClipOfRow]) -> None:
    from rich import box
    from rich.table import Table

    from bench.report.clips import answer

    columns = list(dict.fromkeys(column for line in lines for column in line.outcomes))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Clip")
    table.add_column("Label", justify="right")
    for title in _titles(columns):
        table.add_column(title, justify="right", overflow="fold")
    for line in lines:
        answers = [answer(line.outcomes[column]) if column in line.outcomes else "-" for column in columns]
        table.add_row(line.clip, str(line.label), *answers)
    out.print(table)


def _titles(columns: Iterable[tuple[str, str]]) -> list[str]:
    """Attacks, each with its budget below it where there are several."""
    listed = list(columns)
    several = len({budget for _, budget in listed if budget}) > 1
    return [f"{attack}\n{budget}" if several and budget else attack for attack, budget in listed]


def _print_clip(line: ClipOfRow) -> None:
    from rich import box
    from rich.table import Table

    from bench.report.clips import answer, ends

    out.print(f"{line.clip}, class {line.label}", highlight=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Attack", overflow="fold")
    for title in ("Answer", "linf / 255", "l2", "changed", "loss", "passes"):
        table.add_column(title, justify="right")
    titles = _titles(line.outcomes)
    for title, o in zip(titles, line.outcomes.values(), strict=True):
        loss = ends(o.trace)
        table.add_row(
            title,
            answer(o),
            "-" if o.linf is None else f"{255 * o.linf:.3g}",
            "-" if o.l2 is None else f"{o.l2:.3g}",
            "-" if o.changed is None else f"{100 * o.changed:.3g} %",
            "-" if loss is None else f"{loss[0]:.3g} to {loss[1]:.3g}",
            f"{o.forwards} + {o.backwards}",
        )
    out.print(table)
    for title, o in zip(titles, line.outcomes.values(), strict=True):
        if o.error:
            out.print(f"{', '.join(title.splitlines())}: {o.error}", highlight=False, markup=False)
