"""Figures of stored results: accuracy against an argument, losses of attacks, true classes against answers, and what
defences measure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Literal, cast, get_args

import numpy as np

from bench.errors import BenchError, nearest
from bench.report.curves import (
    Confusion,
    Line,
    Losses,
    LossPanel,
    Measures,
    Sweep,
    confusion,
    losses,
    measures,
    sweep,
)
from bench.report.rows import find_row, find_rows

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Kind = Literal["accuracy", "loss", "confusion", "measure"]
Data = Sweep | Losses | Confusion | Measures
FORMATS = ("svg", "png", "pdf")
# Nine markers beside ten colours: twenty lines differ in both.
_MARKERS = "os^Dv*PX<"
_MOST_WRITTEN = 40  # classes up to which a matrix has room for its counts


def check_kind(name: str) -> Kind:
    """Raises :class:`BenchError` if there is no such figure."""
    if name not in get_args(Kind):
        raise BenchError(f"Unknown figure {name!r}{nearest(name, get_args(Kind))}: {', '.join(get_args(Kind))}.")
    return cast(Kind, name)


def figure_data(
    *what: str,
    kind: str = "accuracy",
    against: str = "",
    attacks: Sequence[str] = (),
    budget: str = "",
    results: Path = Path("results"),
    names: Callable[[str], Sequence[str]] = lambda _: (),
) -> Data:
    """What a figure of stored results shows.

    Args:
        what: ``GRID``, ``GRID:DEFENCE[@MODEL]``, results folders or result files.
        kind: ``accuracy`` against an argument, ``loss`` of attacks, ``confusion`` of the classes of one row, or
            ``measure``, what the defence of one row measures of clips.
        against: of accuracy, see :func:`bench.report.curves.sweep`.
        attacks: labels; all if not given, of ``confusion`` the clean clips.
        budget: the first words of the budgets that are drawn, such as ``linf 4/255``; all if not given.
        results: folder of the grids' folders.
        names: of a registered data set's classes, which result files do not hold; numbers if not given.

    Raises:
        BenchError: nothing is called so, nothing differs in the argument, no losses are kept, or there is too much for
            one figure.
    """
    chosen = check_kind(kind)
    if against and chosen != "accuracy":
        raise BenchError(f"Only accuracy is drawn against something: leave out --against {against}, or the kind.")
    if not what:
        raise BenchError("Name what is drawn: GRID, GRID:DEFENCE, a results folder or a result file.")
    if chosen == "confusion":
        if len(what) > 1 or len(attacks) > 1:
            raise BenchError("A figure shows the answers of one row under one attack: name one of each.")
        row = find_row(what[0], results)
        alone = row.cells[0].attack if len(row.cells) == 1 else "clean"  # a result file is one cell
        return confusion(
            row, attacks[0] if attacks else alone, budget=budget, names=names(row.cells[0].settings.dataset.name)
        )
    if chosen == "measure":
        if len(what) > 1:
            raise BenchError("A figure shows what the defence of one row measures: name one.")
        return measures(find_row(what[0], results), attacks, budget)
    named = [row for name in what for row in find_rows(name, results)]
    # Whoever names a row twice means it once.
    keys = [(row.folder, row.model, row.defense, *(cell.file_name for cell in row.cells)) for row in named]
    rows = list(dict(zip(keys, named, strict=True)).values())
    return losses(rows, attacks, budget) if chosen == "loss" else sweep(rows, against, attacks, budget)


def draw(data: Data) -> Figure:
    """The figure of some data."""
    if isinstance(data, Sweep):
        return draw_sweep(data)
    if isinstance(data, Measures):
        return draw_measures(data)
    return draw_losses(data) if isinstance(data, Losses) else draw_confusion(data)


def save(figure: Figure, file: Path) -> None:
    """Writes a figure as its suffix says, the same bytes from the same figure.

    Raises:
        BenchError: it has another suffix than ``.svg``, ``.png`` or ``.pdf``, or cannot be written.
    """
    from matplotlib import rc_context

    kind = file.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise BenchError(f"Cannot write {file}: name a file that ends in .svg, .png or .pdf.")
    dated = {"svg": "Date", "png": "Software", "pdf": "CreationDate"}[kind]
    try:
        with rc_context({"svg.hashsalt": "bench"}):
            figure.savefig(file, format=kind, dpi=150, metadata={dated: None})
    except OSError as error:
        raise BenchError(f"Cannot write {file}: {error.strerror or error}.") from error


def _empty(width: float, height: float, title: str) -> Figure:
    # Not pyplot: it keeps figures alive and picks a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    lines = [part for line in title.splitlines() for part in wrap(line, int(12 * width))]
    figure.suptitle(_text("\n".join(lines)), fontsize="medium")
    return figure


def _text(label: str) -> str:
    """A label as it is: no formula between dollars, and not hidden from the legend by its first letter."""
    label = label.replace("$", r"\$")
    return f" {label}" if label.startswith("_") else label


def draw_sweep(data: Sweep) -> Figure:
    """Lines with bands of 95 % Wilson intervals, and clean accuracies dashed; stale points are hollow. Where the
    argument is a word, points with bars."""
    figure = _empty(7.6, 4.6 + 0.12 * len(data.lines), data.title)
    axis = figure.add_subplot(xlabel=_text(data.axis), ylabel="accuracy (%)", ylim=(-3, 103))
    words = list(dict.fromkeys(p.x for line in data.lines for p in line.points if isinstance(p.x, str)))
    numbers = sorted({p.x for line in data.lines for p in line.points if isinstance(p.x, float)})
    places: dict[float | str, float] = {number: number for number in numbers}
    if words:  # which have places of their own; so have numbers beside them
        every: list[float | str] = [*numbers, *words]
        places = {value: float(i) for i, value in enumerate(every)}
    handles = []
    for i, line in enumerate(data.lines):
        # Points over a word stand side by side.
        aside = 0.5 * (i - (len(data.lines) - 1) / 2) / len(data.lines) if words else 0.0
        x = [places[p.x] + aside for p in line.points]
        handles.append(_draw_line(axis, line, i, x, bool(words)))
    handles += _clean(axis, data.lines, places)
    if words:
        axis.set_xticks(range(len(places)), [_text(v if isinstance(v, str) else f"{v:g}") for v in places])
    elif numbers[0] > 0 and numbers[-1] >= 50 * numbers[0]:
        axis.set_xscale("log")
    axis.grid(alpha=0.3)
    _legend(figure, handles, "bars: 95 % Wilson intervals" if words else "bands: 95 % Wilson intervals")
    return figure


def _legend(figure: Figure, handles: Sequence[Artist], title: str) -> None:
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize="small", title=title)


def _draw_line(axis: Axes, line: Line, i: int, x: Sequence[float], words: bool) -> Line2D:
    y, low, high = ([getattr(p, name) for p in line.points] for name in ("accuracy", "low", "high"))
    colour, marker = f"C{i % 10}", _MARKERS[i % len(_MARKERS)]
    if words:
        errors = [[a - b for a, b in zip(y, low, strict=True)], [b - a for a, b in zip(y, high, strict=True)]]
        axis.errorbar(x, y, errors, fmt="none", ecolor=colour, alpha=0.5, capsize=3)
    else:
        axis.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
    stale = [p.stale for p in line.points]
    label = line.label + (" (stale)" if all(stale) else " (hollow: stale)" if any(stale) else "")
    (drawn,) = axis.plot(
        x,
        y,
        linestyle="none" if words else "-",
        color=colour,
        marker=marker,
        markerfacecolor="white" if all(stale) else colour,
        label=_text(label),
    )
    if any(stale) and not all(stale):
        hollow = [i for i, is_stale in enumerate(stale) if is_stale]
        axis.plot([x[i] for i in hollow], [y[i] for i in hollow], marker, color=colour, markerfacecolor="white")
    return drawn


def _clean(axis: Axes, lines: Sequence[Line], places: dict[float | str, float]) -> list[Line2D]:
    """Clean accuracies, in the colours of their lines; what several lines share is drawn once, and grey."""
    from matplotlib.lines import Line2D

    shared: dict[object, tuple[dict[float, float], list[int]]] = {}
    for i, line in enumerate(lines):
        known = {places[p.x]: p.clean for p in line.points if p.clean is not None}
        if known:
            # A number that stays the same is one level, however far each line goes.
            key = next(iter(known.values())) if len(set(known.values())) == 1 else tuple(known.items())
            points, of = shared.setdefault(key, ({}, []))
            points.update(known)
            of.append(i)
    for points, of in shared.values():
        x = sorted(points)
        colour = f"C{of[0] % 10}" if len(of) == 1 else "grey"
        # One number is no line.
        axis.plot(x, [points[v] for v in x], "--", color=colour, linewidth=1, marker="_" if len(x) == 1 else "")
    return [Line2D([], [], color="grey", linestyle="--", linewidth=1, label="the same, clean clips")] if shared else []


def draw_losses(data: Losses) -> Figure:
    """A panel per attack: each clip faintly, and the mean over clips, in which a clip that has left the batch counts
    with its last loss."""
    columns = min(3, len(data.panels))
    lines = -(-len(data.panels) // columns)
    labels = list(dict.fromkeys(curve.label for panel in data.panels for curve in panel.curves))
    figure = _empty(max(5.6, 3.6 * columns), 1.4 + 3.0 * lines + 0.12 * len(labels), data.title)
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    handles: dict[str, Line2D] = {}
    for axis, panel in zip(axes, data.panels, strict=False):
        _draw_panel(axis, panel, labels, handles)
    for axis in axes[len(data.panels) :]:
        axis.remove()
    _legend(figure, list(handles.values()), "bold: mean over clips, those that are done with their last loss")
    return figure


def _draw_panel(axis: Axes, panel: LossPanel, labels: Sequence[str], handles: dict[str, Line2D]) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_title(_text(panel.title), fontsize="small")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("step")
    axis.set_ylabel(_text(f"loss ({panel.loss})" if panel.loss else "loss"))
    for curve in panel.curves:
        i = labels.index(curve.label)
        colour, mean = f"C{i % 10}", curve.mean
        for trace in curve.traces:
            values = [float("nan") if v is None else v for v in trace]
            axis.plot(range(1, len(values) + 1), values, color=colour, alpha=0.15, linewidth=0.7)
        (drawn,) = axis.plot(
            range(1, len(mean) + 1),
            mean,
            color=colour,
            marker=_MARKERS[i % len(_MARKERS)],
            markevery=max(1, len(mean) // 8),
            markersize=4,
            markerfacecolor="white" if curve.stale else colour,
            label=_text(curve.label + (" (stale)" if curve.stale else "")),
        )
        handles.setdefault(str(drawn.get_label()), drawn)
    axis.grid(alpha=0.3)


def draw_confusion(data: Confusion) -> Figure:
    """True classes down, answers across, with the count in every cell where there is room; shades are shares of a
    class's clips."""
    rows, columns = data.counts.shape
    side = max(3.2, 0.42 * rows)
    figure = _empty(side + 2.0 + 0.42 * (columns - rows), side + 1.6, data.title)
    axis = figure.add_subplot(xlabel="answer", ylabel="true class")
    totals = data.counts.sum(axis=1, keepdims=True)
    shares = data.counts / totals.clip(min=1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    names = [*map(_text, data.classes), *["no answer"] * (columns - rows)]
    axis.set_xticks(range(columns), names, rotation=90, fontsize="small")
    axis.set_yticks(range(rows), names[:rows], fontsize="small")
    if rows <= _MOST_WRITTEN:
        for (i, j), count in ((place, int(data.counts[place])) for place in zip(*data.counts.nonzero(), strict=True)):
            axis.text(j, i, str(count), ha="center", va="center", color="white" if shares[i, j] > 0.5 else "black")
    return figure


def draw_measures(data: Measures) -> Figure:
    """Histograms over the same bins, with the mean of each dashed."""
    figure = _empty(7.6, 4.2 + 0.12 * len(data.groups), data.title)
    axis = figure.add_subplot(xlabel=_text(data.axis), ylabel="clips")
    handles: list[Artist] = []
    for i, group in enumerate(data.groups):
        counts, edges = np.histogram(group.values, data.edges)
        label = _text(f"{group.label} (mean {group.mean:.3g})")
        handles.append(axis.stairs(counts, edges, fill=True, color=f"C{i}", alpha=0.35, label=label))
        axis.stairs(counts, edges, color=f"C{i}")
        axis.axvline(group.mean, color=f"C{i}", linestyle="--", linewidth=1)
    axis.grid(alpha=0.3)
    _legend(figure, handles, "dashed: means")
    return figure
