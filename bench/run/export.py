"""Writes what a run measured: a file per cell, and how long a pass takes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from bench.errors import BenchError
from bench.files import write_whole
from bench.plan.cells import Plan
from bench.records.description import GridFile
from bench.records.outcome import Outcome
from bench.records.provenance import listed
from bench.records.results import (
    GRID_FILE,
    RUN_FILE,
    CellResult,
    Score,
    by_model,
    difference,
    meanings,
    pass_seconds,
    read_grid_file,
    read_result,
    read_seconds,
    result_files,
)
from bench.run.store import Store


def collect(plan: Plan, store: Store) -> list[CellResult]:
    """The plan's cells with their stored outcomes, restricted to the plan's clips.

    A clip without an outcome (an interrupted run) is entered as ``missing``, so that no denominator shrinks.
    """
    results = []
    clean: dict[tuple[str, str], dict[str, Outcome]] = {}
    for cell in plan.cells:
        stored, by = store.outcomes(cell.id), store.provenance(cell.id)
        outcomes = [
            stored.get(r.id) or Outcome(clip=r.id, label=r.label, status="missing", error="not run yet")
            for r in plan.refs
        ]
        row = cell.model.label, cell.defense.label
        if cell.knowledge == "clean":
            clean[row] = {o.clip: o for o in outcomes}
        for outcome in outcomes:
            outcome.clean_prediction = clean[row][outcome.clip].prediction
        results.append(
            CellResult(
                cell=cell.id,
                dataset=cell.dataset.label,
                model=cell.model.label,
                defense=cell.defense.label,
                attack=cell.attack_label,
                knowledge=cell.knowledge,
                gradient=cell.gradient,
                budget=cell.threat,
                settings=cell.identity,
                score=Score.of(outcomes),
                control=store.control(cell.id),
                provenance=listed({by.get(r.id) for r in plan.refs if r.id in stored}),
                outcomes=outcomes,
            )
        )
    return results


def export(plan: Plan, store: Store, folder: Path, *, ran: bool = True) -> tuple[list[CellResult], list[str]]:
    """Writes ``folder/<grid>/``: a file per cell, the grid's description and, apart from the reproducible
    record, how long it ran. Each file is the old or the new one, whatever happens.

    A file that says the same of every clip stays as it is, with the provenance that it has: a run that repeats it, as
    that of one row more does with the undefended one, has no claim to it.

    Files of cells that are not in the plan stay (a run with ``--defense mine`` adds a row) unless one of their
    labels now stands for something else: other weights, edited code, other clips. Those are removed, since no table
    may mix two measurements; their outcomes remain in the store. So are files that cannot be read: they hold nothing.

    Args:
        ran: whether anything was computed; if not, the record of when and how long is left alone.

    Returns:
        The plan's results, and the names of the files that were removed.

    Raises:
        BenchError: the folder cannot be written, or a file in it was changed by hand.
    """
    own_folder = folder / plan.grid.name
    results = collect(plan, store)
    try:
        own_folder.mkdir(parents=True, exist_ok=True)
        for result in results:
            if not _says_the_same(own_folder / result.file_name, result):
                write_whole(own_folder / result.file_name, result.to_text())
        stale = _remove_stale(own_folder, results)
        _describe(plan, own_folder, [r.file_name for r in results])
        if ran or not (own_folder / RUN_FILE).is_file():
            _record_run(own_folder, results)
        elif not _known_seconds(own_folder):
            _record_seconds(own_folder, results)
    except OSError as error:
        raise BenchError(
            f"Cannot write results to {own_folder}: {error}. Every outcome is in the store: mend that, and the same "
            "command writes them."
        ) from error
    return results, stale


def _says_the_same(path: Path, result: CellResult) -> bool:
    """Whether a file holds that result already, whoever computed it."""
    try:
        there = read_result(path) if path.is_file() else None
    except BenchError:  # torn, or changed by hand
        return False
    return there is not None and _without_provenance(there) == _without_provenance(result)


def _without_provenance(result: CellResult) -> str:
    return result.model_copy(update={"provenance": []}).to_text()


def _is_torn(path: Path) -> bool:
    """Whether a file is empty or breaks off, as a machine that fails leaves it."""
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return True
    return False


def _remove_stale(folder: Path, results: list[CellResult]) -> list[str]:
    known = {key: value for result in results for key, value in meanings(result).items()}
    written = {result.file_name for result in results}
    stale = []
    for path in result_files(folder):
        if path.name not in written and (_is_torn(path) or difference(known, meanings(read_result(path)))):
            path.unlink(missing_ok=True)  # by another process that ends just now
            stale.append(path.name)
    return stale


def _describe(plan: Plan, folder: Path, order: list[str]) -> None:
    file = folder / GRID_FILE
    old = None if file.is_file() and _is_torn(file) else read_grid_file(folder)
    run = {(c.model.label, c.defense.label, c.attack_label) for c in plan.cells}
    skipped = list(plan.skipped)
    if old:
        run |= {(s.model, s.defense, s.attack) for s in skipped}
        skipped += [s for s in old.skipped if (s.model, s.defense, s.attack) not in run]
        kept = [name for name in old.order if (folder / name).is_file()]
        # A whole grid brings its own order; a part of it, or a row more, does not disturb what is there.
        order = order if set(kept) <= set(order) else list(dict.fromkeys([*kept, *order]))
    described = GridFile(
        name=plan.grid.name,
        title=plan.grid.title,
        summary=" ".join(plan.grid.summary.split()),
        order=order,
        skipped=skipped,
        worst=plan.grid.worst,
        oracles=plan.grid.oracles,
        counts_clean=plan.grid.counts_clean,
        timed=plan.grid.timed,
        averages=plan.grid.averages,
        across=plan.grid.across,
        reported=plan.grid.reported,
    )
    write_whole(file, described.model_dump_json(indent=1) + "\n")


def _record_run(folder: Path, results: list[CellResult]) -> None:
    """When the last run ended and how long its clips took; of each row how long a pass did when it was run last. Who
    computed what stands in the result files."""
    seconds = sum(o.seconds for r in results for o in r.outcomes)
    known = _known_seconds(folder)  # a run of some rows says nothing about the others
    run = {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "clip_seconds_of_all_outcomes": round(seconds, 1),
        "seconds_of_a_pass": by_model({**known, **pass_seconds(results)}),
    }
    write_whole(folder / RUN_FILE, json.dumps(run, indent=1) + "\n")


def _known_seconds(folder: Path) -> dict[tuple[str, str], float]:
    """The times that were recorded; none where the record is damaged, which is then written anew."""
    try:
        return read_seconds(folder)
    except BenchError:
        return {}


def _record_seconds(folder: Path, results: list[CellResult]) -> None:
    """Adds the times to a record that was made before they were part of it, or is damaged."""
    path = folder / RUN_FILE
    old = {} if _is_torn(path) else json.loads(path.read_text(encoding="utf-8"))
    run = {**(old if isinstance(old, dict) else {}), "seconds_of_a_pass": by_model(pass_seconds(results))}
    write_whole(path, json.dumps(run, indent=1) + "\n")
