"""How a row of results is named: ``GRID:DEFENCE[@MODEL]``, a results folder, or one result file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError, nearest
from bench.records.results import CellResult, read_result, read_results, result_files


@dataclass(frozen=True)
class NamedRow:
    """The cells of one defence before one classifier.

    Attributes:
        grid: name of the folder that the cells lie in.
        model, defense: labels.
        cells: in the grid's order, under every budget.
        folder: where the grid's results lie, and what its tables are to be.
    """

    grid: str
    model: str
    defense: str
    cells: tuple[CellResult, ...]
    folder: Path = Path()

    def __str__(self) -> str:
        return f"{self.grid}:{self.defense}@{self.model}"

    @property
    def columns(self) -> dict[tuple[str, str], CellResult]:
        """Cells by attack and budget."""
        return {(cell.attack, cell.budget): cell for cell in self.cells}


def find_rows(name: str, results: Path = Path("results")) -> list[NamedRow]:
    """All rows that a name stands for: one of ``GRID:DEFENCE`` and of a result file, those of a grid or a folder.

    Args:
        name: ``GRID`` is a folder in ``results``, or the path of one. ``DEFENCE`` is a label as it is printed, or what
            stands before its parameters; upper and lower case are the same.
        results: folder of the grids' folders.

    Raises:
        BenchError: nothing is called so, or more than one row is, which are then named; or a file is no valid result.
    """
    if Path(name).is_file():
        cell = read_result(Path(name))
        folder = Path(name).resolve().parent
        return [NamedRow(folder.name, cell.model, cell.defense, (cell,), folder)]
    if (whole := _folder(name, results)) is not None:
        return _rows(whole)
    # From the right: a path may hold a colon, and so may the parameters of a defence.
    for at in (i for i in reversed(range(len(name))) if name[i] == ":"):
        if (whole := _folder(name[:at], results)) is not None:
            return [_chosen(name, name[at + 1 :], _rows(whole))]
    grid = name.partition(":")[0]
    there = sorted(p.name for p in results.iterdir() if p.is_dir() and result_files(p)) if results.is_dir() else []
    raise BenchError(
        f"There are no results of {grid!r} in {results}{nearest(grid, there)}; name a row GRID:DEFENCE or "
        "GRID:DEFENCE@MODEL, a results folder or a result file."
    )


def find_row(name: str, results: Path = Path("results")) -> NamedRow:
    """The one row that a name stands for.

    Raises:
        BenchError: as :func:`find_rows`, or a grid or folder has several.
    """
    rows = find_rows(name, results)
    if len(rows) > 1:
        raise BenchError(f"{name!r} has {len(rows)} rows; name one of them: {_listed(rows)}.")
    return rows[0]


def _folder(name: str, results: Path) -> Path | None:
    places = [Path(name), results / name] if name else []
    return next((place for place in places if place.is_dir() and result_files(place)), None)


def _rows(folder: Path) -> list[NamedRow]:
    folder, by_row = folder.resolve(), dict[tuple[str, str], list[CellResult]]()
    for cell in read_results(folder):
        by_row.setdefault((cell.model, cell.defense), []).append(cell)
    return [NamedRow(folder.name, m, d, tuple(cells), folder) for (m, d), cells in by_row.items()]


def _chosen(name: str, label: str, rows: Sequence[NamedRow]) -> NamedRow:
    """The row of a label; what is written exactly goes before what is only meant."""
    for short in (False, True):
        found = [row for row in rows if label.casefold() in _labels(row, short)]
        if len(found) == 1:
            return found[0]
        if found:
            raise BenchError(f"{name!r} may be any of {_listed(found)}: name one of them.")
    begun = [row for row in rows if row.defense.casefold().startswith(label.casefold())]
    if len(begun) > 1:
        raise BenchError(f"{name!r} may be any of {_listed(begun)}: name one of them.")
    known = [row.defense for row in rows]
    raise BenchError(f"There is no row {label!r}{nearest(label, known)}; there are {_listed(rows)}.")


def _labels(row: NamedRow, short: bool) -> set[str]:
    defense = row.defense.partition("(")[0] if short else row.defense
    return {defense.casefold(), f"{defense}@{row.model}".casefold()}


def _listed(rows: Iterable[NamedRow]) -> str:
    return ", ".join(map(str, rows))
