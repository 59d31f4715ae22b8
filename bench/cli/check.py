"""``bench check``: does a component of one's own keep the contract, before anything is measured?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.app import Device, err, loading, out, prepare_device, warn_broken
from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.audit.contract import Inspection
    from bench.grids.grid import Grid

check = typer.Typer(help="Dry runs: does a component keep the contract?", no_args_is_help=True)

# Clips that are asked: few, as it is to take less than a minute, and several, as a batch has to be told from a clip.
_CLIPS = 2


@check.callback()
def _root() -> None:
    pass


@check.command("defense")
def defense(
    text: Annotated[
        str, typer.Argument(metavar="DEFENSE", help="FILE.py:Class, package.module:Class or a name, with parameters.")
    ],
    weights: Annotated[str | None, typer.Option(help="File of weights, for the defence's parameter weights.")] = None,
    model: Annotated[str, typer.Option(help="Classifier behind it.")] = "nl_tiny",
    dataset: Annotated[str, typer.Option(help="Data set whose first clips it is asked about.")] = "actions12",
    device: Device = "auto",
) -> None:
    """Say what would be refused of a defence, what is noted, and which attacks it would meet.

    Exit code 1 if something would be refused.
    """
    with loading():
        from bench.audit.contract import inspect
        from bench.plan.expand import make_plan

        torch_device = prepare_device(device)
        grid = _grid(text, weights, model, dataset)
        plan = make_plan(grid)
        label = str(grid.defense_specs[-1])
    warn_broken()
    with err.status("Asking ..."):
        found = inspect(plan, label, torch_device)
    _print(label, grid, found)
    if found.refused:
        raise typer.Exit(1)


def _grid(text: str, weights: str | None, model: str, dataset: str) -> Grid:
    from bench.grids.grid import DatasetSection, Grid
    from bench.registry import DEFENSES, Spec

    spec, data = Spec.parse(text), Spec.parse(dataset)
    if weights is not None:
        if not any(p.name == "weights" for p in DEFENSES.get(spec.name).parameters):
            raise BenchError(f"{spec} takes no parameter weights: leave --weights out, or add it to the constructor.")
        if not Path(weights).is_file():
            raise BenchError(f"There is no file of weights {weights}.")
        spec = Spec(spec.name, {**spec.params, "weights": weights}, spec.label)
    if str(spec) == "none":
        raise BenchError("none is the undefended row: give a defence.")
    described = {"name": spec.name, **spec.params, **({"label": spec.label} if spec.label else {})}
    grid = Grid(
        name="check",
        dataset=DatasetSection(**{"clips": _CLIPS, **data.params, "name": data.name}),
        models=[model],
        defenses=["none", described],
        budgets=[{"norm": "linf", "size": "4/255", "steps": 10}],
        attacks=["clean", "adaptive"],
    )
    grid.check()
    return grid


def _print(label: str, grid: Grid, found: Inspection) -> None:
    out.print(f"{label} before {grid.models[0]}, {_CLIPS} clips", style="bold", soft_wrap=True)
    for verdict, words in (("refused", "Would be refused"), ("noted", "Noted")):
        of_verdict = [b for b in found.breaches if b.verdict == verdict]
        out.print(f"\n{words}: {'' if of_verdict else 'nothing'}", style="bold")
        for breach in of_verdict:
            out.print(f"  {breach.check}: {breach.message}", soft_wrap=True, highlight=False)
    out.print("\nThe column Robust would run against it (forward and backward passes of a clip, at most)", style="bold")
    for move, forwards, backwards in found.moves:
        out.print(f"  {move}: {forwards}, {backwards}", soft_wrap=True, highlight=False)
    forwards, backwards = sum(f for _, f, _ in found.moves), sum(b for _, _, b in found.moves)
    # A backward pass takes about as long as two forward ones.
    minutes = (forwards + 2 * backwards) * found.seconds / 60
    out.print(f"  together: {forwards}, {backwards}; here about {minutes:.2g} min a clip", highlight=False)
    out.print(
        f"\nOne clip takes {found.seconds:.3g} s; asking took at most {found.megabytes:.0f} MB more memory.",
        highlight=False,
    )
