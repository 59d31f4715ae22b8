"""Means over several grids, as papers print them of data sets and classifiers together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from bench.records.description import AcrossSection
from bench.records.metrics import mean
from bench.records.results import read_grid_file, read_results
from bench.report.tables import Row, TableOptions, make_tables


def means_across(sections: Mapping[str, AcrossSection], results: Path | None) -> dict[str, dict[str, float]]:
    """For each label the mean of a column over several grids, in percent, by defence.

    A defence has a mean only where all of these grids have its figure, measured by the present code.

    Args:
        results: folder with a sub-folder per grid; nothing is known if it is not given.

    Raises:
        BenchError: a file in one of these folders is no valid result.
    """
    return {label: {} if results is None else _mean(section, results) for label, section in sections.items()}


def _mean(section: AcrossSection, results: Path) -> dict[str, float]:
    figures = [_column(results / grid, section.column) for grid in section.grids]
    return {d: mean([of_grid[d] for of_grid in figures]) for d in figures[0] if all(d in f for f in figures)}


def _column(folder: Path, column: str) -> dict[str, float]:
    """The figures of one column of a grid by defence, each the mean over the grid's tables if it stands in all."""
    described = read_grid_file(folder)
    if described is None:
        return {}
    cells = [cell for cell in read_results(folder) if not cell.stale]
    options = TableOptions.of(described, reported=None, skipped=described.skipped, seconds=dict)
    tables = [{row.defense: _figure(row, column) for row in table.rows} for table in make_tables(cells, options)]
    found = {}
    for defense in tables[0] if tables else ():
        figures = [of_table.get(defense, math.nan) for of_table in tables]
        if not any(map(math.isnan, figures)):
            found[defense] = mean(figures)
    return found


def _figure(row: Row, column: str) -> float:
    if row.void:
        return math.nan
    return row.scores[column].accuracy if column in row.scores else row.averages.get(column, math.nan)
