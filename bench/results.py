"""Result files: the reviewable record of a run, one JSON file per cell."""

from __future__ import annotations

import json
import platform
import re
import statistics
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from bench.errors import BenchError
from bench.grids.grid import ReportedSection
from bench.metrics import wilson
from bench.outcome import Control, Outcome
from bench.plan import Plan, Skipped
from bench.store import Store

_GRID_FILE = "_grid.json"
_RUN_FILE = "_run.json"


class Score(BaseModel):
    """Correct clips out of all clips, and what went wrong with the others' bookkeeping.

    Attributes:
        correct, clips: numerator and denominator; clips without a valid outcome count as not robust. A clip before a
            randomised defence counts with its probability of being right.
        one_shot, always: of a randomised defence, clips right in the first draw, and in every draw.
        invalid, missing, failed: how many of them, by status.
    """

    model_config = ConfigDict(extra="forbid")

    correct: int | float
    clips: int
    one_shot: int | None = None
    always: int | None = None
    invalid: int = 0
    missing: int = 0
    failed: int = 0

    @property
    def accuracy(self) -> float:
        """Percent."""
        return 100 * self.correct / self.clips if self.clips else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval in percent."""
        low, high = wilson(self.correct, self.clips)
        return 100 * low, 100 * high

    @property
    def flawed(self) -> int:
        return self.invalid + self.missing + self.failed

    @classmethod
    def of(cls, outcomes: Iterable[Outcome]) -> Score:
        """Counts outcomes; only ``ok`` ones can be correct."""
        listed = list(outcomes)
        random = any(o.draws for o in listed)
        return cls(
            correct=round(sum(o.chance for o in listed), 9) if random else sum(o.verdicts[0] for o in listed),
            clips=len(listed),
            one_shot=sum(o.verdicts[0] for o in listed) if random else None,
            always=sum(all(o.verdicts) for o in listed) if random else None,
            invalid=sum(o.status == "invalid" for o in listed),
            missing=sum(o.status == "missing" for o in listed),
            failed=sum(o.status == "failed" for o in listed),
        )


class CellResult(BaseModel):
    """One cell with all its outcomes: what a result file holds.

    Attributes:
        cell: id, the digest of ``settings``.
        dataset, model, defense, attack, knowledge, gradient: labels.
        budget: the grid's budget as text, e.g. ``linf 4/255, 10 steps``; empty for clean cells.
        settings: everything that identifies the cell.
        score: summary of the outcomes.
        control: of an adaptive cell, what the attack does with no budget at all.
        outcomes: one per clip, in the order of the data set.
    """

    model_config = ConfigDict(extra="forbid")

    version: int = 1
    cell: str
    dataset: str
    model: str
    defense: str
    attack: str
    knowledge: str
    gradient: str
    budget: str
    settings: dict[str, Any]
    score: Score
    control: Control | None = None
    outcomes: list[Outcome]

    @property
    def file_name(self) -> str:
        parts = [self.model, self.defense, self.attack, self.budget]
        slugs = [re.sub(r"[^\w.+=-]+", "_", p).strip("_") for p in parts if p]
        return "--".join(slugs) + ".json"

    def to_text(self) -> str:
        """JSON with one line per clip, so that a diff shows which clips changed. Wall times are left out:
        the text depends on the outcomes alone."""
        head = self.model_dump(exclude={"outcomes", "score", "control"})
        head["score"] = self.score.model_dump(exclude_none=True)
        if self.control is not None:
            head["control"] = self.control.model_dump()
        lines = [
            json.dumps(o.model_dump(exclude={"seconds"}, exclude_defaults=True), sort_keys=True) for o in self.outcomes
        ]
        text = json.dumps({**head, "outcomes": ["@"]}, indent=1, sort_keys=True, default=str)
        return text.replace('"@"', ",\n  ".join(lines)) + "\n"


class GridFile(BaseModel):
    """What a results folder says about its grid.

    Attributes:
        order: file names in the order of the rows.
        skipped: combinations that do not exist.
        worst: columns that are the worst of others.
        oracles, counts_clean, timed: of the grid's tables, see :class:`~bench.grids.grid.Grid`.
        reported: which published figures stand beside the measured ones.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    title: str
    summary: str
    order: list[str]
    skipped: list[Skipped]
    worst: dict[str, list[str]] = {}
    oracles: dict[str, dict[str, str]] = {}
    counts_clean: bool = False
    timed: bool = False
    reported: ReportedSection | None = None


class _RunFile(BaseModel):
    """What is read back of the record of a run."""

    seconds_of_a_pass: dict[str, dict[str, float]] = {}


def collect(plan: Plan, store: Store) -> list[CellResult]:
    """The plan's cells with their stored outcomes, restricted to the plan's clips.

    A clip without an outcome (an interrupted run) is entered as ``missing``, so that no denominator shrinks.
    """
    results = []
    clean: dict[tuple[str, str], dict[str, Outcome]] = {}
    for cell in plan.cells:
        stored = store.outcomes(cell.id)
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
                settings=json.loads(json.dumps(cell.settings, default=str)),
                score=Score.of(outcomes),
                control=store.control(cell.id),
                outcomes=outcomes,
            )
        )
    return results


def _meanings(result: CellResult) -> dict[tuple[str, ...], Any]:
    """What the labels of a result stand for. Two results belong into one table only if these agree."""
    settings = result.settings
    return {
        ("engine",): settings.get("engine"),
        ("seed",): settings.get("seed"),
        ("data set",): [result.dataset, settings.get("dataset")],
        ("list of clips",): [o.clip for o in result.outcomes],
        ("classifier", result.model): settings.get("model"),
        ("defence", result.defense, result.model): settings.get("defense"),
        ("attack", result.attack, result.budget): [
            settings.get("attack"),
            settings.get("budget"),
            settings.get("source"),
        ],
    }


def _difference(known: Mapping[tuple[str, ...], Any], meanings: Mapping[tuple[str, ...], Any]) -> str | None:
    """The first label of a result that already stands for something else."""
    for key, value in meanings.items():
        if key in known and known[key] != value:
            return " ".join(key[:2])
    return None


def export(
    plan: Plan, store: Store, folder: Path, device: str, *, ran: bool = True
) -> tuple[list[CellResult], list[str]]:
    """Writes ``folder/<grid>/``: a file per cell, the grid's description and, apart from the reproducible
    record, when, where and how long it ran.

    Files of cells that are not in the plan stay (a run with ``--defense mine`` adds a row) unless one of their
    labels now stands for something else: other weights, edited code, other clips. Those are removed, since no table
    may mix two measurements; their outcomes remain in the store.

    Args:
        device: PyTorch's name of the device that was used.
        ran: whether anything was computed; if not, the record of when, where and how long is left alone.

    Returns:
        The plan's results, and the names of the files that were removed.

    Raises:
        BenchError: the folder cannot be written.
    """
    target = folder / plan.grid.name
    results = collect(plan, store)
    try:
        target.mkdir(parents=True, exist_ok=True)
        for result in results:
            (target / result.file_name).write_text(result.to_text(), encoding="utf-8")
    except OSError as error:
        raise BenchError(f"Cannot write results to {target}: {error}.") from error
    stale = _remove_stale(target, results)
    _describe(plan, target, [r.file_name for r in results])
    if ran or not (target / _RUN_FILE).is_file():
        _record_run(target, results, device)
    elif not read_seconds(target):
        _record_seconds(target, results)
    return results, stale


def _remove_stale(target: Path, results: list[CellResult]) -> list[str]:
    known = {key: value for result in results for key, value in _meanings(result).items()}
    written = {result.file_name for result in results}
    stale = []
    for path in _result_files(target):
        if path.name not in written:
            other = read_result(path)
            if _difference(known, _meanings(other)):
                path.unlink()
                stale.append(path.name)
    return stale


def _describe(plan: Plan, target: Path, order: list[str]) -> None:
    old = read_grid_file(target)
    run = {(c.model.label, c.defense.label, c.attack_label) for c in plan.cells}
    skipped = list(plan.skipped)
    if old:
        run |= {(s.model, s.defense, s.attack) for s in skipped}
        skipped += [s for s in old.skipped if (s.model, s.defense, s.attack) not in run]
        kept = [name for name in old.order if (target / name).is_file()]
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
        reported=plan.grid.reported,
    )
    (target / _GRID_FILE).write_text(described.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _record_run(target: Path, results: list[CellResult], device: str) -> None:
    import torch  # the only use; reading results needs no torch

    seconds = sum(o.seconds for r in results for o in r.outcomes)
    try:
        known = read_seconds(target)  # a run of some rows says nothing about the others
    except BenchError:
        known = {}  # a damaged record is replaced by this one
    run = {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device if device == "cpu" else torch.cuda.get_device_name(device),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
        "clip_seconds_of_all_outcomes": round(seconds, 1),
        "seconds_of_a_pass": _nested({**known, **pass_seconds(results)}),
    }
    (target / _RUN_FILE).write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")


def _record_seconds(target: Path, results: list[CellResult]) -> None:
    """Adds the times to the record of a run that was made before they were part of it."""
    path = target / _RUN_FILE
    run = {**json.loads(path.read_text(encoding="utf-8")), "seconds_of_a_pass": _nested(pass_seconds(results))}
    path.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")


def pass_seconds(results: Iterable[CellResult]) -> dict[tuple[str, str], float]:
    """Wall time of one clean clip through a defence and its classifier, ``{(classifier, defence): seconds}``.

    The median over clips, as the first ones also warm the machine up; clips that share a batch share its time.
    """
    found: dict[tuple[str, str], float] = {}
    for result in results:
        passes = [o.seconds / len(o.verdicts) for o in result.outcomes if o.status == "ok"]
        if result.knowledge == "clean" and passes:
            found[result.model, result.defense] = statistics.median(passes)
    return found


def _nested(seconds: Mapping[tuple[str, str], float]) -> dict[str, dict[str, float]]:
    nested: dict[str, dict[str, float]] = {}
    for (model, defense), value in seconds.items():
        nested.setdefault(model, {})[defense] = float(f"{value:.3g}")
    return nested


def read_seconds(folder: Path) -> dict[tuple[str, str], float]:
    """:func:`pass_seconds` as the last runs recorded them; empty if none did.

    Raises:
        BenchError: the record is damaged.
    """
    path = folder / _RUN_FILE
    recorded = _read(path, _RunFile).seconds_of_a_pass if path.is_file() else {}
    return {(model, defense): s for model, of_model in recorded.items() for defense, s in of_model.items()}


_M = TypeVar("_M", bound=BaseModel)


def _read(path: Path, kind: type[_M]) -> _M:
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        problem = error.errors()[0]
        where = "".join(f"{part}: " for part in (".".join(str(p) for p in problem["loc"]),) if part)
        raise BenchError(
            f"{path} is not a valid result file: {where}{problem['msg']}; delete it and run the grid again."
        ) from error


def read_grid_file(folder: Path) -> GridFile | None:
    """The description of a results folder, if it has one.

    Raises:
        BenchError: the file is damaged.
    """
    path = folder / _GRID_FILE
    return _read(path, GridFile) if path.is_file() else None


def _result_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*.json") if not p.name.startswith("_"))


def read_result(path: Path) -> CellResult:
    """One result file.

    Raises:
        BenchError: it is not valid, or its score does not follow from its outcomes.
    """
    result = _read(path, CellResult)
    if Score.of(result.outcomes) != result.score:
        raise BenchError(f"{path}: the score does not follow from the outcomes; run the grid again.")
    return result


def read_results(folder: Path) -> list[CellResult]:
    """All result files of one grid's folder, in the grid's order.

    Raises:
        BenchError: a file is not a valid result, or files of different measurements lie together; nothing is
            skipped silently.
    """
    described = read_grid_file(folder)
    order = described.order if described else []
    paths = _result_files(folder)
    paths.sort(key=lambda p: order.index(p.name) if p.name in order else len(order))
    results: list[CellResult] = []
    known: dict[tuple[str, ...], Any] = {}
    for path in paths:
        result = read_result(path)
        meanings = _meanings(result)
        what = _difference(known, meanings)
        if what:
            raise BenchError(
                f"{path} belongs to another measurement than the files beside it: its {what} is not the same. Run the "
                "grid again with this row, or delete the file."
            )
        known |= meanings
        results.append(result)
    return results


def to_frame(results: Iterable[CellResult]) -> pd.DataFrame:
    """One row per clip and cell."""
    rows = []
    for r in results:
        labels = {
            "dataset": r.dataset,
            "model": r.model,
            "defense": r.defense,
            "attack": r.attack,
            "knowledge": r.knowledge,
            "gradient": r.gradient,
            "budget": r.budget,
        }
        rows += [{**labels, **o.model_dump(), "chance": o.chance} for o in r.outcomes]
    return pd.DataFrame(rows)
