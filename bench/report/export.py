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
from bench.records.results import read_grid_file, read_seconds, to_frame
from bench.report.ranking import incomplete, ranked, unranked
from bench.report.rows import NamedRow
from bench.report.tables import Row, Table, TableOptions, interval, make_tables, percent

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
        audits=read_audit(folder),
    )
    return make_tables(cells, options)


def _latex(table: Table) -> str:
    """A table as it is printed, rows that claim nothing last, in the package booktabs."""
    headings = [" ".join(table.heading(label)) for label in table.columns]
    lines = {row.defense: _line(table, row) for row in (*ranked(table), *unranked(table))}
    frame = pd.DataFrame.from_dict(lines, orient="index", columns=[*headings, *table.together])
    frame.index.name = "Defence"
    # Labels may hold what LaTeX takes for a command.
    text = frame.reset_index().map(_escaped).rename(columns=_escaped).to_latex(index=False, escape=False)
    caption = (
        f"% {table.title}, {table.clips} clips; accuracy in percent, beside it the 95 % Wilson interval; needs "
        "\\usepackage{booktabs}"
    )
    return f"{caption}\n{text}"


def _line(table: Table, row: Row) -> list[str]:
    scores = [row.scores.get(label) for label in table.columns]
    cells = [
        table.blank(row, label) if score is None else f"{percent(score.accuracy)} {interval(score)}"
        for label, score in zip(table.columns, scores, strict=True)
    ]
    bound = "$\\leq$ " if incomplete(table, row) else ""
    union = "void" if row.void else f"{bound}{percent(row.union.accuracy)} {interval(row.union)}" if row.union else "-"
    return [*cells, union, "-" if math.isnan(row.mean) else percent(row.mean)]


_SPECIAL = str.maketrans(
    {"&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\^{}"}
)


def _escaped(text: str) -> str:
    """Text for LaTeX; the one command that is ours stays."""
    bound = "$\\leq$ "
    head, rest = (bound, text.removeprefix(bound)) if text.startswith(bound) else ("", text)
    parts = rest.replace("\\", "\0").translate(_SPECIAL).replace("$", r"\$").replace("\0", r"\textbackslash{}")
    return head + parts
