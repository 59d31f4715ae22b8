"""The progress bar of a run."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column


class RunProgress:
    """The bar of a run: work done, clips, cells, time left.

    Args:
        console: on which it is shown; standard error if not given.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._clips = self._cells = self._all_clips = self._all_cells = 0
        # What matters stands first and never wraps; the description takes the room that is left.
        self._bar = Progress(
            BarColumn(bar_width=10),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[counts]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn(
                "{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)
            ),
            console=console or Console(stderr=True, highlight=False),
            # Speeds differ between attacks and judging: average over a long window.
            speed_estimate_period=120,
            expand=True,
        )
        self._task: Any = None

    def __enter__(self) -> RunProgress:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def _counts(self) -> str:
        return f"clips {self._clips}/{self._all_clips}, cells {self._cells}/{self._all_cells}"

    def begin(self, work: float, clips: int, cells: int) -> None:
        self._all_clips, self._all_cells = clips, cells
        if work:
            self._task = self._bar.add_task("starting", total=work, counts=self._counts())

    def working_on(self, what: str) -> None:
        if self._task is not None:
            self._bar.update(self._task, description=what)

    def advance(self, work: float, clips: int, cells: int) -> None:
        self._clips += clips
        self._cells += cells
        self._bar.update(self._task, advance=work, counts=self._counts())
