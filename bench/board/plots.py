"""Figures of a row, as data for the plot library that the site brings along."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from bench.board.entries import Entry, Figure
from bench.records.results import CellResult
from bench.report.curves import LossCurve, confusion
from bench.report.rows import NamedRow

# Lines are told apart without colour, too.
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_SYMBOLS = ("circle", "square", "diamond", "cross", "x", "triangle-up", "star", "hexagon")

Plot = dict[str, Any]


def plots_of(entry: Entry, siblings: Sequence[Entry] = (), names: Sequence[str] = ()) -> list[Plot]:
    """What is drawn of a row.

    Args:
        siblings: the same row under other threats of its grid.
        names: of the classes, if they are known.
    """
    attacked = [c for c in entry.cells if c.knowledge not in ("clean", "noise")]
    found = [_sizes([entry, *siblings]), _losses(attacked), _overlap(attacked)]
    hardest = min(attacked, key=lambda c: c.score.accuracy, default=None)
    found.append(_confusion(entry, hardest, names) if hardest is not None else None)
    return [plot for plot in found if plot is not None]


def _intervals(figures: Sequence[Figure]) -> dict[str, Any]:
    """Error bars; of a figure that a paper prints, none."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [0.0 if f.high is None else f.high - f.value for f in figures],
        "arrayminus": [0.0 if f.low is None else f.value - f.low for f in figures],
        "thickness": 1,
    }


def cost_plot(entries: Iterable[Entry]) -> Plot | None:
    """Accuracy under the worst adaptive attack against the seconds of a clean clip."""
    shown = [e for e in entries if e.seconds and e.adaptive is not None and not e.void]
    if not shown:
        return None
    traces = []
    for i, kind in enumerate(dict.fromkeys(f"{e.kind}, {e.grid}" for e in shown)):
        of_kind = [e for e in shown if f"{e.kind}, {e.grid}" == kind]
        figures = [e.adaptive for e in of_kind if e.adaptive is not None]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers+text",
                "name": kind,
                "x": [e.seconds for e in of_kind],
                "y": [f.value for f in figures],
                "text": [e.defense for e in of_kind],
                "textposition": "top center",
                "error_y": _intervals(figures),
                "marker": {
                    "symbol": f"{_SYMBOLS[i % len(_SYMBOLS)]}{'-open' if kind.startswith('reported') else ''}",
                    "size": 9,
                },
            }
        )
    layout = {
        "xaxis": {"title": {"text": "seconds of one clean clip"}, "type": "log"},
        "yaxis": {"title": {"text": "Robust, %"}, "range": [-3, 103]},
    }
    words = "; ".join(f"{e.defense}: {e.adaptive.value:.0f} % at {e.seconds:.3g} s" for e in shown[:30] if e.adaptive)
    return {"id": "cost", "title": "Accuracy against cost", "traces": traces, "layout": layout, "words": words}


def _sizes(entries: Sequence[Entry]) -> Plot | None:
    """Accuracy against the size, or the steps, of the budgets under which the same row was attacked."""
    budgets = {
        e.key: next((c.settings.budget for c in e.cells if c.settings.budget is not None), None) for e in entries
    }
    known = [(e, b) for e in entries if (b := budgets[e.key]) is not None]
    if len(known) < 2 or len({b.norm for _, b in known}) > 1:
        return None
    name = next((n for n in ("size", "steps") if len({getattr(b, n) for _, b in known}) == len(known)), None)
    if name is None:
        return None
    known.sort(key=lambda pair: float(getattr(pair[1], name)))
    traces = []
    for i, (label, words) in enumerate((("standard", "Standard"), ("gray", "Robust*"), ("adaptive", "Robust"))):
        points = [(float(getattr(b, name)), f) for e, b in known if (f := e.figures[label]) is not None]
        if points:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "name": words,
                    "x": [x for x, _ in points],
                    "y": [f.value for _, f in points],
                    "line": {"dash": _DASHES[i]},
                    "marker": {"symbol": _SYMBOLS[i]},
                    "error_y": _intervals([f for _, f in points]),
                }
            )
    norm = known[0][1].norm
    layout = {
        "xaxis": {"title": {"text": f"{name} ({norm})" if name == "size" else name}},
        "yaxis": {"title": {"text": "accuracy, %"}, "range": [-3, 103]},
    }
    words = f"Standard, Robust* and Robust at {len(known)} {name} values"
    return {"id": "sizes", "title": f"Accuracy against {name}", "traces": traces, "layout": layout, "words": words}


def _losses(cells: Sequence[CellResult]) -> Plot | None:
    """The mean loss of every attack over its steps; a clip that has left the batch keeps its last one."""
    traces: list[dict[str, Any]] = []
    for i, cell in enumerate(cells):
        kept = tuple(tuple(o.trace) for o in cell.outcomes if any(loss is not None for loss in o.trace))
        if not kept:
            continue
        mean = LossCurve(cell.attack, kept).mean
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": cell.attack,
                "x": list(range(1, len(mean) + 1)),
                "y": mean,
                "line": {"dash": _DASHES[i % len(_DASHES)]},
                "marker": {"symbol": _SYMBOLS[i % len(_SYMBOLS)], "size": 5},
            }
        )
    if not traces:
        return None
    layout = {"xaxis": {"title": {"text": "step"}}, "yaxis": {"title": {"text": "mean loss over clips"}}}
    words = "Mean loss of each attack over its steps: " + ", ".join(
        f"{t['name']} from {t['y'][0]:.3g} to {t['y'][-1]:.3g}" for t in traces
    )
    return {"id": "losses", "title": "Losses of the attacks", "traces": traces, "layout": layout, "words": words}


def _overlap(cells: Sequence[CellResult]) -> Plot | None:
    """Of the clips that one attack breaks, how many another breaks, too."""
    broken = {c.attack: {o.clip for o in c.outcomes if o.chance < 0.5} for c in cells}
    if len(broken) < 2:
        return None
    labels = list(broken)
    counts = [[len(broken[a] & broken[b]) for b in labels] for a in labels]
    trace = {
        "type": "heatmap",
        "x": labels,
        "y": labels,
        "z": counts,
        "text": [[str(value) for value in row] for row in counts],
        "texttemplate": "%{text}",
        "colorscale": "Blues",
        "reversescale": False,
        "zmin": 0,
    }
    layout = {"yaxis": {"autorange": "reversed"}}
    words = "Clips that two attacks both break: " + "; ".join(
        f"{a} and {b}: {len(broken[a] & broken[b])}" for i, a in enumerate(labels) for b in labels[i + 1 :]
    )
    title = "What breaks what: clips that both attacks break"
    return {"id": "overlap", "title": title, "traces": [trace], "layout": layout, "words": words}


def _confusion(entry: Entry, cell: CellResult, names: Sequence[str]) -> Plot:
    """True classes against answers under one attack."""
    row = NamedRow(entry.grid, entry.model, entry.defense, (cell,))
    found = confusion(row, cell.attack, cell.budget, names)
    answers = [*found.classes, "no answer"][: found.counts.shape[1]]
    trace = {
        "type": "heatmap",
        "x": answers,
        "y": found.classes,
        "z": found.counts.tolist(),
        "text": [[str(value) if value else "" for value in counts] for counts in found.counts.tolist()],
        "texttemplate": "%{text}" if len(found.classes) <= 25 else "",
        "colorscale": "Blues",
    }
    layout = {
        "xaxis": {"title": {"text": "answer"}, "type": "category"},
        "yaxis": {"title": {"text": "true class"}, "type": "category", "autorange": "reversed"},
    }
    right, clips = int(found.counts.diagonal().sum()), int(found.counts.sum())
    words = f"Under {cell.attack}: {right} of {clips} answers are right"
    title = f"What is taken for what under {cell.attack}"
    return {"id": "confusion", "title": title, "traces": [trace], "layout": layout, "words": words}
