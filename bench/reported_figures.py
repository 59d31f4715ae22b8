"""Figures that papers print. They are always labelled *reported* and never mixed with measured ones."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from pathlib import Path

import pandas as pd

from bench.errors import BenchError, nearest
from bench.grid import ReportedSection


def shipped_folder() -> Path:
    """The CSV files inside the package (``results/reported/`` of the repository)."""
    return Path(str(resources.files("bench.reported")))


def read_table(folder: Path, file: str) -> pd.DataFrame:
    """One table of a paper, all values as text.

    Raises:
        BenchError: there is no such file.
    """
    path = folder / file
    if not path.is_file():
        known = [p.name for p in sorted(folder.glob("*.csv"))]
        raise BenchError(f"There is no reported table {file!r}{nearest(file, known)} in {folder}.")
    return pd.read_csv(path, dtype=str, keep_default_na=False)


class Reported:
    """The reported figures that belong beside one grid.

    Args:
        section: the grid's ``reported`` section.
        folder: where the CSV files are.

    Raises:
        BenchError: the file or a column of ``where`` does not exist.
    """

    def __init__(self, section: ReportedSection, folder: Path) -> None:
        self.section = section
        self.source = f"reported in {section.file}"
        table = read_table(folder, section.file)
        for column, value in section.where.items():
            if column not in table:
                raise BenchError(
                    f"Reported table {section.file} has no column {column!r}{nearest(column, table.columns)}."
                )
            table = table[table[column] == value]
        self._table = table

    def row(self, defense: str, columns: Iterable[str]) -> dict[str, float]:
        """Reported percentages of a defence, by this grid's column labels."""
        name = self.section.defenses.get(defense)
        if name is None:
            return {}
        rows = self._table[self._table["defense"] == name]
        found: dict[str, float] = {}
        for label in columns:
            attack = self.section.attacks.get(label)
            values = rows[rows["attack"] == attack]["accuracy"].tolist() if attack is not None else []
            if values and values[0]:
                found[label] = float(values[0])
        return found
