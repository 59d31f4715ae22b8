"""``bench watch``: how far a run is, from another terminal."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.app import Checkpoint, DataRoot, DatasetName, Results, err, loading, out, stoppable
from bench.errors import BenchError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from bench.grids.grid import Grid
    from bench.plan.cells import Plan
    from bench.run.watching import CellState, Snapshot

# Of more attacks, only how far they are together.
_MOST_COLUMNS = 6


def watch(
    grid: Annotated[
        str, typer.Argument(help="Name of a grid that runs, or of its results (demo-clips6), or its .yaml file.")
    ] = "demo",
    defense: Annotated[
        list[str] | None, typer.Option(help="Defence in place of the grid's, as the run was told.")
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help="Classifier in place of the grid's.")] = None,
    attack: Annotated[list[str] | None, typer.Option(help="Attack in place of the grid's.")] = None,
    dataset: DatasetName = None,
    clips: Annotated[int | None, typer.Option(help="Of the run, as the following.")] = None,
    steps: Annotated[int | None, typer.Option(help="Attack steps.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed.")] = None,
    precision: Annotated[str | None, typer.Option(help="Of networks under attack.")] = None,
    checkpoint: Checkpoint = None,
    data_root: DataRoot = None,
    results: Results = Path("results"),
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.2)] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once; so it is where nobody sees a terminal.")] = False,
) -> None:
    """Watch a run from another terminal: its rows as they fill, time left, who works, what fails.

    Give the options that bench run was given. Nothing is written; the run, of however many workers, does not notice.
    """
    from bench.grids.grid import find_grid, override
    from bench.grids.tagged import tags, untagged

    name, run = untagged(grid)
    found = find_grid(name)
    told = tags(run, name) or {} if run else {}
    given = {"clips": clips, "steps": steps, "seed": seed, "precision": precision}
    chosen = override(
        found,
        models=model or (),
        defenses=defense or (),
        attacks=attack or (),
        dataset=dataset,
        **(told | {key: value for key, value in given.items() if value is not None}),
    )
    if not (results / ".store" / "outcomes.sqlite").is_file():
        raise BenchError(
            f"Nothing was ever run into {results}: start 'bench run --grid {grid}', or give its --results."
        )
    with loading() as bar:
        from bench.plan.expand import make_plan
        from bench.plan.select import Asking
        from bench.run.engine import pick_device

        asking = Asking(pick_device("cpu"), results / ".store", bar, keep=False)
        plan = make_plan(chosen, data_root=data_root, checkpoint=checkpoint, asking=asking)
    with stoppable("Stopped watching; the run goes on."):
        _look(plan, results / ".store", every, once=once or not out.is_terminal)


def _look(plan: Plan, folder: Path, every: float, *, once: bool) -> None:
    from rich.live import Live

    from bench.run.watching import Pace, snapshot

    pace = Pace()
    seen = snapshot(plan, folder)
    if once:
        out.print(_shown(plan.grid, seen, None))
        return
    with Live(_shown(plan.grid, seen, None), console=out, auto_refresh=False) as live:
        while not seen.complete or seen.working:
            time.sleep(every)
            seen = snapshot(plan, folder)
            left = pace.left(time.monotonic(), seen.work, seen.all_work)
            live.update(_shown(plan.grid, seen, left), refresh=True)
    err.print("The run is complete.")


def _shown(grid: Grid, seen: Snapshot, left: float | None) -> RenderableType:
    """A table of rows, and what is to be said of all of them."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    attacks = list(dict.fromkeys(cell.attack for cell in seen.cells))
    attacks = attacks if len(attacks) <= _MOST_COLUMNS else []
    rows: dict[tuple[str, str, str], list[CellState]] = {}
    budgets = list(dict.fromkeys(cell.budget for cell in seen.cells if cell.budget))
    for cell in seen.cells:
        for budget in [cell.budget] if cell.budget else budgets or [""]:  # clean cells are of every budget
            rows.setdefault((cell.model, cell.defense, budget), []).append(cell)
    heads = ("Classifier", "Defence", "Budget")
    shown = [i for i in range(3) if i == 1 or len({key[i] for key in rows}) > 1]
    table = Table(box=box.SIMPLE_HEAD, title=f"{grid.name}: {_counts(seen)}", title_justify="left")
    for i in shown:
        table.add_column(heads[i])
    table.add_column("Outcomes", no_wrap=True)
    for attack in attacks:
        table.add_column(attack, justify="right")
    for key, cells in rows.items():
        by_attack = {cell.attack: cell for cell in cells}
        done, clips = sum(c.done for c in cells), sum(c.clips for c in cells)
        table.add_row(*(key[i] for i in shown), _bar(done, clips), *(_accuracy(by_attack.get(a)) for a in attacks))
    lines = [_state(seen, left)]
    for one in seen.working:
        lines.append(f"process {one.holder.pid} on {one.holder.host}: {one.clips} clips of {one.what}")
    if flaws := seen.flaws:
        said = ", ".join(f"{count} {status}" for status, count in sorted(flaws.items()))
        lines.append(f"Without an answer: {said}; the first says: {seen.flaw}")
    return Group(table, *(Text(line) for line in lines))


def _counts(seen: Snapshot) -> str:
    shared = f", {seen.units} of {seen.all_units} shared adversarial clips" if seen.all_units else ""
    return f"{seen.done} of {seen.clips} outcomes{shared}"


def _state(seen: Snapshot, left: float | None) -> str:
    if seen.complete and not seen.working:
        return "Complete."
    if not seen.working:
        return "Nobody works on it now: the same bench run goes on from here."
    share = f"{100 * seen.work / seen.all_work:.0f} % of the work at most" if seen.all_work else ""
    return f"{share}; {f'about {_time(left)} left' if left is not None else 'time left not known yet'}."


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _bar(done: int, clips: int, width: int = 12) -> str:
    full = width * done // clips if clips else width
    return f"{'█' * full}{'·' * (width - full)} {done}/{clips}"


def _accuracy(cell: CellState | None) -> str:
    """In percent, of what is stored so far."""
    if cell is None or not cell.done:
        return "-" if cell is None else "·"
    value = f"{100 * cell.right / cell.done:.1f}"
    return value if cell.done == cell.clips else f"{value} ({cell.done})"
