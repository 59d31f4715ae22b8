"""``bench figure``: the figures of the papers, from stored results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.app import Results, err, out

if TYPE_CHECKING:
    from bench.report.figures import Published


def figure(
    name: Annotated[str, typer.Argument(help="Such as videopure-4; all are listed if none is named.")] = "",
    grid: Annotated[str, typer.Option(help="Whose results are drawn; the first of the figure's that has any.")] = "",
    attack: Annotated[list[str] | None, typer.Option(help="Label of an attack to draw; repeatable.")] = None,
    output: Annotated[Path | None, typer.Option(help="FILE.svg, .png or .pdf; NAME.svg if not given.")] = None,
    results: Results = Path("results"),
) -> None:
    """Draw a figure of a paper as it was measured here, or list the figures."""
    from bench.cli.plot import class_names
    from bench.report.figures import FIGURES, published_data
    from bench.report.plot import draw, save

    if not name:
        for one in FIGURES:
            _list(one, results)
        return
    data = published_data(name, grid, attacks=attack or (), results=results, names=class_names)
    file = output if output is not None else Path(f"{name.casefold()}.svg")
    save(draw(data), file)
    for remark in data.remarks:
        err.print(remark, soft_wrap=True)
    err.print(f"wrote {file}", soft_wrap=True)


def _list(one: Published, results: Path) -> None:
    from bench.report.figures import stored

    words = one.shows or "not known here what it shows"
    out.print(f"{one.name:<22}{one.paper.name}, {one.number}: {words}", highlight=False, soft_wrap=True)
    there = stored(one, results)
    for made in one.grids:
        state = "has results" if made in there else f"no results: bench run --grid {made.grid}"
        out.print(f"{'':<22}{made.grid} ({state})", highlight=False, soft_wrap=True, style="dim")
