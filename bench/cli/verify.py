"""``bench verify``: does a row of results stand when it is asked again?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from bench.cli.app import Checkpoint, DataRoot, Device, Results, err, out, prepare_device, warn_broken
from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.records.submissions import VerifiedCell


def verify(
    what: Annotated[str, typer.Argument(metavar="FOLDER|GRID", help="Folder of a submission, or results of a grid.")],
    clips: Annotated[int, typer.Option(help="Clips of each row that are judged and attacked again.", min=1)] = 8,
    defense: Annotated[list[str] | None, typer.Option(help="Of a grid: label of the row; all if not given.")] = None,
    run: Annotated[str | None, typer.Option(help="Of a grid: name of its results, where there are several.")] = None,
    weights: Annotated[
        list[Path] | None, typer.Option(help="File that the submission reads and that is too large for its folder.")
    ] = None,
    minutes: Annotated[float, typer.Option(help="Time that the audit of a row may take.", min=0)] = 20,
    salt: Annotated[
        str | None, typer.Option(help="By which clips are drawn, to repeat a verification; drawn if not given.")
    ] = None,
    checkpoint: Checkpoint = None,
    data_root: DataRoot = None,
    device: Device = "cpu",
    results: Results = Path("results"),
    as_json: Annotated[bool, typer.Option("--json", help="What was found, as one object.")] = False,
) -> None:
    """Judge kept adversarial clips again, attack drawn clips from the start, and compare with what is recorded.

    The defence runs in a process of its own that has no labels. Of a submission, the verdict is written into its
    folder; bench leaderboard takes in none without. Exit code 1 if a row cannot be believed.
    """
    torch_device = prepare_device(device)
    with err.status("Loading ...") as status:
        from bench.ready import verification as ready
        from bench.records.submissions import is_submission, write_verification

        def working_on(words: str) -> None:
            status.update(Text(f"Asking again: {words} ..."))

        folder = Path(what)
        if folder.is_dir() and is_submission(folder):
            if defense or run:
                raise BenchError("--defense and --run are for the results of a grid: leave them out.")
            found = ready.verify(
                folder,
                clips=clips,
                salt=salt,
                device=torch_device,
                minutes=minutes,
                weights=weights or (),
                data_root=data_root,
                checkpoint=checkpoint,
                working_on=working_on,
            )
            write_verification(folder, found)
            cells, reasons = found.cells, found.reasons
            described = found.model_dump(mode="json")
        else:
            if weights:
                raise BenchError("--weights is for a submission's files: leave it out.")
            cells, reasons = ready.verify_grid(
                what,
                results,
                run=run,
                clips=clips,
                salt=salt,
                device=torch_device,
                defenses=defense or (),
                data_root=data_root,
                checkpoint=checkpoint,
                working_on=working_on,
            )
            described = {"cells": [cell.model_dump(mode="json") for cell in cells], "reasons": reasons}
    warn_broken()
    if as_json:
        typer.echo(json.dumps(described, indent=1))
    else:
        _print(cells, reasons)
    if reasons:
        raise typer.Exit(1)


def _print(cells: Sequence[VerifiedCell], reasons: Sequence[str]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("Grid", "Defence", "Attack"):
        table.add_column(title, overflow="fold")
    for title in ("Kept", "Exact", "Other", "Lost", "Won", "Same verdict, %"):
        table.add_column(title, justify="right")
    for cell in cells:
        share, low, high = cell.agreement
        total = cell.total
        table.add_row(
            cell.grid,
            cell.defense,
            cell.attack,
            *(str(count.asked) for count in (cell.kept, cell.exact, cell.other)),
            str(total.lost),
            str(total.won),
            f"{100 * share:.0f} [{100 * low:.0f}, {100 * high:.0f}]",
        )
    if cells:
        out.print(table)
        out.print(
            "Kept: adversarial clips of the run, judged again. Exact, other: attacked again, and come out as recorded "
            "or not. Lost: recorded as right, and wrong now. Won: the other way round. Intervals: 95 % Wilson.",
            style="dim",
        )
    for words in reasons:
        out.print(f"Refused: {words}", style="bold red", highlight=False, soft_wrap=True)
    if not reasons:
        out.print("Verified." if cells else "Nothing was there to verify.", style="bold")
