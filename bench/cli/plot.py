"""``bench plot``: figures of stored results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.app import Results, err


def plot(
    what: Annotated[list[str], typer.Argument(help="GRID, GRID:DEFENCE[@MODEL], results folders or result files.")],
    kind: Annotated[
        str, typer.Option(help="accuracy, loss, confusion (of classes) or measure (of a defence).")
    ] = "accuracy",
    against: Annotated[
        str,
        typer.Option(help="Of accuracy: size, steps, t_star, queries or any argument; the one that differs."),
    ] = "",
    attack: Annotated[list[str] | None, typer.Option(help="Label of an attack to draw; repeatable.")] = None,
    budget: Annotated[str, typer.Option(help="First words of the budgets to draw, such as 'linf 4/255'.")] = "",
    output: Annotated[Path | None, typer.Option(help="FILE.svg, .png or .pdf; GRID-KIND.svg if not given.")] = None,
    results: Results = Path("results"),
) -> None:
    """Draw stored results: accuracy against an argument, losses, classes against answers, what defences measure."""
    from bench.report.plot import draw, figure_data, save
    from bench.report.rows import find_rows

    data = figure_data(
        *what, kind=kind, against=against, attacks=attack or (), budget=budget, results=results, names=class_names
    )
    file = output if output is not None else Path(f"{find_rows(what[0], results)[0].grid}-{kind}.svg")
    save(draw(data), file)
    for remark in data.remarks:
        err.print(remark, soft_wrap=True)
    err.print(f"wrote {file}", soft_wrap=True)


def class_names(dataset: str) -> Sequence[str]:
    """Names of the classes of a registered data set."""
    from bench.api import class_names as of_registry  # which loads torch

    return of_registry(dataset)
