"""``bench leaderboard``: the measured and the reported tables, as one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.app import Results, err, out
from bench.errors import BenchError
from bench.files import write_whole


def leaderboard(
    results: Results = Path("results"),
    output: Annotated[Path, typer.Option(help="File to write.")] = Path("leaderboard.md"),
) -> None:
    """Rewrite leaderboard.md from the result files alone."""
    from bench.report.leaderboard import make_leaderboard
    from bench.report.submitted import sorted_out

    text = make_leaderboard(results)
    for name, why in sorted_out(results)[1].items():
        err.print(f"Left out: the submission {name}; {why.rstrip('.')}.", style="yellow", markup=False, soft_wrap=True)
    unchanged = output.is_file() and output.read_text(encoding="utf-8") == text
    if not unchanged:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            write_whole(output, text)
        except OSError as error:
            raise BenchError(f"Cannot write {output}: {error}; choose another --output.") from error
    out.print(f"{output} {'is up to date' if unchanged else 'written'}", highlight=False)
