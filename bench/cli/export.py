"""``bench export``: results for other programs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.app import Results, err
from bench.errors import BenchError


def export(
    name: Annotated[str, typer.Argument(help="GRID, GRID:DEFENCE[@MODEL], a results folder or a result file.")],
    kind: Annotated[
        str, typer.Option("--format", help="csv, json, parquet (every clip) or latex (the tables).")
    ] = "csv",
    output: Annotated[Path | None, typer.Option(help="File to write; standard output if not given.")] = None,
    results: Results = Path("results"),
) -> None:
    """Write outcomes or tables for other programs: docs/frame.md says what every column is."""
    from bench.report.export import check_format, exported
    from bench.report.rows import find_rows

    chosen = check_format(kind)
    if chosen == "parquet" and output is None:
        raise BenchError("Parquet is no text: name a file with --output.")
    content = exported(find_rows(name, results), chosen)
    if output is None:
        sys.stdout.write(content.decode())
        return
    try:
        output.write_bytes(content)
    except OSError as error:
        raise BenchError(f"Cannot write {output}: {error.strerror or error}.") from error
    err.print(f"wrote {output}", soft_wrap=True)
