"""Figures that papers print. They are always labelled *reported* and never mixed with measured ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path

import pandas as pd

from bench.errors import BenchError, nearest
from bench.records.description import ReportedSection

# Columns that hold per cents: tables of conditions and columns call theirs a value.
_FIGURES = ("accuracy", "value")


def shipped_folder() -> Path:
    """The CSV files inside the package (``results/reported/`` of the repository)."""
    return Path(str(resources.files("bench.reported")))


def read_table(folder: Path, file: str) -> pd.DataFrame:
    """One table of a paper, all values as text.

    Raises:
        BenchError: there is no such file, or it is no table.
    """
    path = folder / file
    if not path.is_file():
        known = [p.name for p in sorted(folder.glob("*.csv"))]
        raise BenchError(f"There is no reported table {file!r}{nearest(file, known)} in {folder}.")
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False)
    except ValueError as error:
        raise BenchError(f"Reported table {path} cannot be read: {error}; write it as UTF-8 CSV.") from error


class Reported:
    """The reported figures that belong beside one grid.

    Args:
        section: the grid's ``reported`` section.
        folder: where the CSV files are.

    Raises:
        BenchError: the file or a column that selects rows does not exist.
    """

    def __init__(self, section: ReportedSection, folder: Path) -> None:
        self.section = section
        self.source = f"reported in {section.file}"
        self._defenses = {label: _columns(chosen, "defense") for label, chosen in section.defenses.items()}
        self._attacks = {label: _columns(chosen, "attack") for label, chosen in section.attacks.items()}
        table = read_table(folder, section.file)
        choices = (*self._defenses.values(), *self._attacks.values(), *section.budgets.values())
        for column in dict.fromkeys([*section.where, *(c for chosen in choices for c in chosen)]):
            if column not in table:
                raise BenchError(
                    f"Reported table {section.file} has no column {column!r}{nearest(column, table.columns)}."
                )
        figures = figure_column(table)
        if figures is None:
            raise BenchError(
                f"Reported table {section.file} has no accuracies: choose a table of defences and attacks."
            )
        self._table, self._figures = _select(table, section.where), figures

    def row(self, defense: str, columns: Iterable[str], budget: str = "") -> dict[str, float]:
        """Reported figures of a defence under a budget, by this grid's column labels: percentages, and seconds.

        Raises:
            BenchError: several rows of the table fit.
        """
        return {label: float(row[self._figures]) for label, row in self._rows(defense, columns, budget)}

    def remarks(self, defense: str, columns: Iterable[str], budget: str = "") -> dict[str, str]:
        """What the table remarks on the figures that :meth:`row` gives, by column: :func:`remark`."""
        found = {label: remark(row) for label, row in self._rows(defense, columns, budget)}
        return {label: words for label, words in found.items() if words}

    def _rows(self, defense: str, columns: Iterable[str], budget: str) -> Iterator[tuple[str, Mapping[str, str]]]:
        """Rows of the table that hold a figure, by this grid's column labels."""
        if defense not in self._defenses or (self.section.budgets and budget not in self.section.budgets):
            return
        for label in columns:
            if label not in self._attacks or label in self.section.without.get(defense, ()):
                continue
            chosen = {**self.section.budgets.get(budget, {}), **self._attacks[label], **self._defenses[defense]}
            rows = [row for row in _select(self._table, chosen).to_dict("records") if row[self._figures]]
            if len(rows) > 1:
                raise BenchError(
                    f"{len(rows)} rows of the reported table {self.section.file} fit {defense} under {label}: choose "
                    "one with 'where', 'attacks' or 'budgets'."
                )
            if rows:
                yield label, {str(column): str(value) for column, value in rows[0].items()}


def figure_column(table: pd.DataFrame) -> str | None:
    """The column of the figures; ``None`` if a table has none."""
    return next((column for column in _FIGURES if column in table), None)


def remark(row: Mapping[str, str]) -> str:
    """What a row says of its own figure: another that the source prints, and a note. Empty if nothing."""
    printed = row.get("value_on_slide", "")
    other = f"the slide prints {printed}" if printed and printed != row.get("accuracy") else ""
    return "; ".join(words for words in (other, row.get("note", "")) if words)


def _columns(chosen: str | dict[str, str], usual: str) -> dict[str, str]:
    return {usual: chosen} if isinstance(chosen, str) else chosen


def _select(table: pd.DataFrame, values: Mapping[str, str]) -> pd.DataFrame:
    for column, value in values.items():
        table = table[table[column] == value]
    return table
