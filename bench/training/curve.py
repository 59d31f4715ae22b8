"""The learning curve of a training: a table that survives resuming, and a picture of it."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bench.files import replacing

_FIRST, _LAST = ("step", "loss"), ("lr", "seconds")


class Curve:
    """``curve.csv``: one row per step with the columns step, loss, the objective's figures, lr and seconds.

    Args:
        file: the table; rows up to ``step`` that are already there are kept, later ones dropped, so that a
            resumed training writes no step twice.
        step: steps already done.
    """

    def __init__(self, file: Path, step: int = 0) -> None:
        self.file = file
        self.rows: list[dict[str, float]] = []
        if step and file.is_file():
            with file.open(newline="", encoding="utf-8") as lines:
                for row in csv.DictReader(lines):
                    if int(row["step"]) <= step:
                        self.rows.append({k: float(v) for k, v in row.items()})

    def add(self, step: int, loss: float, figures: Mapping[str, float], lr: float, seconds: float) -> None:
        """Notes one step; :meth:`save` writes it."""
        self.rows.append({"step": step, "loss": loss, **figures, "lr": lr, "seconds": seconds})

    def save(self) -> None:
        """Writes the whole table, replacing the old one only when the new one is complete."""
        if not self.rows:
            return
        with replacing(self.file) as partial, partial.open("w", newline="", encoding="utf-8") as lines:
            writer = csv.DictWriter(lines, self._columns(), lineterminator="\n", restval="nan")
            writer.writeheader()
            for row in self.rows:
                writer.writerow({k: f"{v:.6g}" if k != "step" else int(v) for k, v in row.items()})

    def _columns(self) -> list[str]:
        """Of all rows, those that not every step has last but the rate and the time."""
        every = dict.fromkeys(name for row in self.rows for name in row)
        return [*(k for k in every if k not in _LAST), *_LAST]

    def draw(self, picture: Path, title: str) -> None:
        """Draws loss and figures over the steps: every step faintly, and their running means."""
        # Not pyplot: it keeps figures alive and picks a display.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        names = [k for k in self._columns() if k not in _FIRST + _LAST]
        steps = np.array([r["step"] for r in self.rows])
        left = figure.add_subplot(title=title, xlabel="step", ylabel="loss")
        right = left.twinx() if names else left
        colours = iter(f"C{i}" for i in range(10))
        for axis, name in [(left, "loss"), *((right, n) for n in names)]:
            colour = next(colours)
            values = np.array([r.get(name, np.nan) for r in self.rows])
            there = ~np.isnan(values)
            if not there.all():  # looked at now and then
                axis.plot(steps[there], values[there], "o--", color=colour, markersize=3, label=name)
                continue
            axis.plot(steps, values, color=colour, alpha=0.2, linewidth=0.8)
            axis.plot(steps, _running_mean(values), color=colour, label=name)
        right.set_ylabel(", ".join(names) or "loss")
        lines = [*left.get_lines(), *(right.get_lines() if names else ())]
        left.legend(handles=[line for line in lines if not str(line.get_label()).startswith("_")], loc="center right")
        left.grid(alpha=0.3)
        picture.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(picture, dpi=110, metadata={"Software": None})


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Mean of each value and those before it, over a window of a twentieth of all."""
    window = max(1, len(values) // 20)
    sums = np.cumsum(np.insert(values, 0, 0.0))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    return (sums[ends] - sums[starts]) / (ends - starts)
