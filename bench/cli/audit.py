"""``bench audit``: signs that a row's figures are too good, and its grade."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.text import Text

from bench.cli.app import Checkpoint, DataRoot, DatasetName, Device, Results, err, loading, out, warn_broken
from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.records.audits import AuditedRow
    from bench.records.identity import AskedGradient

# Clips that a finding names before it is cut short.
_NAMED_CLIPS = 4


def audit(
    grid: Annotated[
        str, typer.Argument(help="Name of a grid that was run, or of its results (demo-clips6), or its .yaml file.")
    ] = "demo",
    run: Annotated[
        str | None,
        typer.Option(help="Name of the results, where the grid was run with --clips, --steps, --seed or --precision."),
    ] = None,
    defense: Annotated[
        list[str] | None, typer.Option(help="Defence in place of the grid's, beside the undefended row.")
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help="Classifier in place of the grid's.")] = None,
    dataset: DatasetName = None,
    clips: Annotated[int, typer.Option(help="Clips of each row that are asked again; 0 for none.", min=0)] = 8,
    gradient: Annotated[
        str, typer.Option(help="How the defence is differentiated when asked again; auto is exact where it exists.")
    ] = "auto",
    minutes: Annotated[
        float, typer.Option(help="Time that asking one row may take; what takes longer is left out, and said.", min=0)
    ] = 20,
    salt: Annotated[
        str | None, typer.Option(help="Seed of the audit's random numbers, to repeat one; drawn if not given.")
    ] = None,
    checkpoint: Checkpoint = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    results: Results = Path("results"),
    as_json: Annotated[bool, typer.Option("--json", help="An array of audited rows.")] = False,
) -> None:
    """Look for signs that a row's figures are too good: masked gradients, lucky draws, memory, weak attacks.

    Every row gets a grade, from A (nothing found) to F (void), which the leaderboard shows.
    """
    from bench.grids.grid import find_grid
    from bench.grids.tagged import run_of, untagged

    name, of_run = untagged(grid)
    chosen = run_of(
        find_grid(name), results, run or of_run, models=model or (), defenses=defense or (), dataset=dataset
    )
    folder = results / chosen.name
    if not folder.is_dir():
        raise BenchError(f"There are no results of {chosen.name!r} in {results}: run 'bench run --grid {grid}' first.")
    with loading() as watch:
        from bench.audit.rows import audit as audit_rows
        from bench.plan.expand import make_plan
        from bench.plan.select import Asking
        from bench.records.audits import write_audit
        from bench.records.results import read_results
        from bench.run.engine import pick_device

        cells = read_results(folder)
        asking = Asking(pick_device(device), results / ".store", watch, keep=False)
        plan = make_plan(chosen, data_root=data_root, checkpoint=checkpoint, asking=asking)
    with err.status("Auditing ...") as status:
        warn_broken()
        rows = audit_rows(
            plan,
            cells,
            clips=clips,
            gradient=cast("AskedGradient", gradient),  # an unknown one is refused there
            device=asking.device,
            minutes=minutes,
            salt=salt,
            store=results / ".store",
            data_root=data_root,
            checkpoint=checkpoint,
            working_on=lambda row: status.update(Text(f"Auditing {row.model}, {row.defense} ...")),
        )
    if as_json:
        typer.echo(json.dumps([r.model_dump() for r in rows], indent=1))
    else:
        for row in rows:
            print_row(row)
    path = write_audit(folder, rows)  # after what was found is shown: the folder may be somebody else's
    if as_json:
        return
    out.print(f"\nWritten to {path}. Next: bench leaderboard", highlight=False)


def print_row(row: AuditedRow) -> None:
    words = f"  {row.model} · {row.defense} · {row.budget}: {row.asked}"
    out.print(Text.assemble((row.grade, "bold"), words), highlight=False)
    if row.dear:
        out.print(f"   not asked: {row.dear}", highlight=False, markup=False, soft_wrap=True)
    for finding in row.findings:
        cells = f" [{', '.join(finding.cells)}]" if finding.cells else ""
        cut = ", ..." if len(finding.clips) > _NAMED_CLIPS else ""
        clips = f" ({', '.join(finding.clips[:_NAMED_CLIPS])}{cut})" if finding.clips else ""
        out.print(
            f"   {finding.severity}, {finding.check}: {finding.message}{cells}{clips}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
