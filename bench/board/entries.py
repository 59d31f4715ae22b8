"""The front of the board: one entry for a defence before a classifier, on a data set, under a threat."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

from bench.errors import BenchError
from bench.files import slug
from bench.grids.grid import AttackSection, Grid, shipped_grids
from bench.records.audits import AuditedRow
from bench.records.metrics import union, wilson
from bench.records.results import CellResult
from bench.records.strict_yaml import read_yaml
from bench.registry import ATTACKS
from bench.report.grids import GridTables
from bench.report.reported import Reported, shipped_folder
from bench.report.tables import Row, Table, voided
from bench.threat.budgets import Budget

Kind = Literal["measured", "submitted", "reported"]


@dataclass(frozen=True)
class Figure:
    """An accuracy in percent.

    Attributes:
        low, high: the 95 % Wilson interval; nothing of a figure that a paper prints without one.
        clips: that it is of; 0 if unknown.
    """

    value: float
    low: float | None = None
    high: float | None = None
    clips: int = 0

    @classmethod
    def of(cls, hits: float, clips: int) -> Figure:
        low, high = wilson(hits, clips)
        return cls(100 * hits / clips if clips else math.nan, 100 * low, 100 * high, clips)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One row of the front.

    Attributes:
        key: unique, and part of addresses.
        kind: who says it.
        grid, dataset, model, defense, threat: labels.
        standard: clean clips through the defence.
        gray: the worst, clip by clip, over all gray-box attacks; adaptive: over all adaptive ones; union: over both,
            and noise.
        worst: the adaptive attack that leaves least.
        grade: of an audit; empty if there was none.
        seconds: of one clean clip, if it is known.
        void: why the row means nothing; stale: why nobody knows whether it still holds. Empty if neither.
        source: of a published figure, its file.
        beside: other grids beside which the same row is printed.
        table, row: of a measured one.
    """

    key: str
    kind: Kind
    grid: str
    dataset: str
    model: str
    defense: str
    threat: str
    standard: Figure | None = None
    gray: Figure | None = None
    adaptive: Figure | None = None
    union: Figure | None = None
    worst: str = ""
    grade: str = ""
    seconds: float | None = None
    void: str = ""
    stale: str = ""
    source: str = ""
    beside: tuple[str, ...] = ()
    cells: tuple[CellResult, ...] = field(default=(), repr=False)
    row: Row | None = field(default=None, repr=False)
    grid_tables: GridTables | None = field(default=None, repr=False)

    @property
    def figures(self) -> dict[str, Figure | None]:
        return {"standard": self.standard, "gray": self.gray, "adaptive": self.adaptive, "union": self.union}

    @property
    def grids(self) -> tuple[str, ...]:
        return self.grid, *self.beside

    @property
    def letter(self) -> str:
        """The grade without what it stands on; ``-`` for none."""
        return self.grade[:1] or "-"

    @property
    def audit(self) -> AuditedRow | None:
        """The audit of its cells, if that is the newest."""
        if self.grid_tables is None or not self.grade:
            return None
        key = (self.model, self.defense, self.threat)
        return next((a for a in self.grid_tables.audits if (a.model, a.defense, a.budget) == key), None)


def measured(grids: Iterable[GridTables]) -> list[Entry]:
    """An entry for every row of every table."""
    return [
        _measured(grid, table, row)
        for grid in grids
        for table in grid.tables
        for row in table.rows
        if row.defense not in grid.described.oracles  # which mix rows
    ]


def _measured(grid: GridTables, table: Table, row: Row) -> Entry:
    cells = tuple(
        c
        for c in grid.every_cell
        if (c.dataset, c.model, c.defense) == (table.dataset, table.model, row.defense)
        and c.budget in ("", table.budget)
    )
    name = grid.described.name if grid.alone is None else f"{grid.described.name}-{grid.alone.folder.name}"
    clean = next((c for c in cells if c.knowledge == "clean"), None)
    adaptive = {} if row.void else _of(cells, "adaptive")
    least = min(adaptive.values(), key=lambda c: c.score.accuracy, default=None)
    return Entry(
        key=slug(f"{name}--{row.defense}--{table.model}--{table.budget}").lower(),
        kind="submitted" if row.defense in grid.submitted else "measured",
        grid=grid.described.name,
        dataset=table.dataset,
        model=table.model,
        defense=row.defense,
        threat=table.budget,
        standard=None if clean is None else Figure.of(clean.score.correct, clean.score.clips),
        gray=_worst(_of(cells, "gray-box").values()),
        adaptive=_worst(adaptive.values()),
        union=None if row.union is None else Figure.of(row.union.correct, row.union.clips),
        worst="" if least is None else least.attack,
        grade=row.grade,
        seconds=row.seconds,
        void=voided(row) if row.void else "",
        stale=next((c.stale for c in cells if c.stale), ""),
        cells=cells,
        row=row,
        grid_tables=grid,
    )


def _of(cells: Iterable[CellResult], knowledge: str) -> dict[str, CellResult]:
    return {c.attack: c for c in cells if c.knowledge == knowledge}


def _worst(cells: Iterable[CellResult]) -> Figure | None:
    """Clips that stand under all of some attacks."""
    listed = list(cells)
    survived = union({c.attack: {o.clip: o.verdicts for o in c.outcomes} for c in listed})
    if not survived:
        return None
    hits = min(math.fsum(survived.values()), *(c.score.correct for c in listed))
    return Figure.of(hits, len(survived))


@lru_cache(maxsize=1)
def reported() -> tuple[Entry, ...]:
    """An entry for every row of a shipped grid beside which a paper prints figures, whether it was run or not. Papers
    print some rows in several tables: those are one."""
    entries: list[Entry] = []
    for path in shipped_grids().values():
        grid = _read(path)
        if grid.reported is not None:
            entries += list(_reported(grid, Reported(grid.reported, shipped_folder())))
    rows: dict[tuple[object, ...], list[Entry]] = {}
    for e in entries:
        rows.setdefault((e.dataset, e.model, e.defense, e.threat, *e.figures.values()), []).append(e)
    return tuple(replace(same[0], beside=tuple(e.grid for e in same[1:])) for same in rows.values())


def _reported(grid: Grid, figures: Reported) -> Iterator[Entry]:
    assert grid.reported is not None
    columns = {section.label: _knowledge(section) for section in grid.attack_sections if not section.worst}
    where = grid.reported.where
    for budget in _budgets(grid):
        for defense in [*map(str, grid.defense_specs), *grid.oracles]:
            try:
                found = figures.row(defense, [*columns, *grid.worst, "Union", "Mean", "Seconds"], budget)
            except BenchError:  # several rows fit: the grid's own table chooses by model, and says so
                continue
            of_kind = {
                kind: [v for label, v in found.items() if columns.get(label) == kind]
                for kind in ("clean", "gray-box", "adaptive")
            }
            labels = {v: label for label, v in found.items() if columns.get(label) == "adaptive"}
            if not any(of_kind.values()):
                continue
            yield Entry(
                key=slug(f"reported--{grid.name}--{defense}--{budget}").lower(),
                kind="reported",
                grid=grid.name,
                dataset=where.get("dataset", grid.dataset.name),
                model=where.get(
                    "model", grid.models[0] if isinstance(grid.models[0], str) else str(grid.model_specs[0])
                ),
                defense=defense,
                threat=budget,
                standard=_printed(of_kind["clean"]),
                gray=_printed(of_kind["gray-box"]),
                adaptive=_printed(of_kind["adaptive"]),
                union=_printed([found["Union"]] if "Union" in found else []),
                worst=labels.get(min(of_kind["adaptive"]), "") if of_kind["adaptive"] else "",
                seconds=found.get("Seconds"),
                source=grid.reported.file,
            )


def _printed(values: Sequence[float]) -> Figure | None:
    """The least of what a paper prints: it has no verdicts by clip."""
    return Figure(min(values)) if values else None


def _knowledge(section: AttackSection) -> str:
    """What the attacker of a column knows, as :mod:`bench.plan.expand` decides it."""
    if section.attack is None:
        return "clean"
    if section.source is not None:
        return "black-box"
    attack = ATTACKS.get(section.attack.name).factory
    if not getattr(attack, "uses_model", True):
        return "universal" if getattr(attack, "learned", False) else "noise"
    return "gray-box" if section.gradient in (None, "none") else "adaptive"


def _budgets(grid: Grid) -> list[str]:
    """Texts of a grid's budgets, as tables print them."""
    return [str(Budget.parse(b)) for b in grid.budgets]


def unique(entries: Sequence[Entry]) -> list[Entry]:
    """Entries whose keys differ, numbered where two are alike."""
    seen: dict[str, int] = {}
    found: list[Entry] = []
    for entry in entries:
        seen[entry.key] = number = seen.get(entry.key, 0) + 1
        found.append(entry if number == 1 else replace(entry, key=f"{entry.key}-{number}"))
    return found


@dataclass(frozen=True)
class Claim:
    """A figure that a paper prints beside one that was measured here.

    Attributes:
        column: label, or Union.
        table: the shipped grid of the paper's table.
        reported: in percent.
        measured: here.
        same: whether on the paper's clips and network; otherwise on the embedded ones that stand for them.
        remark: what is to be known of the printed figure.
    """

    entry: Entry
    column: str
    table: str
    reported: float
    measured: Figure
    same: bool = True
    remark: str = ""

    @property
    def difference(self) -> float:
        return self.measured.value - self.reported

    @property
    def inside(self) -> bool:
        """Whether what is printed lies in the interval that was measured."""
        low, high = self.measured.low, self.measured.high
        return low is not None and high is not None and low <= self.reported <= high


def claims(entries: Iterable[Entry]) -> list[Claim]:
    """Every printed figure that has a measured one beside it, or that an embedded grid stands for."""
    found = []
    for entry in entries:
        if entry.row is None or entry.void:
            continue
        table, printed, remarks = _beside(entry)
        scores = dict(entry.row.scores) | ({"Union": entry.row.union} if entry.row.union is not None else {})
        for label, value in printed.items():
            score = scores.get(label)
            if score is not None:
                figure = Figure.of(score.correct, score.clips)
                found.append(Claim(entry, label, table, value, figure, table == entry.grid, remarks.get(label, "")))
    return found


def _beside(entry: Entry) -> tuple[str, Mapping[str, float], Mapping[str, str]]:
    """The grid of a paper's table, and what that prints and remarks of a row, by its columns."""
    assert entry.row is not None
    if entry.row.reported:
        return entry.grid, entry.row.reported, entry.row.remarks
    grids = shipped_grids()
    other = _read(grids[entry.grid]).stands_for if entry.grid in grids else ""
    described = _read(grids[other]).reported if other else None
    if described is None:
        return "", {}, {}
    figures, columns = Reported(described, shipped_folder()), [*entry.row.scores, "Union"]
    try:
        printed = figures.row(entry.defense, columns, entry.threat)
    except BenchError:  # several figures fit, as of other networks: there is none to compare with
        return "", {}, {}
    return other, printed, figures.remarks(entry.defense, columns, entry.threat)


@lru_cache(maxsize=256)
def _read(path: Path) -> Grid:
    """A shipped grid, not checked: that would make all of its components, and tests do so of what is shipped."""
    return Grid(**{"name": path.stem, **read_yaml(path.read_text(encoding="utf-8"), f"Grid file {path}")})
