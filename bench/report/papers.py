"""The tables of the papers, as Markdown: everything in ``results/reported/``, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bench.report.reported import figure_column, read_table, remark
from bench.report.tables import markdown_table, narrow

# Sources by how their files are called; the first that fits.
_PAPERS = {
    "videopure_": "VideoPure",
    "motion_": "Motion consistency",
    "multibn_": "MultiBN",
    "multav_": "MultAV",
    "oudefend_": "OUDefend",
    "adv_framing_": "Adversarial framing",
    "halftone_": "Halftoning",
    "obfuscated_gradients_": "Obfuscated gradients",
}
_OTHERS = "Others"

# Columns that tell a table of its own, that become the heads of columns, and that say something of one figure.
_TABLES = ("table", "dataset", "model")
_HEADS = ("metric", "attack", "column")
_REMARKS = ("note", "value_on_slide")
# Words of the files that no reader has.
_NAMES = {
    "defense": "Defence",
    "gpu": "GPU",
    "eps_255": "Size in 1/255",
    "eps_l2": "l2 size",
    "n_videos": "Videos",
    "params_millions": "Parameters, millions",
    "time_s": "Time, s",
    "avg_defense_pct": "Average defence",
    "temporal_ddim_inversion": "Temporal DDIM inversion",
}
_MARKS = "†‡§¶"


@dataclass(frozen=True)
class _Layout:
    """Which columns of a file do what.

    Attributes:
        figure: holds the numbers.
        tables: tell one table from another.
        heads: together, the heads of columns; none of them, and every row of the file is one of the table.
        rows: what is left: the beginning of each row.
        same: the others, and their only value.
    """

    figure: str
    tables: list[str]
    heads: list[str]
    rows: list[str]
    same: dict[str, str]

    @classmethod
    def of(cls, table: pd.DataFrame, figure: str) -> _Layout:
        keys = [c for c in table.columns if c not in (figure, *_REMARKS)]
        same = {c: str(table[c].iloc[0]) for c in keys if table[c].nunique() == 1}
        keys = [c for c in keys if c not in same]
        heads = [c for c in _HEADS if c in keys]
        tables = [c for c in _TABLES if c in keys] if heads else []
        rows = [c for c in keys if c not in (*tables, *heads)]
        if not rows and "defense" in same:  # one row, which has to be called something
            rows, same = ["defense"], {c: v for c, v in same.items() if c != "defense"}
        return cls(figure, tables, heads, rows, same)


def paper_sections(folder: Path) -> list[str]:
    """Markdown lines: a section for every source, in it a table for every file of a folder.

    Raises:
        BenchError: a file cannot be read.
    """
    files = sorted(folder.glob("*.csv"), key=lambda path: _natural(path.stem)) if folder.is_dir() else []
    if not files:
        return []
    lines = ["## Reported by the papers", ""]
    for title in [*_PAPERS.values(), _OTHERS]:
        mine = [path for path in files if _paper(path) == title]
        if mine:
            lines += [f"### {title}", "", *(line for path in mine for line in _file(path))]
    return lines


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts ``table2`` before ``table10``."""
    words = "".join(c if c.isdigit() else f"{c} " if not c.isalnum() else c for c in name)
    parts: list[str] = []
    for c in words:
        if parts and c.isdigit() == parts[-1].isdigit():
            parts[-1] += c
        else:
            parts.append(c)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _paper(path: Path) -> str:
    return next((title for start, title in _PAPERS.items() if path.name.startswith(start)), _OTHERS)


def _file(path: Path) -> list[str]:
    """One file: a caption and a table for each data set and classifier, then the remarks."""
    table = read_table(path.parent, path.name)
    figure = figure_column(table)
    if figure is None or table.empty:
        return [f"[`{path.name}`](results/reported/{path.name}) holds no figures.", ""]
    layout = _Layout.of(table, figure)
    remarks: dict[str, int] = {}
    lines: list[str] = []
    groups = table.groupby(layout.tables, sort=False) if layout.tables else [((), table)]
    for values, group in groups:
        words = [*map(str, values), *(_words(column, value) for column, value in layout.same.items() if value)]
        caption = " · ".join([*map(_plain, words), f"[`{path.name}`](results/reported/{path.name})"])
        lines += [f"*Reported*, {caption}", "", *_pivoted(group, layout, remarks)]
    for remarked, number in remarks.items():
        lines += [f"{_mark(number)} {remarked[:1].upper()}{remarked[1:]}.", ""]
    return lines


def _words(column: str, value: str) -> str:
    """A value as captions and heads show it: alone where it speaks for itself."""
    if column in ("metric", "column"):
        return _NAMES.get(value, value)
    if column in ("dataset", "model"):
        return value
    if column in ("attack", "worst_attack"):
        return "Standard" if value == "None" else value
    return f"{_named(column)} {value}"


def _named(column: str) -> str:
    return _NAMES.get(column, column.replace("_", " ").capitalize())


def _mark(number: int) -> str:
    return _MARKS[number - 1] if number <= len(_MARKS) else f"({number})"


def _pivoted(group: pd.DataFrame, layout: _Layout, remarks: dict[str, int]) -> list[str]:
    """One table; what was remarked is numbered on the way."""
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    heads: dict[str, None] = {}
    for beginning, head, cell in _cells(group, layout, remarks):
        row = rows.setdefault(beginning, {})
        # Two figures in one place differ in nothing that the file says: both are shown.
        row[head] = f"{row[head]}; {cell}" if head in row else cell
        heads.setdefault(head)
    header = [_named(column) for column in layout.rows] or [""]
    lines = [[*(key or ("",)), *(cells.get(head, "") for head in heads)] for key, cells in rows.items()]
    parts = narrow([*header, *heads], lines, keys=len(header))
    return [_plain(line) for part in parts for line in (*markdown_table(*part), "")]


def _plain(text: str) -> str:
    """No star of a paper's is emphasis, and no text of a file is HTML."""
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text).replace("*", r"\*")


def _cells(group: pd.DataFrame, layout: _Layout, remarks: dict[str, int]) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """Beginning of the row, head of the column and figure with its mark, of every row of a file."""
    for record in group.to_dict("records"):
        row = {str(column): str(value) for column, value in record.items()}
        words = remark({**row, "accuracy": row[layout.figure]})
        mark = _mark(remarks.setdefault(words, len(remarks) + 1)) if words else ""
        yield tuple(row[c] for c in layout.rows), _head(row, layout), f"{row[layout.figure]}{mark}"


def _head(row: Mapping[str, str], layout: _Layout) -> str:
    if not layout.heads:
        return _named(layout.figure)
    words: Sequence[str] = [_words(column, row[column]) for column in layout.heads]
    return " ".join(word for word in words if (word != "Standard" or len(words) == 1))
