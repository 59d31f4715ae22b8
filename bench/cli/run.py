"""``bench run``: a grid's clips are attacked and judged, and its table is printed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

import typer
from rich.text import Text

from bench.cli.app import (
    Checkpoint,
    DataRoot,
    DatasetName,
    Device,
    Results,
    err,
    loading,
    out,
    prepare_device,
    stoppable,
    warn_broken,
)
from bench.cli.cost import print_cost
from bench.errors import BenchError
from bench.report.bar import RunProgress

if TYPE_CHECKING:
    from bench.api import GridRun
    from bench.plan.cells import Plan
    from bench.records.results import CellResult


_STOPPED = "Stopped. Every finished batch is stored; the same command continues from there."

Models = Annotated[
    list[str] | None, typer.Option(help="Classifier in place of the grid's: a name, FILE.py:factory or module:factory.")
]
Defenses = Annotated[
    list[str] | None,
    typer.Option(
        help="Defence in place of the grid's, beside the undefended row: name, name(key=value), FILE.py:Class."
    ),
]
Attacks = Annotated[list[str] | None, typer.Option(help="Attack in place of the grid's: ATTACK or ATTACK+GRADIENT.")]
ControlClips = Annotated[
    int, typer.Option(help="Clips per adaptive cell that are also attacked with a budget of size 0.", min=0)
]

EngineName = Annotated[str, typer.Option(help="local: this process; ray: workers in processes of their own.")]
Workers = Annotated[
    int | None, typer.Option(help="How many, with --engine ray: one per GPU, or else per core, if not given.", min=1)
]
Address = Annotated[str | None, typer.Option(help="Of a Ray cluster that runs already: HOST:PORT or auto.")]


def _parse_batch_size(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdigit() or int(text) < 1:
        raise BenchError(f"--batch-size must be a positive whole number or auto, not {text!r}.")
    return int(text)


def _is_local(engine: str, workers: int | None, address: str | None) -> bool:
    if engine not in ("local", "ray"):
        raise BenchError(f"Unknown engine {engine!r}: choose local or ray.")
    if engine == "local" and (workers is not None or address is not None):
        raise BenchError("--workers and --address are for --engine ray: add that, or leave them out.")
    return engine == "local"


def _parse_wrap(mean: str | None, std: str | None, size: int | None, frames: int | None) -> dict[str, Any]:
    """Settings of the classifier's wrapping that are given."""
    found: dict[str, Any] = {key: value for key, value in (("size", size), ("frames", frames)) if value is not None}
    for key, text in (("mean", mean), ("std", std)):
        if text is not None:
            try:
                found[key] = [float(part) for part in text.split(",")]
            except ValueError as error:
                raise BenchError(f"--{key} must be three numbers, R,G,B, not {text!r}.") from error
    return found


_Keep = Literal["all", "shared", "none"]


def _parse_keep(text: str) -> _Keep:
    for known in get_args(_Keep):
        if text == known:
            return cast(_Keep, known)
    raise BenchError(f"--keep must be all, shared or none, not {text!r}.")


def run(
    grid: Annotated[str, typer.Option(help="Name of a shipped grid, or a .yaml file.")] = "demo",
    model: Models = None,
    defense: Defenses = None,
    attack: Attacks = None,
    label: Annotated[str | None, typer.Option(help="Names the row of the one --defense or --model given.")] = None,
    dataset: DatasetName = None,
    mean: Annotated[str | None, typer.Option(help="What the --model takes off each colour: R,G,B in [0, 1].")] = None,
    std: Annotated[str | None, typer.Option(help="By what the --model divides each colour: R,G,B.")] = None,
    side: Annotated[
        int | None, typer.Option("--size", help="Side of the frames that the --model takes, in pixels.")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Frames that the --model takes.")] = None,
    checkpoint: Checkpoint = None,
    data_root: DataRoot = None,
    clips: Annotated[int | None, typer.Option(help="Use only the first so many clips.")] = None,
    steps: Annotated[int | None, typer.Option(help="Attack steps, in place of the grid's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed, in place of the grid's.")] = None,
    device: Device = "auto",
    batch_size: Annotated[str, typer.Option(help="Clips per batch, or auto.")] = "auto",
    results: Results = Path("results"),
    control: ControlClips = 4,
    retry_failed: Annotated[bool, typer.Option(help="Run failed, missing and invalid clips again.")] = False,
    fail_fast: Annotated[
        bool,
        typer.Option("--fail-fast", help="Stop at the first clip with which a component fails; it is not charged."),
    ] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Print each failure's whole traceback.")] = False,
    precision: Annotated[
        str | None,
        typer.Option(help="Of networks under attack: fp32, tf32 or bf16; the judge's compute in fp32, whatever it is."),
    ] = None,
    engine: EngineName = "local",
    workers: Workers = None,
    address: Address = None,
    keep: Annotated[
        str, typer.Option(help="Adversarial clips that stay in the store: all, shared (by all defences) or none.")
    ] = "all",
    cache: Annotated[
        float, typer.Option(help="Gigabytes of decoded clips to keep, so that a video is decoded once.", min=0)
    ] = 20.0,
    dry_run: Annotated[bool, typer.Option(help="Print the plan, and what it costs, and stop.")] = False,
    card: Annotated[str, typer.Option(help="Of --dry-run: the graphics card whose hours are named.")] = "h200",
) -> None:
    """Run a grid and print its Standard / Robust* / Robust table.

    Outcomes are stored clip by clip; a run that was stopped continues where it was.
    """
    begun = time.monotonic()
    size, local, kept = _parse_batch_size(batch_size), _is_local(engine, workers, address), _parse_keep(keep)
    from bench.grids.grid import find_grid, override

    chosen = override(
        find_grid(grid),
        models=model or (),
        defenses=defense or (),
        attacks=attack or (),
        clips=clips,
        steps=steps,
        seed=seed,
        precision=precision,
        label=label,
        dataset=dataset,
        wrap=_parse_wrap(mean, std, side, frames),
    )
    store_folder = results / ".store"
    with ExitStack() as stack:
        stack.enter_context(stoppable(_STOPPED))
        with loading() as watch:
            from bench.api import run_plan
            from bench.plan.expand import make_plan
            from bench.plan.select import Asking
            from bench.run.cluster import RayCrew, Recipe

            # Workers load what they need while the plan is made here.
            crew: RayCrew | None = None
            if not local and not dry_run:
                crew = stack.enter_context(RayCrew(workers, address=address, device=device))
            torch_device = prepare_device(device if crew is None else "cpu" if device == "cpu" else "auto")
            asking = Asking(torch_device, store_folder, watch, keep=not dry_run)
            plan = make_plan(chosen, data_root=data_root, checkpoint=checkpoint, asking=asking)
            if crew is not None:
                crew.give(
                    Recipe.of(chosen, store_folder, data_root, checkpoint, fail_fast=fail_fast, cache=cache), plan
                )
        warn_broken()
        for note in filter(None, (plan.dataset.note, plan.note)):
            err.print(note, markup=False, soft_wrap=True)
        if dry_run:
            _print_plan(plan, store_folder)
            print_cost(plan, card)
            _print_room(plan, kept)
            return
        with RunProgress(err) as progress:
            measured = run_plan(
                plan,
                store_folder,
                results_folder=results,
                device=torch_device,
                batch_size=size,
                retry=retry_failed,
                control=control,
                fail_fast=fail_fast,
                progress=progress,
                crew=crew,
                keep=kept,
                cache=cache,
            )
    if crew is not None and crew.deaths:
        who = "a worker" if crew.deaths == 1 else f"{crew.deaths} workers"
        err.print(f"Warning: {who} ended abruptly; the batches at work were given to others.", style="yellow")
    print_run(chosen.title, measured)
    _print_warnings(measured.warnings)
    _print_end(measured.computed, time.monotonic() - begun, results / chosen.name)
    if print_flaws(measured.results, whole=traceback):
        raise typer.Exit(1)


def print_run(title: str, measured: GridRun) -> None:
    from bench.report.render import LEGEND, heading, render

    if title:
        out.print(Text(f"\n{title}", style="bold"))
    for table in measured.tables:
        out.print(heading(table), soft_wrap=True)
        out.print(render(table))
    out.print(LEGEND, style="dim")
    source = next((table.reported_from for table in measured.tables if table.reported_from), "")
    if source:
        out.print(f"Rows marked reported: {source}.", style="dim")
    if measured.removed:
        out.print(
            f"Removed {len(measured.removed)} result files of an earlier measurement with other weights, code, clips "
            f"or settings: {', '.join(measured.removed)}.",
            highlight=False,
        )


# Of more, only how many.
_WARNINGS = 10


def _print_warnings(warnings: Sequence[str]) -> None:
    """Says on standard error which figures deserve no belief."""
    for warning in warnings[:_WARNINGS]:
        err.print(f"Warning: {warning}", style="yellow", markup=False, soft_wrap=True)
    if len(warnings) > _WARNINGS:
        err.print(f"Warning: and {len(warnings) - _WARNINGS} more like these.", style="yellow", markup=False)


def _print_end(computed: int, seconds: float, folder: Path) -> None:
    work = f"{computed} clip outcomes in {seconds:.0f} s" if computed else f"nothing was left to do ({seconds:.0f} s)"
    out.print(f"\n{work}; every outcome is in {folder}/. Next: bench leaderboard", highlight=False)


# Lines of a traceback that say where something failed; and tracebacks that are printed whole.
_LAST_LINES, _TRACEBACKS = 6, 10


def print_flaws(results: Sequence[CellResult], *, whole: bool) -> bool:
    """Says on standard error which outcomes count as not robust, and returns whether any do.

    Args:
        whole: print all of each traceback, and not the end of the first.
    """
    outcomes = [outcome for result in results for outcome in result.outcomes]
    counts = Counter(outcome.status for outcome in outcomes)
    flaws = ", ".join(f"{counts[status]} {status}" for status in ("invalid", "missing", "failed") if counts[status])
    if not flaws:
        return False
    example = next(outcome.error for outcome in outcomes if outcome.error)
    err.print(
        f"{flaws} outcomes count as not robust; the first says: {example}. "
        "Mend the cause and run again with --retry-failed.",
        style="bold red",
        markup=False,
        soft_wrap=True,
    )
    seen = Counter(outcome.traceback for outcome in outcomes if outcome.traceback)
    for text, times in seen.most_common(_TRACEBACKS if whole else 1):
        lines = text.splitlines()
        cut = [] if whole or len(lines) <= _LAST_LINES else ["... (--traceback shows all of it)"]
        shown = [f"{times} of them:", *cut, *(lines if whole else lines[-_LAST_LINES:])]
        err.print("\n".join(shown), markup=False, soft_wrap=True)
    return True


def _print_plan(plan: Plan, store_folder: Path) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title=f"Plan of {plan.grid.name}: {len(plan.refs)} clips", title_justify="left")
    for heading in ("Cell", "Classifier", "Defence", "Attack", "Knowledge", "Budget", "Clips from"):
        table.add_column(heading)
    for cell in plan.cells:
        source = "-" if cell.unit is None else f"{'shared' if cell.unit.shared else 'own'} {cell.unit.id[:6]}"
        table.add_row(
            cell.id[:6],
            cell.model.label,
            cell.defense.label,
            cell.attack_label,
            cell.knowledge,
            str(cell.budget or "-"),
            source,
        )
    out.print(table)
    for skipped in plan.skipped:
        out.print(f"left out: {skipped.defense} x {skipped.attack}: {skipped.reason}", highlight=False)
    forwards, backwards = plan.cost()
    shared = sum(u.shared for u in plan.units)
    out.print(
        f"{len(plan.cells)} cells, {len(plan.units)} units of adversarial clips ({shared} shared); at most "
        f"{forwards} forward and {backwards} backward passes of one clip.",
        highlight=False,
    )
    _print_stored(plan, store_folder)


def _print_room(plan: Plan, keep: _Keep) -> None:
    from bench.cli.bank import in_bytes
    from bench.plan.probe import first_clip
    from bench.run.kept import estimate

    room = estimate(plan, keep, first_clip(plan.dataset, plan.refs))
    out.print(f"Adversarial clips that stay (--keep {keep}): about {in_bytes(room)}.", highlight=False)


def _print_stored(plan: Plan, folder: Path) -> None:
    from bench.run.store import Store

    clips = {r.id for r in plan.refs}
    with Store(folder, writable=False) as store:
        done = sum(len(clips & store.done(cell.id)) for cell in plan.cells)
    out.print(f"{done} of {len(plan.cells) * len(clips)} outcomes are stored in {folder}.", highlight=False)
