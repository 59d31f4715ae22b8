"""A rehearsal: a published grid, end to end, on random weights and rendered videos in the published formats.

It says nothing of robustness. It says that files of these layouts are read, that everything fits into memory, and how
long each part takes on this machine.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.api import run_plan
from bench.data.base import Missing
from bench.defense.trained import TrainedDefense
from bench.diffusion.backbones import PUBLISHED as PIPELINES
from bench.errors import BenchError
from bench.grids.grid import Grid
from bench.plan.components import missing_files
from bench.plan.expand import make_plan
from bench.ready.layouts import pipeline_folder, write_classifier, write_flow, write_pipeline, write_trained
from bench.ready.videos import write_data
from bench.records.results import CellResult
from bench.registry import DATASETS, DEFENSES, Spec
from bench.weights.places import FOLDER, MissingFiles

# Seconds between two looks at the memory of this process.
_LOOK = 0.05


@dataclass
class Part:
    """One thing that a run did.

    Attributes:
        what: in words.
        seconds: wall time.
        peak: most bytes in use: on a GPU those that PyTorch allocated, else the resident size of this process; 0 where
            the system does not tell.
    """

    what: str
    seconds: float = 0.0
    peak: int = 0


@dataclass(frozen=True)
class Rehearsed:
    """What a rehearsal found.

    Attributes:
        grid: as it was run.
        parts: in the order in which they were done.
        results: of every cell, with the passes of every clip.
        written: seconds that making weights and videos took.
    """

    grid: Grid
    parts: list[Part]
    results: list[CellResult]
    written: float


def rehearse(
    grid: Grid,
    folder: Path,
    *,
    clips: int = 1,
    width: float = 1.0,
    frames: int | None = None,
    size: int | None = None,
    device: torch.device,
) -> Rehearsed:
    """Makes what a grid needs in a folder, and runs it.

    Clips are not selected, since random networks get none right by themselves; they answer class 0, the class of all
    clips, so that attacks have all their work to do. The control of adaptive cells is left out.

    Args:
        folder: where weights, videos and results go; what is there is used again.
        clips: how many.
        width: of diffusion models, as a share of the published number of channels. Other networks have one size.
        frames, size: of clips, in place of the grid's.

    Raises:
        BenchError: the grid needs something that has no layout here, or the run fails.
    """
    if not 0 < width <= 1:
        raise BenchError(f"--width is a share of the published width, above 0 and at most 1, not {width!r}.")
    begun = time.perf_counter()
    with _weights_in(folder / "checkpoints"):
        shorter = _shortened(grid, clips, frames, size)
        _write(shorter, folder, clips, width)
        missing = missing_files(shorter, folder)
        if missing:
            raise MissingFiles(missing, f"A rehearsal of {grid.name!r} cannot make all; it")
        written = time.perf_counter() - begun
        plan = make_plan(shorter, data_root=folder)
        stopwatch = Stopwatch(device)
        with stopwatch:
            store = folder / "results" / ".store"
            run = run_plan(plan, store, results_folder=folder / "results", device=device, control=0, progress=stopwatch)
    return Rehearsed(shorter, stopwatch.parts, run.results, written)


def _shortened(grid: Grid, clips: int, frames: int | None, size: int | None) -> Grid:
    spec = grid.dataset.spec
    takes = {p.name: p for p in DATASETS.get(spec.name).parameters}
    changes: dict[str, object] = {"clips": clips, "select": None}
    for name, value in (("frames", frames), ("size", size)):
        if value is not None and name in takes:
            changes[name] = value
    data = {**grid.dataset.model_dump(by_alias=True), **spec.params, **changes}
    section = type(grid.dataset).model_validate({k: v for k, v in data.items() if v is not None or k in spec.params})
    changed = grid.model_copy(update={"name": f"rehearsal-{grid.name}", "dataset": section, "reported": None})
    changed.check()
    return changed


@contextmanager
def _weights_in(folder: Path) -> Iterator[None]:
    """Inside, weights are looked for in a folder, by this process and those that it starts."""
    before = os.environ.get(FOLDER)
    os.environ[FOLDER] = str(folder)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(FOLDER, None)
        else:
            os.environ[FOLDER] = before


def _write(grid: Grid, folder: Path, clips: int, width: float) -> None:
    """Makes what is missing, and nothing twice."""
    dataset = DATASETS.create(Spec(grid.dataset.name, {**grid.dataset.spec.params, "root": folder}))
    if dataset.missing():
        write_data(grid.dataset.name, folder, clips, max(getattr(dataset, "frames", 1), 2) + 2)
        dataset = DATASETS.create(Spec(grid.dataset.name, {**grid.dataset.spec.params, "root": folder}))
    classes = len(dataset.classes)
    sources = [section.source for section in grid.attack_sections if section.source is not None]
    for spec in (*grid.model_specs, *sources):
        write_classifier(spec, grid.dataset.name, classes, folder)
    for defense in grid.defense_specs:
        kind = DEFENSES.get(defense.name).factory
        if isinstance(kind, type) and issubclass(kind, TrainedDefense):
            for model in grid.model_specs:
                write_trained(defense, model, grid.dataset.name, classes, folder)
    for missing in missing_files(grid, folder):
        _write_network(missing, folder / "checkpoints", width)


def _write_network(missing: Missing, weights: Path, width: float) -> None:
    if Path(missing.put).name.startswith("raft_"):
        write_flow(missing)
        return
    for kind, hub in PIPELINES.items():
        if f"bench fetch {kind}" in missing.get:
            write_pipeline(kind, pipeline_folder(kind, hub, weights), width)


class Stopwatch:
    """Is told what a run does, and takes time and memory of each part."""

    def __init__(self, device: torch.device) -> None:
        self.parts: list[Part] = []
        self._device = device
        self._begun = 0.0
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Stopwatch:
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._over.set()
        self._watcher.join()

    def begin(self, work: float, clips: int, cells: int) -> None:
        """Totals are of no interest here."""

    def advance(self, work: float, clips: int, cells: int) -> None:
        """Nor are steps within a part."""

    def working_on(self, what: str) -> None:
        """A part begins, and the one before it has ended."""
        self._end()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        self.parts.append(Part(what))
        self._begun = time.perf_counter()

    def _end(self) -> None:
        if not self.parts or self.parts[-1].seconds:
            return
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            self.parts[-1].peak = torch.cuda.max_memory_allocated(self._device)
        else:
            self._look()
        self.parts[-1].seconds = time.perf_counter() - self._begun

    def _watch(self) -> None:
        while not self._over.wait(_LOOK):
            if self._device.type != "cuda":
                self._look()

    def _look(self) -> None:
        if self.parts:
            part = self.parts[-1]
            part.peak = max(part.peak, resident())


def resident() -> int:
    """Bytes of this process that are in memory; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
