"""Sweep curves of the adaptive attacks on motion consistency: accuracy and detector over the weight of the penalty.

Run: ``python benchmarks/sweep.py``, which draws ``docs/sweep.png`` from ``results/embedded_motion_flow``. It reads
result files and computes nothing anew. A weight of 0 is PGD, of which attacks I and II are variants; each loss has a
panel of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.records.results import CellResult, Score, read_results
from bench.report.tables import make_tables

ATTACKS = {"motion_i": "attack I", "motion_ii": "attack II"}
LOSSES = {"ce": "cross-entropy", "margin": "margin"}


@dataclass(frozen=True)
class Point:
    """What one weight did to one defence; ``area`` is that of the ROC curve, ``None`` where nothing is detected."""

    weight: float
    score: Score
    area: float | None


def weight_of(result: CellResult, attack: str, loss: str) -> float | None:
    """The one weight of the gray-box attack, 0 for PGD; ``None`` if the cell belongs to another sweep or to none."""
    identity = result.settings.attack
    if result.knowledge != "gray-box" or identity is None or identity.params.get("loss") != loss:
        return None
    if identity.name == "pgd":
        return 0.0
    lambdas = identity.params.get("lambdas", []) if identity.name == attack else []
    return float(lambdas[0]) if len(lambdas) == 1 else None


def areas_of(results: Sequence[CellResult]) -> dict[str, dict[str, float]]:
    """Areas under the detector's curve, by defence and attack."""
    tables = make_tables(results)
    if len(tables) != 1:
        raise SystemExit(f"A sweep is one table of results, not {len(tables)}: run its grid, or name its folder.")
    return {row.defense: row.detected for row in tables[0].rows}


def sweep(
    results: Sequence[CellResult], areas: Mapping[str, Mapping[str, float]], attack: str, loss: str
) -> dict[str, list[Point]]:
    """Per defence the points of one attack with one loss, by weight."""
    curves: dict[str, list[Point]] = {}
    for result in results:
        weight = weight_of(result, attack, loss)
        if weight is not None:
            point = Point(weight, result.score, areas[result.defense].get(result.attack))
            curves.setdefault(result.defense, []).append(point)
    return {defense: sorted(points, key=lambda p: p.weight) for defense, points in curves.items()}


def draw(axis: Axes, curves: dict[str, list[Point]], title: str) -> None:
    """Accuracy with its interval, and the detector's area on the same scale of 0 to 100."""
    for i, (defense, points) in enumerate(curves.items()):
        weights = [p.weight for p in points]
        axis.plot(weights, [p.score.accuracy for p in points], "o-", color=f"C{i}", label=defense)
        low, high = zip(*(p.score.interval for p in points), strict=True)
        axis.fill_between(weights, low, high, color=f"C{i}", alpha=0.12, linewidth=0)
        detected = [(p.weight, 100 * p.area) for p in points if p.area is not None]
        if detected:
            axis.plot(*zip(*detected, strict=True), "x--", color=f"C{i}", label=f"{defense}, ROC area x 100")
    positive = [p.weight for points in curves.values() for p in points if p.weight]
    axis.set_xscale("symlog", linthresh=min(positive, default=1.0))
    axis.set(title=title, xlabel="weight (0: PGD)", ylim=(-3, 103))
    axis.grid(alpha=0.3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results/embedded_motion_flow"), help="a grid's folder")
    parser.add_argument("--out", type=Path, default=Path("docs/sweep.png"))
    arguments = parser.parse_args()
    results = read_results(arguments.results)
    areas = areas_of(results)
    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(LOSSES), len(ATTACKS), sharey=True)
    for row, loss in zip(axes, LOSSES, strict=True):
        for axis, attack in zip(row, ATTACKS, strict=True):
            draw(axis, sweep(results, areas, attack, loss), f"{ATTACKS[attack]}, {LOSSES[loss]}")
        row[0].set_ylabel("per cent right")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    figure.savefig(arguments.out, dpi=110, metadata={"Software": None})
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
