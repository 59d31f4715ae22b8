"""``bench compare``: whether one row is better than another, or only luckier."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from bench.cli.app import Results, out

if TYPE_CHECKING:
    from bench.report.compare import Comparison

LEGEND = (
    "Accuracy in percent on the clips that both have; A - B in percentage points, with its 95 % interval for paired "
    "proportions (Newcombe 1998, method 10). p: exact McNemar test, two-sided; Holm: corrected over the columns of "
    "these two rows."
)
RANDOM = (
    "Several draws of a clip are averaged and count as one clip: p is that of the exact sign-flip test of these "
    "averages, McNemar's where every clip has one draw; the interval is that of one draw, a wide one."
)


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="GRID:DEFENCE[@MODEL], a grid, a folder or a result file.")],
    second: Annotated[str, typer.Argument(metavar="B", help="What it is compared with, named alike.")],
    results: Results = Path("results"),
    as_json: Annotated[bool, typer.Option("--json", help="An array of compared rows.")] = False,
) -> None:
    """Compare two rows, or all rows that two grids or folders share, on the clips that both have."""
    from bench.report.compare import compare_rows, pair_rows
    from bench.report.rows import find_rows

    pairs = pair_rows(find_rows(first, results), find_rows(second, results))
    compared = [compare_rows(a, b) for a, b in pairs]
    if as_json:
        typer.echo(json.dumps([asdict(c) for c in compared], indent=1))
        return
    for comparison in compared:
        _print(comparison)
    out.print(LEGEND, style="dim", highlight=False)
    if any(column.randomised for comparison in compared for column in comparison.columns):
        out.print(RANDOM, style="dim", highlight=False)


def _print(comparison: Comparison) -> None:
    out.print(f"A = {comparison.first}, B = {comparison.second}", style="italic", highlight=False, soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Attack", overflow="fold")
    for title in ("Clips", "A", "B", "A - B", "95 %", "Only A", "Only B", "p", "Holm"):
        table.add_column(title, justify="right")
    for c in comparison.columns:
        table.add_row(
            " ".join(filter(None, (c.attack, c.budget))),
            *(
                str(c.clips),
                f"{c.first:.1f}",
                f"{c.second:.1f}",
                f"{c.difference:+.1f}",
                f"{c.low:+.0f} to {c.high:+.0f}",
            ),
            *(str(len(c.only_first)), str(len(c.only_second)), f"{c.p:.3g}", f"{c.adjusted:.3g}"),
        )
    out.print(table)
    for c in comparison.columns:
        for side, clips in (("A", c.only_first), ("B", c.only_second)):
            if clips:
                how = "right more often" if c.randomised else "right"
                out.print(f"{c.attack}: only {side} is {how} on {', '.join(clips)}.", highlight=False, soft_wrap=True)
        if c.left_out:
            out.print(f"{c.attack}: {c.left_out} clips that only one has are left out.", highlight=False)
        if c.remark:
            out.print(f"{c.attack}: {c.remark}.", highlight=False)
    if comparison.missing:
        out.print(f"Only one has {', '.join(comparison.missing)}.", highlight=False, soft_wrap=True)
