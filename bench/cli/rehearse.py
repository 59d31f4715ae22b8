"""``bench rehearse``: a published grid on random weights, for time and memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.app import Device, err, out, prepare_device, stoppable
from bench.cli.run import Attacks, Defenses, Models

if TYPE_CHECKING:
    from bench.ready.rehearsal import Rehearsed


def rehearse(
    grid: Annotated[str, typer.Argument(help="Name of a shipped grid, or a .yaml file.")],
    folder: Annotated[Path, typer.Option(help="Where weights, videos and results go.")] = Path("rehearsal"),
    clips: Annotated[int, typer.Option(help="How many clips.", min=1)] = 1,
    width: Annotated[float, typer.Option(help="Of diffusion models, as a share of the published width.")] = 1.0,
    frames: Annotated[int | None, typer.Option(help="Frames of a clip, in place of the grid's.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of a clip, in place of the grid's.")] = None,
    steps: Annotated[int | None, typer.Option(help="Attack steps, in place of the grid's.")] = None,
    model: Models = None,
    defense: Defenses = None,
    attack: Attacks = None,
    device: Device = "auto",
) -> None:
    """Run a published grid end to end on seeded random weights and rendered videos, in the published formats.

    It shows that the formats are read and how much time and memory each part takes here, and nothing of robustness.
    """
    from bench.grids.grid import find_grid, override

    chosen = override(find_grid(grid), models=model or (), defenses=defense or (), attacks=attack or (), steps=steps)
    with stoppable("Stopped. The same command continues from there."), err.status("Rehearsing ..."):
        from bench.ready.rehearsal import rehearse as run

        done = run(chosen, folder, clips=clips, width=width, frames=frames, size=size, device=prepare_device(device))
    _print(done)
    if any(outcome.status != "ok" for result in done.results for outcome in result.outcomes):
        example = next(o.error for r in done.results for o in r.outcomes if o.status != "ok")
        err.print(f"Some outcomes failed; the first says: {example}.", style="bold red", markup=False, soft_wrap=True)
        raise typer.Exit(1)


def _print(done: Rehearsed) -> None:
    from rich import box
    from rich.table import Table

    passes = {
        f"{r.model}: {r.defense}, {r.attack}": (
            sum(o.forwards for o in r.outcomes),
            sum(o.backwards for o in r.outcomes),
        )
        for r in done.results
    }
    table = Table(box=box.SIMPLE_HEAD, title=f"{done.grid.name}, random weights", title_justify="left")
    table.add_column("Part")
    for heading in ("seconds", "forward", "backward", "peak GiB"):
        table.add_column(heading, justify="right")
    for part in done.parts:
        forward, backward = passes.get(part.what, ("", ""))
        table.add_row(
            part.what,
            f"{part.seconds:.2f}",
            str(forward),
            str(backward),
            f"{part.peak / 2**30:.2f}" if part.peak else "?",
        )
    out.print(table)
    total = sum(part.seconds for part in done.parts)
    out.print(
        f"{total:.1f} s for {len(done.results)} cells; weights and videos took {done.written:.1f} s to make.",
        highlight=False,
    )
