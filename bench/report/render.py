"""Tables as rich renderables; printing them is the caller's business."""

from __future__ import annotations

import math

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from bench.records.results import Score
from bench.report.tables import Row, Table, area, duration, flaws, percent, printed

LEGEND = (
    "Accuracy in percent over all clips, below it the 95 % Wilson interval. Standard: clean clips through the defence. "
    "Noise: random noise of the same size. Black-box: clips made on another classifier. Robust*: gray-box, the "
    "attacker knows the classifier but not the defence. Robust: adaptive, the attacker knows the defence too. "
    "Union: clips that survive every attack of the row (<=: some were not run, so at most this). n/a: that gradient "
    "does not exist. -: not run. void: attacked with a budget of zero, the defence's answers changed. Of a randomised "
    "defence, figures are averages over several passes. ROC: the area under the curve of a defence that is a "
    "detector too. Seconds: one clean clip through the defence and its classifier."
)


def _cell(score: Score | None, blank: str = "-", bound: str = "") -> Text:
    if score is None:
        return Text(blank, style="dim")
    low, high = score.interval
    text = Text(f"{bound}{percent(score.accuracy)}")
    text.append(f"\n{low:.0f}-{high:.0f}", style="dim")
    if score.flawed:
        text.append(f"\n{flaws(score)}", style="bold red")
    return text


def heading(table: Table) -> Text:
    """What a table is about: data set, classifier, budget, clips."""
    return Text(f"{table.title} · {table.clips} clips", style="italic")


# Attacks that fit side by side into 120 columns.
_WIDE = 10


def render(table: Table) -> RichTable:
    """A table for the terminal; its :func:`heading` is printed above it. Many attacks stand below one another."""
    return _tall(table) if len(table.columns) > _WIDE else _broad(table)


def _tall(table: Table) -> RichTable:
    """One line per attack, one column per defence."""
    out = RichTable(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    out.add_column("Attack", overflow="fold")
    for row in table.rows:
        out.add_column(row.defense, justify="right", overflow="fold")
    for label, heading in table.columns.items():
        cells = [_cell(row.scores.get(label), row.blank(label)) for row in table.rows]
        for cell, row in zip(cells, table.rows, strict=True):
            if label in row.detected:
                cell.append(f"\nROC {area(row, label)}", style="dim")
        complete = (_with_reported(cell, row, label) for cell, row in zip(cells, table.rows, strict=True))
        out.add_row(heading if label in ("clean", "noise", heading) else f"{label}\n{heading}", *complete)
    if any(row.union is not None for row in table.rows):
        bounds = ["<= " if row.not_run else "" for row in table.rows]
        unions = [_cell(row.union, row.blank(""), bound) for row, bound in zip(table.rows, bounds, strict=True)]
        union, average = table.together
        out.add_row(union, *(_with_reported(c, row, "Union") for c, row in zip(unions, table.rows, strict=True)))
        out.add_row(average, *(_with_reported(Text(percent(row.mean)), row, "Mean") for row in table.rows))
    for label in table.averages:
        means = (percent(row.averages.get(label, math.nan)) for row in table.rows)
        out.add_row(label, *(_with_reported(Text(m), row, label) for m, row in zip(means, table.rows, strict=True)))
    if table.timed:
        out.add_row("Seconds", *(_with_reported(Text(duration(row.seconds)), row, "Seconds") for row in table.rows))
    return out


def _with_reported(cell: Text, row: Row, label: str) -> Text:
    """A cell with the reported figure below it, if there is one."""
    if label in row.reported:
        cell.append(f"\nreported {printed(row, label)}", style="dim italic")
    return cell


def _broad(table: Table) -> RichTable:
    """One line per defence, one column per attack."""
    # Narrow columns: seven of them fit a terminal of 80, and long names fold instead of being cut.
    out = RichTable(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    out.add_column("Defence", overflow="fold")
    for label, heading in table.columns.items():
        title = heading if label in ("clean", "noise", heading) else f"{heading}\n{label.replace('+', chr(10) + '+')}"
        out.add_column(title, justify="right")
    attacked = any(row.union is not None for row in table.rows)
    if attacked:
        for title in table.together:
            out.add_column(title, justify="right")
    for title in table.averages:
        out.add_column(title, justify="right")
    if table.timed:
        out.add_column("Seconds", justify="right")
    for row in table.rows:
        cells = [_cell(row.scores.get(label), row.blank(label)) for label in table.columns]
        if attacked:
            cells += [_cell(row.union, bound="<= " if row.not_run else ""), Text(percent(row.mean))]
        cells += [Text(percent(row.averages.get(label, math.nan))) for label in table.averages]
        if table.timed:
            cells.append(Text(duration(row.seconds)))
        out.add_row(row.defense, *cells)
        if row.detected:
            out.add_row(Text("  ROC", style="dim"), *(Text(area(row, label), style="dim") for label in table.columns))
        if row.reported:
            figures = [Text(printed(row, label), style="dim italic") for label in table.columns]
            together = [printed(row, label) for label in ("Union", "Mean")] if attacked else []
            together += [printed(row, label) for label in table.averages]
            time = [printed(row, "Seconds")] if table.timed else []
            out.add_row(Text("  reported", style="dim italic"), *figures, *together, *time)
    return out
