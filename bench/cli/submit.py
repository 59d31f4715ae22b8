"""``bench submit``: a defence for the board, as one folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.app import Checkpoint, DataRoot, Device, Results, err, loading, out, prepare_device, stoppable
from bench.errors import BenchError
from bench.grids import required
from bench.report.bar import RunProgress

if TYPE_CHECKING:
    from bench.ready.submission import Draft

_STOPPED = "Stopped. Every finished batch is stored; the same command continues from there."


def submit(
    text: Annotated[
        str | None, typer.Argument(metavar="DEFENSE", help="FILE.py:Class, package.module:Class or a name.")
    ] = None,
    card: Annotated[Path | None, typer.Option(help="The filled-in card: who submits what.")] = None,
    new_card: Annotated[Path | None, typer.Option("--new-card", help="Write an empty card there, and stop.")] = None,
    weights: Annotated[Path | None, typer.Option(help="File of weights, for the defence's parameter weights.")] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(help=f"Further grid, beside those that are required ({', '.join(required.REQUIRED)})."),
    ] = None,
    minutes: Annotated[float, typer.Option(help="Time that the audit of one grid's row may take.", min=0)] = 20,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what each grid costs, and stop.")] = False,
    graphics_card: Annotated[str, typer.Option(help="Of --dry-run: the graphics card whose hours are named.")] = "h200",
    checkpoint: Checkpoint = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    results: Results = Path("results"),
) -> None:
    """Check a defence, run the required grids with it, audit it, and put all into one folder to submit.

    Exit code 1 if the defence breaks its contract. A run that was stopped continues where it was.
    """
    if new_card is not None:
        _write_form(new_card)
        return
    if text is None or card is None:
        raise BenchError(
            "Give a defence and its card, FILE.py:Class --card card.yaml; --new-card card.yaml writes one to fill in."
        )
    with stoppable(_STOPPED):
        with loading():
            from bench.ready.submission import Draft

            draft = Draft.of(
                text,
                card,
                grids=list(dict.fromkeys([*required.REQUIRED, *(grid or ())])),
                weights=weights,
                results=results,
                data_root=data_root,
                checkpoint=checkpoint,
                device=prepare_device(device),
            )
        if dry_run:
            _print_cost(draft, graphics_card)
            return
        _check(draft)
        _run(draft, minutes)


def _write_form(path: Path) -> None:
    from bench.files import write_whole
    from bench.records.submissions import FORM

    if path.exists():
        raise BenchError(f"{path} is there already: name another file, or remove it.")
    try:
        write_whole(path, FORM)
    except OSError as error:
        raise BenchError(f"Cannot write {path}: {error}.") from error
    out.print(f"{path} written: fill it in, then bench submit FILE.py:Class --card {path}", highlight=False)


def _print_cost(draft: Draft, graphics_card: str) -> None:
    from bench.cli.cost import print_cost

    for plan in draft.plans(placed=False):
        out.print(f"\n{plan.grid.name}: {len(plan.refs)} clips, {len(plan.cells)} cells", style="bold", highlight=False)
        print_cost(plan, graphics_card)


def _check(draft: Draft) -> None:
    """Refuses what breaks the contract, before hours are spent on it."""
    with err.status("Checking the contract ..."):
        refused = [b for b in draft.inspect().breaches if b.verdict == "refused"]
    for breach in refused:
        err.print(f"Refused, {breach.check}: {breach.message}", style="red", markup=False, soft_wrap=True)
    if refused:
        err.print("Nothing was run. bench check defense shows the whole page.")
        raise typer.Exit(1)


def _run(draft: Draft, minutes: float) -> None:
    from bench.cli.audit import print_row
    from bench.cli.bank import in_bytes
    from bench.cli.run import print_flaws, print_run

    draft.place()
    flawed, clips = False, 0
    for plan in draft.plans():
        with RunProgress(err) as progress:
            made = draft.run(plan, minutes=minutes, progress=progress)
        print_run(plan.grid.title, made.run)
        for row in made.audits:
            print_row(row)
        flawed |= print_flaws(made.run.results, whole=False)
        clips += made.sample
    folder = draft.finish()
    out.print(f"\n{folder}: card, results and {in_bytes(clips)} of adversarial clips.", highlight=False)
    out.print(f"Next: bench verify {folder}, then a pull request with that folder (docs/submit.md).", highlight=False)
    if flawed:
        raise typer.Exit(1)
