"""Tables as rich renderables; printing them is the caller's business."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from bench.records.results import Score
from bench.report.ranking import UNRANKED, incomplete, ranked, unranked
from bench.report.tables import Row, Table, area, duration, flaws, percent, printed, remarks, voided

LEGEND = (
    "Accuracy in percent over all clips, below it the 95 % Wilson interval. Standard: clean clips through the defence. "
    "Noise: random noise of the same size. Universal: one change for all clips, learned on others. Black-box: clips "
    "made on another classifier. Robust*: gray-box, the attacker knows the classifier but not the defence. Robust: "
    "adaptive, the attacker knows the defence too. Union: clips that survive every column of the row, noise too (<=: "
    "an adaptive attack is missing, so at most this; below the complete rows). Mean: over the attacks, not noise. "
    "n/a: there is no such gradient. refused: the attack cannot take this defence. -: not run. void: attacked with a "
    "budget of zero, the defence's answers changed. Of a randomised defence, figures are averages over several passes. "
    "ROC: the area under the curve of a defence that is a detector too. Seconds: one clean clip through the defence "
    "and its classifier. Audit: the grade of bench audit."
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


def render(table: Table) -> RenderableType:
    """A table for the terminal; its :func:`heading` is printed above it. Many attacks stand below one another.

    Rows that claim nothing (:func:`bench.report.ranking.unranked`) follow in a table of their own, then why some
    combinations do not exist.
    """
    draw = _tall if len(table.columns) > _WIDE else _broad
    first, last = ranked(table), unranked(table)
    parts: list[RenderableType] = [draw(table, first)] if first else []
    if last:
        parts += [Text(UNRANKED, style="bold"), draw(table, last)]
    parts += [Text(f"{row.defense} is void: {voided(row)}.") for row in last if row.void]
    parts += [Text(f"{mark} {reason}", style="dim") for reason, mark in table.reasons.items()]
    parts += [Text(f"{words}.", style="dim") for words in remarks(table)]
    return Group(*parts)


def _union(table: Table, row: Row) -> Text:
    return _cell(row.union, "void" if row.void else "-", "<= " if incomplete(table, row) else "")


def _grade(row: Row) -> Text:
    """The letter, and below it how far it goes; why no further is said where rows are audited."""
    letter, _, rest = (row.grade or "-").partition(" ")
    words = f"{rest.partition(';')[0].rstrip(')')})" if rest else ""
    return Text("\n".join(filter(None, (letter, words))))


def _tall(table: Table, rows: Sequence[Row]) -> RichTable:
    """One line per attack, one column per defence."""
    out = RichTable(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    out.add_column("Attack", overflow="fold")
    for row in rows:
        out.add_column(row.defense, justify="right", overflow="fold")
    for label in table.columns:
        cells = [_cell(row.scores.get(label), table.blank(row, label)) for row in rows]
        for cell, row in zip(cells, rows, strict=True):
            if label in row.detected:
                cell.append(f"\nROC {area(row, label)}", style="dim")
        complete = (_with_reported(cell, row, label) for cell, row in zip(cells, rows, strict=True))
        out.add_row("\n".join(reversed(table.heading(label))), *complete)
    if any(row.union is not None for row in table.rows):
        union, average = table.together
        out.add_row(union, *(_with_reported(_union(table, row), row, "Union") for row in rows))
        out.add_row(average, *(_with_reported(Text(percent(row.mean)), row, "Mean") for row in rows))
    for label in table.averages:
        means = [Text(percent(row.averages.get(label, math.nan))) for row in rows]
        out.add_row(label, *(_with_reported(mean, row, label) for mean, row in zip(means, rows, strict=True)))
    if table.timed:
        out.add_row("Seconds", *(_with_reported(Text(duration(row.seconds)), row, "Seconds") for row in rows))
    if table.audited:
        out.add_row("Audit", *map(_grade, rows))
    return out


def _with_reported(cell: Text, row: Row, label: str) -> Text:
    """A cell with the reported figure below it, if there is one."""
    if label in row.reported:
        cell.append(f"\nreported {printed(row, label)}", style="dim italic")
    return cell


def _broad(table: Table, rows: Sequence[Row]) -> RichTable:
    """One line per defence, one column per attack."""
    # Narrow columns: seven of them fit a terminal of 80, and long names fold instead of being cut.
    out = RichTable(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    out.add_column("Defence", overflow="fold")
    for label in table.columns:
        kind, *which = table.heading(label)
        out.add_column("\n".join([kind, *(w.replace("+", "\n+") for w in which)]), justify="right")
    attacked = any(row.union is not None for row in table.rows)
    if attacked:
        for title in table.together:
            out.add_column(title, justify="right")
    for title in table.averages:
        out.add_column(title, justify="right")
    if table.timed:
        out.add_column("Seconds", justify="right")
    if table.audited:
        out.add_column("Audit", justify="right")
    for row in rows:
        cells = [_cell(row.scores.get(label), table.blank(row, label)) for label in table.columns]
        if attacked:
            cells += [_union(table, row), Text(percent(row.mean))]
        cells += [Text(percent(row.averages.get(label, math.nan))) for label in table.averages]
        if table.timed:
            cells.append(Text(duration(row.seconds)))
        if table.audited:
            cells.append(_grade(row))
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
