"""The command line. The only module that prints; heavy imports wait until a command needs them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from bench import __version__
from bench.errors import BenchError, nearest

if TYPE_CHECKING:
    from bench.plan.cells import Plan
    from bench.registry import Entry

app = typer.Typer(
    name="bench",
    help="VideoRobustBench: how robust a video classifier really is.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
# Tables need about 110 columns; a pipe or a file has no width of its own.
out = Console(width=None if sys.stdout.isatty() else 120, soft_wrap=False)
err = Console(stderr=True, highlight=False)

Results = Annotated[Path, typer.Option(help="Folder of result files.")]
DataRoot = Annotated[Path | None, typer.Option(help="Folder of the data set's files.")]


class What(StrEnum):
    """What can be listed."""

    attacks = "attacks"
    defenses = "defenses"
    datasets = "datasets"
    models = "models"
    grids = "grids"
    weights = "weights"


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bench {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def _batch_size(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdigit() or int(text) < 1:
        raise BenchError(f"--batch-size must be a positive whole number or auto, not {text!r}.")
    return int(text)


@app.command()
def run(
    grid: Annotated[str, typer.Option(help="Name of a shipped grid, or a .yaml file.")] = "demo",
    model: Annotated[
        list[str] | None, typer.Option(help="Classifier in place of the grid's: a name or package.module:factory.")
    ] = None,
    defense: Annotated[
        list[str] | None,
        typer.Option(help="Defence in place of the grid's, beside the undefended row: name or name(key=value)."),
    ] = None,
    attack: Annotated[
        list[str] | None, typer.Option(help="Attack in place of the grid's: ATTACK or ATTACK+GRADIENT.")
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Weights of the classifier.")] = None,
    data_root: DataRoot = None,
    clips: Annotated[int | None, typer.Option(help="Use only the first so many clips.")] = None,
    steps: Annotated[int | None, typer.Option(help="Attack steps, in place of the grid's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed, in place of the grid's.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    batch_size: Annotated[str, typer.Option(help="Clips per batch, or auto.")] = "auto",
    results: Results = Path("results"),
    control: Annotated[
        int, typer.Option(help="Clips per adaptive cell that are also attacked with a budget of size 0.", min=0)
    ] = 4,
    retry_failed: Annotated[bool, typer.Option(help="Run failed, missing and invalid clips again.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Print the plan and stop.")] = False,
) -> None:
    """Run a grid and print its Standard / Robust* / Robust table.

    Outcomes are stored clip by clip; a run that was stopped continues where it was.
    """
    begun = time.monotonic()
    size = _batch_size(batch_size)
    from bench.grids.grid import find_grid, override

    chosen = override(
        find_grid(grid),
        models=model or (),
        defenses=defense or (),
        attacks=attack or (),
        clips=clips,
        steps=steps,
        seed=seed,
    )
    with err.status("Loading ..."):
        from bench.plan.expand import make_plan
        from bench.report.reported import Reported, shipped_folder
        from bench.run.engine import LocalEngine, keep_freed_memory, pick_device
        from bench.run.runner import Runner
        from bench.run.store import Store

        where = pick_device(device)
        if where.type == "cpu":
            keep_freed_memory()
        plan = make_plan(chosen, data_root=data_root, checkpoint=checkpoint)
    _warn_broken()
    kept = results / ".store"
    if dry_run:
        _print_plan(plan)
        _print_stored(plan, kept)
        return

    from bench.records.results import pass_seconds
    from bench.report.render import LEGEND, heading, render
    from bench.report.tables import make_tables
    from bench.run.export import export

    reported = Reported(chosen.reported, shipped_folder()) if chosen.reported else None
    store = Store(kept)
    try:
        with _RunProgress() as progress:
            runner = Runner(
                plan,
                store,
                LocalEngine(where),
                batch_size=size,
                retry=retry_failed,
                control=control,
                progress=progress,
            )
            runner.run()
        cells, stale = export(plan, store, results, str(where), ran=progress.clips > 0)
    except KeyboardInterrupt:
        err.print("Stopped. Every finished batch is stored; the same command continues from there.")
        raise typer.Exit(130) from None
    finally:
        store.close()

    if chosen.title:
        out.print(f"\n[bold]{chosen.title}[/bold]")
    tables = make_tables(
        cells,
        reported,
        plan.skipped,
        chosen.worst,
        chosen.oracles,
        chosen.counts_clean,
        pass_seconds(cells) if chosen.timed else None,
    )
    for table in tables:
        out.print(heading(table), soft_wrap=True)
        out.print(render(table))
    out.print(LEGEND, style="dim")
    if reported is not None and any(table.reported_from for table in tables):
        out.print(f"Rows marked reported: {reported.source}.", style="dim")
    if stale:
        out.print(
            f"Removed {len(stale)} result files of an earlier measurement with other weights, code, clips or settings: "
            f"{', '.join(stale)}.",
            highlight=False,
        )
    seconds = time.monotonic() - begun
    done = (
        f"{progress.clips} clip outcomes in {seconds:.0f} s"
        if progress.clips
        else f"nothing was left to do ({seconds:.0f} s)"
    )
    out.print(f"\n{done}; every outcome is in {results / chosen.name}/. Next: bench leaderboard", highlight=False)
    flawed = {s: sum(o.status == s for c in cells for o in c.outcomes) for s in ("invalid", "missing", "failed")}
    if any(flawed.values()):
        counts = ", ".join(f"{n} {s}" for s, n in flawed.items() if n)
        example = next(o.error for c in cells for o in c.outcomes if o.error)
        err.print(
            f"{counts} outcomes count as not robust; the first says: {example}. "
            "Mend the cause and run again with --retry-failed.",
            style="bold red",
            markup=False,
            soft_wrap=True,
        )
        raise typer.Exit(1)


class _RunProgress:
    """The bar of ``bench run``: work done, clips, cells, time left. Shown on standard error."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.table import Column

        self.clips = 0
        self._cells = self._all_clips = self._all_cells = 0
        self._what = ""
        # What matters stands first and never wraps; the description takes the room that is left.
        self._bar = Progress(
            BarColumn(bar_width=10),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[counts]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
            console=err,
            # Speeds differ between attacks and judging: average over a long window.
            speed_estimate_period=120,
            expand=True,
        )
        self._task: Any = None

    def __enter__(self) -> _RunProgress:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def _counts(self) -> str:
        return f"clips {self.clips}/{self._all_clips}, cells {self._cells}/{self._all_cells}"

    def begin(self, work: float, clips: int, cells: int) -> None:
        self._all_clips, self._all_cells = clips, cells
        if work:
            self._task = self._bar.add_task("starting", total=work, counts=self._counts())

    def working_on(self, what: str) -> None:
        if self._task is not None:
            self._bar.update(self._task, description=what)

    def advance(self, work: float, clips: int, cells: int) -> None:
        self.clips += clips
        self._cells += cells
        self._bar.update(self._task, advance=work, counts=self._counts())


def _print_plan(plan: Plan) -> None:
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


def _print_stored(plan: Plan, folder: Path) -> None:
    from bench.run.store import Store

    if not folder.is_dir():  # opening a store makes one
        return
    store, clips = Store(folder), {r.id for r in plan.refs}
    try:
        done = sum(len(clips & store.done(cell.id)) for cell in plan.cells)
    finally:
        store.close()
    out.print(f"{done} of {len(plan.cells) * len(clips)} outcomes are stored in {folder}.", highlight=False)


@app.command()
def audit(
    grid: Annotated[str, typer.Argument(help="Name of a grid that was run, or its .yaml file.")] = "demo",
    defense: Annotated[
        list[str] | None, typer.Option(help="Defence in place of the grid's, beside the undefended row.")
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help="Classifier in place of the grid's.")] = None,
    clips: Annotated[int, typer.Option(help="Clips of each row that are asked again; 0 for none.", min=0)] = 8,
    gradient: Annotated[
        str, typer.Option(help="How the defence is differentiated when asked again; auto is exact where it exists.")
    ] = "auto",
    checkpoint: Annotated[Path | None, typer.Option(help="Weights of the classifier.")] = None,
    data_root: DataRoot = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    results: Results = Path("results"),
    as_json: Annotated[bool, typer.Option("--json", help="An array of audited rows.")] = False,
) -> None:
    """Look for signs that a row's figures are too good: masked gradients, lucky draws, memory, weak attacks.

    Every row gets a grade, from A (nothing found) to F (void), which the leaderboard shows.
    """
    from bench.grids.grid import find_grid, override

    chosen = override(find_grid(grid), models=model or (), defenses=defense or ())
    folder = results / chosen.name
    if not folder.is_dir():
        raise BenchError(f"There are no results of {chosen.name!r} in {results}: run 'bench run --grid {grid}' first.")
    with err.status("Loading ...") as status:
        from bench.audit.rows import audit as audit_rows
        from bench.plan.expand import make_plan
        from bench.records.audits import write_audit
        from bench.records.results import read_results
        from bench.run.engine import pick_device

        cells = read_results(folder)
        plan = make_plan(chosen, data_root=data_root, checkpoint=checkpoint)
        _warn_broken()
        rows = audit_rows(
            plan,
            cells,
            clips=clips,
            gradient=gradient,
            device=pick_device(device),
            working_on=lambda row: status.update(f"Auditing {row.model}, {row.defense} ..."),
        )
    path = write_audit(folder, rows)
    if as_json:
        typer.echo(json.dumps([r.model_dump() for r in rows], indent=1))
        return
    for row in rows:
        out.print(f"[bold]{row.grade}[/bold]  {row.model} · {row.defense} · {row.budget}", highlight=False)
        for finding in row.findings:
            where = f" [{', '.join(finding.cells)}]" if finding.cells else ""
            which = (
                f" ({', '.join(finding.clips[:4])}{', ...' if len(finding.clips) > 4 else ''})" if finding.clips else ""
            )
            out.print(
                f"   {finding.severity}, {finding.check}: {finding.message}{where}{which}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
    out.print(f"\nWritten to {path}. Next: bench leaderboard", highlight=False)


@app.command("list")
def list_(
    what: Annotated[What, typer.Argument(help="attacks, defenses, datasets, models, grids or weights")],
    as_json: Annotated[bool, typer.Option("--json", help="An array of objects.")] = False,
) -> None:
    """List what is registered, or the shipped weights."""
    if what is What.grids:
        from bench.grids.grid import read_grid, shipped_grids

        items = [{"name": n, "summary": read_grid(p).title} for n, p in shipped_grids().items()]
    elif what is What.weights:
        from bench.weights.zoo import figures_in_words, manifest

        items = [{"name": Path(f).stem, "summary": figures_in_words(e), **e} for f, e in manifest().items()]
    else:
        from bench.registry import REGISTRIES

        registry = REGISTRIES[what.value[:-1]]
        items = [{"name": e.name, "summary": e.summary, "source": e.source, "origin": e.origin} for e in registry]
    _warn_broken()
    if as_json:
        typer.echo(json.dumps(items, indent=1))
        return
    width = max((len(i["name"]) for i in items), default=0)
    for item in items:
        out.print(f"{item['name']:<{width}}  {item['summary']}", markup=False, highlight=False)


def _warn_broken() -> None:
    from bench.registry import REGISTRIES

    for registry in REGISTRIES.values():
        for what, why in registry.broken.items():
            err.print(f"Warning: {what} could not be imported: {why}", style="yellow", markup=False)


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, type(None), list, dict)) else str(value)


def _describe(entry: Entry) -> dict[str, Any]:
    parameters = [
        {
            "name": p.name,
            "type": p.annotation,
            "default": None if p.required else _plain(p.default),
            "required": p.required,
            "help": p.help,
        }
        for p in entry.parameters
    ]
    described: dict[str, Any] = {
        "name": entry.name,
        "kind": entry.kind,
        "summary": entry.summary,
        "description": entry.doc,
        "source": entry.source,
        "origin": entry.origin,
        "parameters": parameters,
    }
    if entry.kind == "model":
        from bench.weights.zoo import manifest

        described["weights"] = [e for e in manifest().values() if e["model"] == entry.name]
    return described


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of an attack, defence, data set, classifier or grid.")],
    as_json: Annotated[bool, typer.Option("--json", help="An array of objects.")] = False,
    sheet: Annotated[Path | None, typer.Option(help="Of a data set: write a contact sheet (.png).")] = None,
    animate: Annotated[Path | None, typer.Option(help="Of a data set: write an animated sheet (.gif).")] = None,
    clips: Annotated[
        bool, typer.Option("--clips", help="Of a data set: write an animated sheet, NAME.gif in this folder.")
    ] = False,
    count: Annotated[int, typer.Option(help="Clips on the sheet.")] = 12,
    data_root: DataRoot = None,
) -> None:
    """Show what a component is: summary, source, parameters, defaults."""
    from bench.grids.grid import shipped_grids
    from bench.registry import DATASETS, REGISTRIES

    entries = [e for r in REGISTRIES.values() for e in r if e.name == name]
    grids = shipped_grids()
    if not entries and name not in grids:
        names = [e.name for r in REGISTRIES.values() for e in r] + list(grids)
        raise BenchError(f"Nothing is called {name!r}{nearest(name, names)}; see 'bench list attacks' and the like.")
    if clips and animate is None:
        animate = Path(f"{name}.gif")
    if sheet is not None or animate is not None:
        if not any(e.kind == "dataset" for e in entries):
            raise BenchError(f"{name!r} is not a data set, so it has no clips to draw.")
        from bench.data.pictures import write_sheets

        params = {"root": data_root} if data_root is not None else {}
        dataset = DATASETS.get(name).create(params)
        for path in write_sheets(dataset, count, sheet, animate):
            out.print(f"wrote {path}", highlight=False)
        return
    described = [_describe(e) for e in entries]
    if name in grids:
        from bench.grids.grid import read_grid

        grid = read_grid(grids[name])
        described.append({"kind": "grid", "origin": str(grids[name]), **json.loads(grid.model_dump_json())})
    if as_json:
        typer.echo(json.dumps(described, indent=1))
        return
    for item in described:
        if item["kind"] == "grid":  # as it is written, to copy and change
            text = grids[name].read_text(encoding="utf-8").rstrip()
            out.print(f"# {item['origin']}\n{text}", markup=False, highlight=False, soft_wrap=True)
        else:
            _print_description(item)


def _print_description(item: dict[str, Any]) -> None:
    from bench.weights.zoo import figures_in_words

    out.print(f"[bold]{item['name']}[/bold]  ({item['kind']})", highlight=False)
    out.print(item["description"].split("\n\nArgs:")[0].split("\nArgs:")[0], markup=False, highlight=False)
    if item["source"]:
        out.print(f"\nSource: {item['source']}", markup=False, highlight=False)
    out.print(f"Defined in: {item['origin']}", markup=False, highlight=False)
    if item["parameters"]:
        out.print("\nParameters:")
    for p in item["parameters"]:
        default = "required" if p["required"] else f"default {p['default']!r}"
        out.print(f"  {p['name']} ({p['type']}, {default})", markup=False, highlight=False)
        if p["help"]:
            out.print(f"      {p['help']}", markup=False, highlight=False)
    for w in item.get("weights", []):
        out.print(
            f"\nShipped weights for {w['dataset']}: {w['parameters']} parameters, {figures_in_words(w)}.\n"
            f"Made by: {w['command']} ({w['minutes']} min, {w['hardware']})",
            markup=False,
            highlight=False,
        )


@app.command()
def leaderboard(
    results: Results = Path("results"),
    output: Annotated[Path, typer.Option(help="File to write.")] = Path("leaderboard.md"),
) -> None:
    """Rewrite leaderboard.md from the result files alone."""
    from bench.report.leaderboard import make_leaderboard

    text = make_leaderboard(results)
    unchanged = output.is_file() and output.read_text(encoding="utf-8") == text
    if not unchanged:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise BenchError(f"Cannot write {output}: {error}; choose another --output.") from error
    out.print(f"{output} {'is up to date' if unchanged else 'written'}", highlight=False)


@app.command()
def train(
    model: Annotated[str, typer.Option(help="Registered model.")],
    dataset: Annotated[str, typer.Option(help="Registered data set.")] = "motion12",
    recipe: Annotated[str, typer.Option(help="Training recipe.")] = "standard",
    steps: Annotated[int | None, typer.Option(help="Optimiser steps, in place of the recipe's.")] = None,
    seed: Annotated[int, typer.Option(help="Of data order and initial weights.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    work: Annotated[Path | None, typer.Option(help="Folder of the training state; resumed if present.")] = None,
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of the weights and their manifest.")] = Path(
        "runs/zoo"
    ),
    curves: Annotated[Path, typer.Option(help="Folder of the picture of the learning curve.")] = Path("runs/curves"),
    start: Annotated[Path | None, typer.Option(help="File of weights to start from, in place of the recipe's.")] = None,
    new_head: Annotated[bool, typer.Option(help="Start the final layer afresh if --start has other classes.")] = False,
    measure_only: Annotated[bool, typer.Option(help="Measure exported weights again; train nothing.")] = False,
) -> None:
    """Train a network and export its weights with a manifest entry; a stopped training resumes.

    With --measure-only, weights that are already in --out are measured again and their figures replaced.
    """
    with err.status("Loading ..."):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from bench.run.engine import keep_freed_memory, pick_device
        from bench.training.loop import TrainingState, default_work, export, remeasure
        from bench.training.loop import train as fit
        from bench.training.recipes import recipe_of

        chosen = recipe_of(recipe, steps)
        where = pick_device(device)
        if where.type == "cpu":
            keep_freed_memory()
    if measure_only:
        with err.status("Measuring ..."):
            entry = remeasure(model, dataset, out=out_folder, device=where, start=start)
        out.print_json(json.dumps(entry))
        return
    folder = work or default_work(model, dataset, chosen, seed)
    spent = 0.0
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns, console=err) as bar:
            task = bar.add_task(f"{model} on {dataset}", total=chosen.steps, figures="")

            def report(state: TrainingState) -> None:
                nonlocal spent
                spent = state.seconds
                figures = " ".join(f"{k} {v:.3f}" for k, v in {"loss": state.loss, **state.figures}.items())
                bar.update(task, completed=state.step, figures=figures)

            fitted = fit(
                model,
                dataset,
                chosen,
                seed=seed,
                work=folder,
                device=where,
                report=report,
                start=start,
                new_head=new_head,
            )
    except KeyboardInterrupt:
        err.print(f"Stopped. The same command continues from the last state in {folder}.")
        raise typer.Exit(130) from None
    with err.status("Measuring the exported weights ..."):
        entry = export(
            fitted,
            model,
            dataset,
            chosen,
            seed=seed,
            seconds=spent,
            out=out_folder,
            device=where,
            work=folder,
            curves=curves,
            start=start,
            new_head=new_head,
        )
    out.print_json(json.dumps(entry))


def main(arguments: list[str] | None = None) -> None:
    """Entry point: bad input is one sentence on standard error and exit code 2."""
    command: Callable[..., Any] = app
    try:
        command(arguments)
    except BenchError as error:
        err.print(f"Error: {error}", style="red", markup=False, soft_wrap=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
