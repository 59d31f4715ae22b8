"""The front of the board: one entry for a defence before a classifier, on a data set, under a threat."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from bench.files import slug
from bench.records.audits import AuditedRow
from bench.records.results import CellResult, Score
from bench.report.grids import GridTables
from bench.report.tables import Row, Table, voided

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
    def of(cls, score: Score | None) -> Figure | None:
        """Of what was measured; nothing if nothing was."""
        if score is None or not score.clips:
            return None
        low, high = score.interval
        return cls(score.accuracy, low, high, score.clips)


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
    return Entry(
        key=slug(f"{name}--{row.defense}--{table.model}--{table.budget}").lower(),
        kind="submitted" if row.defense in grid.submitted else "measured",
        grid=grid.described.name,
        dataset=table.dataset,
        model=table.model,
        defense=row.defense,
        threat=table.budget,
        standard=Figure.of(row.scores.get("clean")),
        gray=Figure.of(row.gray),
        adaptive=Figure.of(row.robust),
        union=Figure.of(row.union),
        worst=row.hardest,
        grade=row.grade,
        seconds=row.seconds,
        void=voided(row) if row.void else "",
        stale=next((c.stale for c in cells if c.stale), ""),
        cells=cells,
        row=row,
        grid_tables=grid,
    )


def unique(entries: Sequence[Entry]) -> list[Entry]:
    """Entries whose keys differ, numbered where two are alike."""
    seen: dict[str, int] = {}
    found: list[Entry] = []
    for entry in entries:
        seen[entry.key] = number = seen.get(entry.key, 0) + 1
        found.append(entry if number == 1 else replace(entry, key=f"{entry.key}-{number}"))
    return found
