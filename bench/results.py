"""Result files: the reviewable record of a run, one JSON file per cell."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from bench.errors import BenchError
from bench.metrics import wilson
from bench.outcome import Outcome
from bench.plan import Plan
from bench.store import Store

_GRID_FILE = "_grid.json"
_RUN_FILE = "_run.json"


class Score(BaseModel):
    """Correct clips out of all clips, and what went wrong with the others' bookkeeping.

    Attributes:
        correct, clips: numerator and denominator; clips without a valid outcome count as not robust.
        invalid, missing, failed: how many of them, by status.
    """

    model_config = ConfigDict(extra="forbid")

    correct: int
    clips: int
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
        return cls(
            correct=sum(o.correct and o.status == "ok" for o in listed),
            clips=len(listed),
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
    outcomes: list[Outcome]

    @property
    def file_name(self) -> str:
        parts = [self.model, self.defense, self.attack, self.budget]
        slugs = [re.sub(r"[^\w.+=-]+", "_", p).strip("_") for p in parts if p]
        return "--".join(slugs) + ".json"

    def to_text(self) -> str:
        """JSON with one line per clip, so that a diff shows which clips changed. Wall times are left out:
        the text depends on the outcomes alone."""
        head = self.model_dump(exclude={"outcomes"})
        lines = [
            json.dumps(o.model_dump(exclude={"seconds"}, exclude_defaults=True), sort_keys=True) for o in self.outcomes
        ]
        text = json.dumps({**head, "outcomes": ["@"]}, indent=1, sort_keys=True, default=str)
        return text.replace('"@"', ",\n  ".join(lines)) + "\n"


class GridFile(BaseModel):
    """What a results folder says about its grid: title, and which published figures stand beside it."""

    model_config = ConfigDict(extra="forbid")

    name: str
    title: str
    summary: str
    order: list[str]
    skipped: list[dict[str, str]]
    reported: dict[str, Any] | None = None


def collect(plan: Plan, store: Store) -> list[CellResult]:
    """The plan's cells with their stored outcomes, restricted to the plan's clips.

    A clip without an outcome (an interrupted run) is entered as ``missing``, so that no denominator shrinks.
    """
    results = []
    for cell in plan.cells:
        stored = store.outcomes(cell.id)
        outcomes = [
            stored.get(r.id) or Outcome(clip=r.id, label=r.label, status="missing", error="not run yet")
            for r in plan.refs
        ]
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
                outcomes=outcomes,
            )
        )
    return results


def export(plan: Plan, store: Store, folder: Path, device: str, *, ran: bool = True) -> list[CellResult]:
    """Writes ``folder/<grid>/``: a file per cell, the grid's description and, apart from the reproducible
    record, when, where and how long it ran.

    Files of cells that are not in the plan stay: a run with ``--defense mine`` adds a row.

    Args:
        device: PyTorch's name of the device that was used.
        ran: whether anything was computed; if not, the record of when, where and how long is left alone.
    """
    target = folder / plan.grid.name
    target.mkdir(parents=True, exist_ok=True)
    results = collect(plan, store)
    for result in results:
        (target / result.file_name).write_text(result.to_text(), encoding="utf-8")
    old = read_grid_file(target)
    skipped = [vars(s) for s in plan.skipped]
    order = [r.file_name for r in results]
    described = GridFile(
        name=plan.grid.name,
        title=plan.grid.title,
        summary=" ".join(plan.grid.summary.split()),
        # Rows keep the order of the grid; rows that an earlier run added follow.
        order=order + [n for n in (old.order if old else []) if n not in order and (target / n).is_file()],
        skipped=skipped + [s for s in (old.skipped if old else []) if s not in skipped],
        reported=plan.grid.reported.model_dump() if plan.grid.reported else None,
    )
    (target / _GRID_FILE).write_text(described.model_dump_json(indent=1) + "\n", encoding="utf-8")
    if not ran and (target / _RUN_FILE).is_file():
        return results
    import torch  # the only use; reading results needs no torch

    seconds = sum(o.seconds for r in results for o in r.outcomes)
    run = {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device if device == "cpu" else torch.cuda.get_device_name(device),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
        "clip_seconds_of_all_outcomes": round(seconds, 1),
    }
    (target / _RUN_FILE).write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    return results


def read_grid_file(folder: Path) -> GridFile | None:
    """The description of a results folder, if it has one."""
    path = folder / _GRID_FILE
    return GridFile.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else None


def read_results(folder: Path) -> list[CellResult]:
    """All result files of one grid's folder, in the grid's order.

    Raises:
        BenchError: a file is not a valid result; nothing is skipped silently.
    """
    described = read_grid_file(folder)
    order = described.order if described else []
    paths = sorted(p for p in folder.glob("*.json") if not p.name.startswith("_"))
    paths.sort(key=lambda p: order.index(p.name) if p.name in order else len(order))
    results = []
    for path in paths:
        try:
            result = CellResult.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(p) for p in problem["loc"])
            raise BenchError(f"{path} is not a valid result file: {where}: {problem['msg']}.") from error
        if Score.of(result.outcomes) != result.score:
            raise BenchError(f"{path}: the score does not follow from the outcomes; run the grid again.")
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
        rows += [{**labels, **o.model_dump()} for o in r.outcomes]
    return pd.DataFrame(rows)
