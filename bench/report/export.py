"""Results for other programs: the frame of all outcomes as CSV, JSON or Parquet, and tables as LaTeX."""

from __future__ import annotations

import importlib
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

import pandas as pd

from bench.errors import BenchError, nearest
from bench.records.audits import read_audit
from bench.records.results import Score, read_grid_file, read_seconds, to_frame
from bench.report.across import means_across
from bench.report.ranking import UNRANKED, incomplete, ranked, unranked
from bench.report.rows import NamedRow
from bench.report.tables import (
    Row,
    Table,
    TableOptions,
    area,
    duration,
    flaws,
    interval,
    make_tables,
    percent,
    voided,
)

Format = Literal["csv", "json", "parquet", "latex"]
# Columns whose values are lists, which CSV has no word for: there they are JSON.
_LISTS = ("votes", "draws", "measured", "trace")


def check_format(name: str) -> Format:
    """Raises :class:`BenchError` if there is no such format."""
    if name not in get_args(Format):
        raise BenchError(f"Unknown format {name!r}{nearest(name, get_args(Format))}: {', '.join(get_args(Format))}.")
    return cast(Format, name)


def result_frame(rows: Sequence[NamedRow]) -> pd.DataFrame:
    """One line per clip and cell of some rows; ``grid`` is the folder's name, and the rest as in
    :func:`bench.records.results.to_frame`."""
    frames = [to_frame(row.cells).assign(grid=row.grid) for row in rows]
    frame = pd.concat(frames, ignore_index=True)
    return frame[["grid", *(name for name in frame.columns if name != "grid")]]


def exported(rows: Sequence[NamedRow], kind: Format) -> bytes:
    """Rows in a format.

    Args:
        rows: of results.
        kind: ``csv``, ``json`` and ``parquet`` hold the frame of all outcomes, ``latex`` the tables.

    Raises:
        BenchError: Parquet has no library here.
    """
    if kind == "latex":
        return "\n".join(_latex(table) for table in _tables(rows)).encode()
    frame = result_frame(rows)
    if kind == "json":
        return (frame.to_json(orient="records", lines=False, indent=1, double_precision=15) + "\n").encode()
    if kind == "csv":
        return frame.assign(**{name: frame[name].map(json.dumps) for name in _LISTS}).to_csv(index=False).encode()
    return _parquet(frame)


# Columns that are no text. A column has its type whatever is in it: files of two grids then fit together, also where
# nothing failed in one of them.
_TYPES = {
    **dict.fromkeys(("label", "clean_prediction", "prediction", "forwards", "backwards"), "int64"),
    **dict.fromkeys(("correct", "attacked"), "bool"),
    **dict.fromkeys(("linf", "l2", "changed", "seconds", "chance"), "double"),
    **dict.fromkeys(("votes", "draws"), "list<int64>"),
    **dict.fromkeys(("measured", "trace"), "list<double>"),
}


def _parquet(frame: pd.DataFrame) -> bytes:
    """The frame of all outcomes as Parquet, with the types of docs/frame.md.

    Raises:
        BenchError: pyarrow is not here.
    """
    try:
        arrow: Any = importlib.import_module("pyarrow")
        written: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise BenchError("Parquet is written by pyarrow: pip install 'videorobustbench[parquet]'.") from error
    types = {"int64": arrow.int64(), "bool": arrow.bool_(), "double": arrow.float64(), "string": arrow.string()}
    types |= {f"list<{name}>": arrow.list_(types[name]) for name in ("int64", "double")}
    schema = arrow.schema([(name, types[_TYPES.get(name, "string")]) for name in frame.columns])
    buffer = io.BytesIO()
    written.write_table(arrow.Table.from_pandas(frame, schema=schema, preserve_index=False), buffer)
    return buffer.getvalue()


def _tables(rows: Sequence[NamedRow]) -> list[Table]:
    return [table for folder in dict.fromkeys(row.folder for row in rows) for table in _of_grid(rows, folder)]


def _of_grid(rows: Sequence[NamedRow], folder: Path) -> list[Table]:
    cells = [cell for row in rows if row.folder == folder for cell in row.cells]
    described = read_grid_file(folder)
    if described is None:
        return make_tables(cells)
    options = TableOptions.of(
        described,
        reported=None,
        skipped=described.skipped,
        seconds=lambda: read_seconds(folder),
        across=means_across(described.across, folder.parent),
        audits=read_audit(folder),
    )
    return make_tables(cells, options)


def _latex(table: Table) -> str:
    """A table as the leaderboard has it, rows that claim nothing last, in the package booktabs."""
    headings = [" ".join(table.heading(label)) for label in table.columns]
    further = [*(["Seconds"] if table.timed else []), *(["Audit"] if table.audited else [])]
    last = unranked(table)
    lines = [line for row in (*ranked(table), *last) for line in _lines(table, row)]
    frame = pd.DataFrame(lines, columns=["Defence", *headings, *table.together, *table.averages, *further])
    # Labels may hold what LaTeX takes for a command.
    text = frame.map(_escaped).rename(columns=_escaped).to_latex(index=False, escape=False)
    nothing = [f"{UNRANKED[:-1]}: {', '.join(row.defense for row in last)}"] if last else []
    notes = [
        f"{table.title}, {table.clips} clips; accuracy in percent, beside it the 95 % Wilson interval; needs "
        "\\usepackage{booktabs}",
        *nothing,
        *(f"{row.defense} is void: {voided(row)}" for row in last if row.void),
        *(f"{mark} {reason}" for reason, mark in table.reasons.items()),
    ]
    return "\n".join([*(f"% {' '.join(note.split())}" for note in notes), text])


def _lines(table: Table, row: Row) -> list[list[str]]:
    """A row, and below it what its defence detects."""
    cells = [_cell(row.scores.get(label), table.blank(row, label)) for label in table.columns]
    union = _cell(row.union, "void" if row.void else "-", _BOUND if incomplete(table, row) else "")
    averages = [percent(row.averages.get(label, math.nan)) for label in table.averages]
    time = [duration(row.seconds)] if table.timed else []
    grade = [row.grade or "-"] if table.audited else []
    lines = [[row.defense, *cells, union, percent(row.mean), *averages, *time, *grade]]
    if row.detected:
        areas = [area(row, label) for label in table.columns]
        lines.append([f"{row.defense}, ROC", *areas, *[""] * (len(lines[0]) - 1 - len(areas))])
    return lines


_BOUND = "$\\leq$ "


def _cell(score: Score | None, blank: str, bound: str = "") -> str:
    if score is None:
        return blank
    flawed = f" ({flaws(score)})" if score.flawed else ""
    return f"{bound}{percent(score.accuracy)} {interval(score)}{flawed}"


_SPECIAL = str.maketrans(
    {"&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\^{}"}
    | {raised: rf"\textsuperscript{{{digit}}}" for digit, raised in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")}
)


def _escaped(text: str) -> str:
    """Text for LaTeX; the one command that is ours stays."""
    head, rest = (_BOUND, text.removeprefix(_BOUND)) if text.startswith(_BOUND) else ("", text)
    parts = rest.replace("\\", "\0").translate(_SPECIAL).replace("$", r"\$").replace("\0", r"\textbackslash{}")
    return head + parts
