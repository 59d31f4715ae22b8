"""The tables of every grid that was measured, as its results folder describes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError
from bench.records.audits import AuditedRow, read_audit
from bench.records.description import GridFile, Skipped
from bench.records.results import CellResult, read_grid_file, read_results, read_seconds
from bench.records.submissions import FOLDER as SUBMISSIONS
from bench.report.across import means_across
from bench.report.reported import Reported
from bench.report.submitted import Accepted, belongs, sorted_out
from bench.report.tables import Table, TableOptions, make_tables


@dataclass(frozen=True)
class GridTables:
    """One grid that was measured.

    Attributes:
        folder: of its results.
        described: what that says of it.
        cells: its own.
        joined: submitted rows that stand in its tables, by their labels.
        alone: the submission whose own results these are; nothing for those of ``results/GRID``.
        tables: of all of them.
        audits: of its rows, those of submitted ones by whoever verified them.
    """

    folder: Path
    described: GridFile
    cells: Sequence[CellResult]
    joined: Mapping[str, tuple[Accepted, list[CellResult]]]
    alone: Accepted | None
    tables: Sequence[Table]
    audits: Sequence[AuditedRow]

    @property
    def submitted(self) -> set[str]:
        """Labels of the rows that were submitted."""
        return {self.alone.card.name} if self.alone is not None else set(self.joined)

    @property
    def every_cell(self) -> list[CellResult]:
        """Its own, and those of submitted rows."""
        return [*self.cells, *(cell for _, row in self.joined.values() for cell in row)]


def all_grids(results: Path) -> list[GridTables]:
    """All grids in a folder of results, and the tables of verified submissions that stand in none of them.

    Raises:
        BenchError: the folder does not exist, or a file in it is not a valid result.
    """
    if not results.is_dir():
        raise BenchError(f"There is no results folder {results}: run 'bench run' first, or give --results.")
    accepted, _ = sorted_out(results)
    others = ("reported", SUBMISSIONS)
    folders = sorted(p for p in results.iterdir() if p.is_dir() and p.name not in others and not p.name.startswith("."))
    grids = [_grid(folder, results / "reported", accepted) for folder in folders]
    apart = [_grid(folder, results / "reported", [], one) for one in accepted for folder in _apart(one, results)]
    return [grid for grid in (*grids, *apart) if grid is not None]


def _joining(folder: Path, accepted: Sequence[Accepted]) -> dict[str, tuple[Accepted, list[CellResult]]]:
    """Submitted rows that stand in the tables of a results folder, by their labels."""
    accepted = [one for one in accepted if folder.name in one.submitted.grids]
    cells = read_results(folder) if accepted and folder.is_dir() else []
    there = {cell.defense for cell in cells}
    found: dict[str, tuple[Accepted, list[CellResult]]] = {}
    for one in accepted:
        row = one.row(folder.name)
        if row and one.card.name not in {*there, *found} and belongs(row, cells):
            found[one.card.name] = one, row
    return found


def _apart(one: Accepted, results: Path) -> list[Path]:
    """Folders of a submission's results that stand in no other table: beside the undefended row of its authors."""
    return [one.folder / name for name in one.submitted.grids if one.card.name not in _joining(results / name, [one])]


def _grid(
    folder: Path, reported_folder: Path, accepted: Sequence[Accepted], alone: Accepted | None = None
) -> GridTables | None:
    """What one results folder holds; nothing if nothing was measured."""
    cells, described = read_results(folder), read_grid_file(folder)
    if not cells:
        return None
    if described is None:
        raise BenchError(
            f"{folder} holds {len(cells)} results, but no _grid.json, which says how they stand together: run 'bench "
            "run' with that grid again (what is stored is not measured again), or move the folder away."
        )
    reported = None
    if described.reported is not None and reported_folder.is_dir():
        reported = Reported(described.reported, reported_folder)
    joined = _joining(folder, accepted)
    audits = alone.audits(folder.name) if alone is not None else read_audit(folder)
    audits = [*audits, *(row for one, _ in joined.values() for row in one.audits(folder.name))]
    options = TableOptions.of(
        described,
        reported=reported,
        skipped=[*described.skipped, *(s for one, _ in joined.values() for s in _skipped(one, folder.name))],
        seconds=lambda: read_seconds(folder) | _seconds(folder.name, joined),
        across=means_across(described.across, folder.parent) if alone is None else {},
        audits=audits,
    )
    tables = make_tables([*cells, *(cell for _, row in joined.values() for cell in row)], options)
    return GridTables(folder, described, cells, joined, alone, tables, audits)


def _skipped(one: Accepted, grid: str) -> list[Skipped]:
    described = read_grid_file(one.folder / grid)
    return [s for s in described.skipped if s.defense == one.card.name] if described is not None else []


def _seconds(grid: str, joined: Mapping[str, tuple[Accepted, list[CellResult]]]) -> dict[tuple[str, str], float]:
    """Of a pass, as the authors' machines took it."""
    return {
        key: seconds
        for name, (one, _) in joined.items()
        for key, seconds in read_seconds(one.folder / grid).items()
        if key[1] == name
    }
