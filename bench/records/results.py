"""Result files: the reviewable record of a run, one JSON file per cell."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from textwrap import indent
from typing import Any, Literal, TypeVar

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from bench.errors import BenchError
from bench.files import slug
from bench.records.checks import contradiction, disagreement, unlike
from bench.records.description import GridFile
from bench.records.identity import CellIdentity, ComponentIdentity, Gradient, Knowledge
from bench.records.metrics import wilson
from bench.records.outcome import Control, Outcome
from bench.records.provenance import Provenance
from bench.records.strict import strict_json

GRID_FILE = "_grid.json"
RUN_FILE = "_run.json"


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
        version: of this schema; older files are converted when they are read.
        cell: id, the digest of ``settings``.
        dataset, model, defense, attack, knowledge, gradient: labels.
        budget: the grid's budget as text, e.g. ``linf 4/255, 10 steps``; empty for clean cells.
        settings: everything that identifies the cell.
        score: summary of the outcomes.
        control: of an adaptive cell, what the attack does with no budget at all.
        stale: why nobody knows whether the present code would give these outcomes; empty if it is known.
        provenance: of every run, or worker of one, that computed some of the outcomes; ``None`` of those of which
            nothing is known. It identifies nothing: results that differ in it alone are the same.
        outcomes: one per clip, in the order of the data set.
    """

    model_config = ConfigDict(extra="forbid")

    version: Literal[4] = 4
    cell: str
    dataset: str
    model: str
    defense: str
    attack: str
    knowledge: Knowledge
    gradient: Gradient
    budget: str
    settings: CellIdentity
    score: Score
    control: Control | None = None
    stale: str = ""
    provenance: list[Provenance | None] = []
    outcomes: list[Outcome]

    @property
    def file_name(self) -> str:
        return file_name(self.model, self.defense, self.attack, self.budget)

    def to_text(self) -> str:
        """JSON with one line per clip, so that a diff shows which clips changed. Wall times and
        tracebacks are left out: but for ``provenance`` the text depends on the outcomes alone, and on no machine."""
        head = self.model_dump(mode="json", exclude={"outcomes", "score", "control", "stale", "settings"})
        head["settings"] = self.settings.model_dump(mode="json", exclude_defaults=True)
        head["score"] = self.score.model_dump(exclude_none=True)
        head |= {"control": self.control.model_dump()} if self.control is not None else {}
        head |= {"stale": self.stale} if self.stale else {}
        values = {key: json.dumps(value, indent=1, sort_keys=True) for key, value in head.items()}
        lines = [
            json.dumps(o.model_dump(exclude={"seconds", "traceback"}, exclude_defaults=True), sort_keys=True)
            for o in self.outcomes
        ]
        values["outcomes"] = "[\n " + ",\n ".join(lines) + "\n]"
        # Strings hold no line break in JSON, so every line can be moved to the right.
        return "{\n" + ",\n".join(indent(f'"{key}": {values[key]}', " ") for key in sorted(values)) + "\n}\n"


def file_name(model: str, defense: str, attack: str, budget: str) -> str:
    """Where a cell of these labels is kept in its grid's folder."""
    return "--".join(slug(label) for label in (model, defense, attack, budget) if label) + ".json"


class _RunFile(BaseModel):
    """What is read back of the record of a run."""

    seconds_of_a_pass: dict[str, dict[str, float]] = {}


def meanings(result: CellResult) -> dict[tuple[str, ...], Any]:
    """What the labels of a result stand for. Two results belong into one table only if these agree."""
    settings = result.settings
    return {
        ("engine",): settings.engine,
        ("seed",): settings.seed,
        ("data set",): (result.dataset, settings.dataset),
        ("list of clips",): [o.clip for o in result.outcomes],
        ("classifier", result.model): settings.model,
        ("defence", result.defense, result.model): settings.defense,
        ("attack", result.attack, result.budget): (
            _column(settings),
            settings.budget,
            settings.source,
            settings.against,
        ),
    }


def _column(settings: CellIdentity) -> ComponentIdentity | None:
    """What all rows have in common under an attack: the moves that it takes follow from the defence."""
    if settings.attack is None or settings.gradient != "strongest":
        return settings.attack
    params = {key: value for key, value in settings.attack.params.items() if key != "moves"}
    return settings.attack.model_copy(update={"params": params, "parts": ()})


def difference(known: Mapping[tuple[str, ...], Any], meanings: Mapping[tuple[str, ...], Any]) -> str | None:
    """The first label of a result that already stands for something else."""
    for key, value in meanings.items():
        if key in known and known[key] != value:
            return " ".join(key[:2])
    return None


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


def by_model(seconds: Mapping[tuple[str, str], float]) -> dict[str, dict[str, float]]:
    nested: dict[str, dict[str, float]] = {}
    for (model, defense), value in seconds.items():
        nested.setdefault(model, {})[defense] = float(f"{value:.3g}")
    return nested


def read_seconds(folder: Path) -> dict[tuple[str, str], float]:
    """:func:`pass_seconds` as the last runs recorded them; empty if none did.

    Raises:
        BenchError: the record is damaged.
    """
    path = folder / RUN_FILE
    recorded = _read(path, _RunFile).seconds_of_a_pass if path.is_file() else {}
    return {(model, defense): s for model, of_model in recorded.items() for defense, s in of_model.items()}


_M = TypeVar("_M", bound=BaseModel)


def _from_1(content: dict[str, Any]) -> dict[str, Any]:
    """Version 1 knew no code of budgets, numbered the engine, and kept more digits than two machines agree on; its
    digests followed the text of the code."""
    settings = dict(content["settings"])
    settings["engine"] = f"version {settings.pop('engine', '?')}"
    for key in ("dataset", "model", "defense", "attack", "source"):
        settings[key] = _component_from_1(settings.get(key))
    if content.get("control"):
        seen = {"message": content["control"].get("said", "")}
        kept = {key: value for key, value in content["control"].items() if key != "said"}
        content = {**content, "control": kept | seen}
    outcomes = [
        {key: _rounded(value, _DIGITS_1[key]) if key in _DIGITS_1 else value for key, value in outcome.items()}
        for outcome in content["outcomes"]
    ]
    stale = "Measured before identities followed the meaning of the code."
    return {**content, "settings": settings, "outcomes": outcomes, "stale": stale, "version": 2}


# Significant digits that version 2 keeps.
_DIGITS_1 = {"trace": 3, "l2": 4, "changed": 4, "measured": 4}


def _rounded(value: Any, digits: int) -> Any:
    if isinstance(value, list):
        return [_rounded(item, digits) for item in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def _component_from_1(component: Any) -> Any:
    if not isinstance(component, dict):
        return component
    files = component.get("files", {})
    if isinstance(files, str):
        files = {"content": files}
    elif isinstance(files, list):
        files = {str(i): file for i, file in enumerate(files)}
    parts = [_component_from_1(part) for part in component.get("parts", [])]
    return {**component, "files": files, "parts": parts}


def _from_2(content: dict[str, Any]) -> dict[str, Any]:
    """Version 2 had a vote of every candidate; in version 3 one that could change nothing is ``null``."""
    if any(None in outcome.get("votes", []) for outcome in content["outcomes"]):
        raise ValueError("a vote is null")
    return {**content, "version": 3}


def _from_3(content: dict[str, Any]) -> dict[str, Any]:
    """Version 3 did not say who computed it. The record of the last run beside it does not, either: that run may have
    computed the row, or another one."""
    return {**content, "provenance": [None] if content["outcomes"] else [], "version": 4}


# What reads an older file: from its version to the next.
_CONVERTERS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1, 2: _from_2, 3: _from_3}
VERSION = 1 + max(_CONVERTERS)


def _converted(path: Path, content: Any) -> Any:
    """The content of a result file of any version, as the newest one has it."""
    if not isinstance(content, dict) or "cell" not in content:
        return content
    version = content.get("version", 1)
    if type(version) is not int or not 1 <= version <= VERSION:
        raise BenchError(
            f"{path} is of version {version} of the result files, and this bench reads up to {VERSION}: install a "
            "newer one."
        )
    try:
        while version in _CONVERTERS:
            content = _CONVERTERS[version](content)
            version = content["version"]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BenchError(
            f"{path} is not a valid result file: it says that it is of version {version}, and its contents are not "
            f"({type(error).__name__}: {error}); delete it and run the grid again."
        ) from error
    return content


def _read(path: Path, kind: type[_M]) -> _M:
    try:
        content = strict_json(path.read_text(encoding="utf-8"))
        if kind is CellResult:
            content = _converted(path, content)
        # From JSON, and not from its values: a list is a tuple there, but true is no 1 and "1" neither.
        return kind.model_validate_json(json.dumps(content), strict=True)
    except OSError as error:
        raise BenchError(f"Cannot read {path}: {error.strerror or error}.") from error
    except RecursionError as error:
        raise BenchError(
            f"{path} is not a valid result file: it is nested too deeply; delete it and run the grid again."
        ) from error
    except (ValidationError, ValueError) as error:
        problem = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        where = "".join(f"{part}: " for part in (".".join(str(p) for p in problem["loc"]),) if part)
        raise BenchError(
            f"{path} is not a valid result file: {where}{problem['msg']}; delete it and run the grid again."
        ) from error


def read_grid_file(folder: Path) -> GridFile | None:
    """The description of a results folder, if it has one.

    Raises:
        BenchError: the file is damaged, or of another grid than the folder.
    """
    path = folder / GRID_FILE
    if not path.is_file():
        return None
    described = _read(path, GridFile)
    if described.name != folder.name:
        raise _changed(path, f"it describes {described.name!r}, and lies in the folder of {folder.name!r}")
    return described


def result_files(folder: Path) -> list[Path]:
    """Those of a folder: neither what starts with ``_``, which is about all cells, nor hidden files."""
    return sorted(p for p in folder.glob("*.json") if not p.name.startswith(("_", ".")))


def read_result(path: Path) -> CellResult:
    """One result file.

    Raises:
        BenchError: it is not valid, its score does not follow from its outcomes, or its fields contradict one another.
    """
    result = _read(path, CellResult)
    what = contradiction(result)
    if what is None and Score.of(result.outcomes) != result.score:
        what = "its score does not follow from the outcomes"
    if what is not None:
        raise _changed(path, what)
    return result


def _changed(path: Path, what: str) -> BenchError:
    return BenchError(f"{path}: {what}: the file was changed by hand; run the grid again.")


def read_results(folder: Path) -> list[CellResult]:
    """All result files of one grid's folder, in the grid's order.

    Raises:
        BenchError: a file is not a valid result, or files of different measurements lie together; nothing is
            skipped silently. Neither are files that contradict themselves or one another.
    """
    described = read_grid_file(folder)
    order = described.order if described else []
    paths = result_files(folder)
    paths.sort(key=lambda p: order.index(p.name) if p.name in order else len(order))
    results: list[CellResult] = []
    known: dict[tuple[str, ...], Any] = {}
    for path in paths:
        result = read_result(path)
        if path.name != result.file_name:
            raise _changed(path, f"its labels are those of {result.file_name}")
        mine = {} if result.stale else meanings(result)  # a stale row may stand beside others: it says what it is
        what = difference(known, mine)
        if what:
            raise BenchError(
                f"{path} belongs to another measurement than the files beside it: its {what} is not the same. Run the "
                "grid again with this row, or delete the file."
            )
        known |= mine
        results.append(result)
    _compare(folder, results)
    return results


def _compare(folder: Path, results: Iterable[CellResult]) -> None:
    """Refuses files that say different things of one clip. Stale ones may: they are of other weights or clips."""
    fresh = [r for r in results if not r.stale]
    clean = {(r.model, r.defense): r for r in fresh if r.knowledge == "clean"}
    labels: dict[str, int] = {}
    for result in fresh:
        own = clean.get((result.model, result.defense))
        what = unlike(labels, result.outcomes) or (None if own is None else disagreement(result, own))
        if what is not None:
            raise _changed(folder / result.file_name, what)
        labels |= {o.clip: o.label for o in result.outcomes}


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
