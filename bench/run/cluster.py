"""Workers in processes of their own, on this machine or on several: a crew that Ray starts and watches.

Every worker makes the plan for itself, from the grid, and holds networks of its own; tasks and their parts are all that
travels. Only the process that runs the plan writes to the store.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import torch

from bench.errors import BenchError, Impossible
from bench.faults import MachineFault
from bench.grids.grid import Grid
from bench.plan.cells import Plan
from bench.plan.expand import make_plan
from bench.plan.select import Asking
from bench.records.provenance import Provenance
from bench.run.crew import Report
from bench.run.engine import LocalEngine, hardware, keep_freed_memory
from bench.run.loading import Frames
from bench.run.provenance import of_this_process
from bench.run.work import Part, Task, Worker


@dataclass(frozen=True)
class Recipe:
    """What a worker makes its plan from.

    Attributes:
        grid: as it is run, options of the command line applied.
        data_root, checkpoint: as for :func:`bench.plan.expand.make_plan`.
        selected: answers of classifiers that select clips, by the names of their files: no worker asks again.
        fail_fast: stop at the first clip with which a component fails.
        frames: the store's folder, beside which decoded clips are kept on whatever machine the worker is.
        cache: gigabytes of them.
    """

    grid: Grid
    data_root: Path | None = None
    checkpoint: Path | None = None
    selected: Mapping[str, str] = field(default_factory=dict)
    fail_fast: bool = False
    frames: Path | None = None
    cache: float = 0.0

    @classmethod
    def of(
        cls,
        grid: Grid,
        store: Path,
        data_root: Path | None,
        checkpoint: Path | None,
        *,
        fail_fast: bool = False,
        cache: float = 0.0,
    ) -> Recipe:
        """The recipe of a plan that was made with that store."""
        files = sorted((store / "selected").glob("*.json"))
        selected = {file.name: file.read_text(encoding="utf-8") for file in files}
        return cls(grid, _absolute(data_root), _absolute(checkpoint), selected, fail_fast, _absolute(store), cache)

    def plan(self, device: torch.device) -> Plan:
        """Makes the plan."""
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            (Path(folder) / "selected").mkdir()
            for name, text in self.selected.items():
                (Path(folder) / "selected" / name).write_text(text, encoding="utf-8")
            asking = Asking(device, Path(folder), keep=False)
            return make_plan(self.grid, data_root=self.data_root, checkpoint=self.checkpoint, asking=asking)


class Hands:
    """A worker, in a process of its own. Errors that mean something are answers: others are mistakes of this package.

    Args:
        threads: that PyTorch uses. path: folders of modules of whoever started it. folder: the working one.
    """

    def __init__(self, device: str, threads: int, path: Sequence[str], folder: str) -> None:
        sys.path[:] = [*path, *(p for p in sys.path if p not in path)]
        with contextlib.suppress(OSError):  # another machine need not have it
            os.chdir(folder)
        torch.set_num_threads(threads)
        self._device = torch.device(device)
        if self._device.type == "cpu":
            keep_freed_memory()
        self._worker: Worker | None = None

    def prepare(self, recipe: Recipe) -> tuple[list[str], list[str], Provenance] | BenchError:
        """Makes the plan; the ids of its cells and of its clips, and what computes here."""
        try:
            plan = recipe.plan(self._device)
        except BenchError as error:
            return _plain(error)
        frames = Frames.beside(recipe.frames, recipe.cache) if recipe.frames is not None else None
        self._worker = Worker(plan, LocalEngine(self._device), fail_fast=recipe.fail_fast, frames=frames)
        here = of_this_process(hardware(self._device))
        return [c.id for c in plan.cells], [r.id for r in plan.refs], here

    def ask(self, what: Literal["check", "batch_size"], argument: Any) -> Any:
        """See :class:`bench.run.work.Worker`."""
        try:
            return getattr(self._worker, what)(argument)
        except BenchError as error:
            return _plain(error)

    def work(self, task: Task) -> tuple[list[Part], BenchError | None]:
        """All parts of a task, or those up to an error."""
        assert self._worker is not None
        parts: list[Part] = []
        try:
            parts.extend(self._worker.parts(task))
        except BenchError as error:
            return parts, _plain(error)
        return parts, None


@dataclass(eq=False)
class _Hired:
    """A worker as its employer sees it.

    Attributes:
        coming: the answer that is waited for; ``None`` if nothing was asked.
        task: what it works on; ``None`` while it makes its plan, or if it is idle.
        provenance: what computes there; ``None`` until it has made a plan.
    """

    actor: Any
    coming: Any = None
    task: Task | None = None
    provenance: Provenance | None = None


class RayCrew:
    """Workers that Ray starts: see :class:`bench.run.crew.Crew`. They begin to load at once, and work once they are
    given a plan.

    Args:
        workers: one for each GPU, or else for each core, if not given.
        address: of a cluster that runs already; one is started on this machine, and ended, if not given.
        device: ``auto`` (GPUs where there are any), ``cpu`` or ``cuda``, of which every worker has one for itself.

    Raises:
        BenchError: Ray is not installed, there is no such cluster, or it is too small.

    Attributes:
        deaths: workers that ended abruptly, and were replaced.
        most_deaths: workers that one batch, or loading, may cost before the run stops.
        computed_by: the worker whose report was handed out last.
    """

    most_deaths = 3

    def __init__(self, workers: int | None = None, *, address: str | None = None, device: str = "auto") -> None:
        if workers is not None and workers < 1:
            raise BenchError(f"--workers must be at least 1, not {workers}.")
        if device not in ("auto", "cpu", "cuda"):
            raise BenchError(
                f"With --engine ray --device is auto, cpu or cuda (a GPU for each worker), not {device!r}."
            )
        self._ray, self._started = _begin(workers, address)
        try:
            self.device, count, self._cores = _shares(self._ray, workers, device)
        except BenchError:
            self.close()
            raise
        self.name = self.hardware = "cpu" if self.device == "cpu" else "GPU"  # until a worker says which
        self.deaths = 0
        self._recipe: Recipe | None = None
        self._expected: tuple[list[str], list[str]] = ([], [])
        self._deaths: Counter[Task | None] = Counter()
        self._again: list[Task] = []
        self._told: list[tuple[Provenance | None, Report]] = []
        self.computed_by: Provenance | None = None
        self._crew = [_Hired(self._hire()) for _ in range(count)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def rest(self) -> None:
        """Workers do nothing ahead."""

    def close(self) -> None:
        """Ends the workers, and the cluster that was started for them."""
        for hired in getattr(self, "_crew", ()):
            with contextlib.suppress(Exception):  # one that has ended already
                self._ray.kill(hired.actor)
        if self._started:
            self._ray.shutdown()

    def give(self, recipe: Recipe, plan: Plan) -> None:
        """Has the workers make a plan.

        Args:
            plan: what it has to be.
        """
        self._recipe, self._expected = recipe, ([c.id for c in plan.cells], [r.id for r in plan.refs])
        self._again.clear()
        self._told.clear()
        for hired in self._crew:  # what one is still at belongs to a run that was stopped
            hired.task, hired.coming = None, hired.actor.prepare.remote(recipe)

    def ask(self, what: Literal["check", "batch_size"], argument: Any) -> Any:
        while True:
            idle = self._idle()
            if idle is None:
                self._collect(None)
                continue
            try:
                answer = self._ray.get(idle.actor.ask.remote(what, argument))
            except self._ray.exceptions.RayTaskError as error:
                raise error.as_instanceof_cause() from None
            except self._ray.exceptions.RayError:
                self._replace(idle)
                continue
            if isinstance(answer, BenchError):
                raise answer
            return answer

    def free(self) -> bool:
        return self._idle() is not None

    def busy(self) -> bool:
        return bool(self._again or self._told) or any(hired.coming is not None for hired in self._crew)

    def start(self, task: Task) -> None:
        idle = self._idle()
        assert idle is not None
        idle.task, idle.coming = task, idle.actor.work.remote(task)

    def reports(self, seconds: float | None) -> Iterator[Report]:
        fault: BenchError | None = None
        if not self._told:
            try:
                self._collect(seconds)
            except BenchError as error:
                fault = error
        told, self._told = self._told, []
        for self.computed_by, report in told:  # what others have done meanwhile comes first
            yield report
        if fault is not None:
            raise fault

    # --- workers come and go ---

    def _hire(self) -> Any:
        options = {"num_cpus": self._cores, "num_gpus": 0}
        if self.device == "cuda":  # the cores beside a GPU are nobody else's
            options = {"num_cpus": 0, "num_gpus": 1}
        actor = self._ray.remote(**options, max_restarts=0, max_task_retries=0)(Hands)
        return actor.remote(self.device, self._cores, list(sys.path), str(Path.cwd()))

    def _idle(self) -> _Hired | None:
        return next((hired for hired in self._crew if hired.coming is None), None)

    def _collect(self, seconds: float | None) -> None:
        """Waits for an answer, and reads all that there are."""
        waiting = {hired.coming: hired for hired in self._crew if hired.coming is not None}
        if not self._ray.wait(list(waiting), num_returns=1, timeout=seconds)[0]:
            return
        fault: BenchError | None = None
        for coming in self._ray.wait(list(waiting), num_returns=len(waiting), timeout=0)[0]:
            try:
                self._read(waiting[coming])
            except BenchError as error:
                fault = fault or error
        if fault is not None:
            raise fault
        while self._again and self.free():
            self.start(self._again.pop(0))

    def _read(self, hired: _Hired) -> None:
        try:
            answer = self._ray.get(hired.coming)
        except self._ray.exceptions.RayTaskError as raised:
            raise raised.as_instanceof_cause() from None
        except self._ray.exceptions.RayError:  # the process is gone, or the machine it was on
            self._replace(hired)
            return
        task, hired.task, hired.coming = hired.task, None, None
        if task is None:
            hired.provenance = self._welcome(answer)
            return
        parts, error = answer
        reports = [*(Report(task, part) for part in parts), Report(task, error=error)]
        self._told += [(hired.provenance, report) for report in reports]

    def _welcome(self, answer: tuple[list[str], list[str], Provenance] | BenchError) -> Provenance:
        """Checks that a worker has made the same plan; what computes there."""
        if isinstance(answer, BenchError):
            raise answer
        cells, clips, provenance = answer
        if (cells, clips) != self._expected:
            raise BenchError(
                "A worker plans other cells or clips than this process: on its machine, this package, the weights or "
                "the data are other ones. Make them the same there."
            )
        name = provenance.device
        self.name, self.hardware = f"{name} ({len(self._crew)} workers)", name
        self._deaths[None] = 0
        return provenance

    def _replace(self, hired: _Hired) -> None:
        """Starts a worker in the place of one that has ended; what that one worked on is given to the next who is free.

        Raises:
            MachineFault: too many have ended at the same work.
        """
        task, hired.task = hired.task, None
        self.deaths += 1
        self._deaths[task] += 1
        if self._deaths[task] >= self.most_deaths:
            what = "load" if task is None else f"work on {', '.join(task.clips[:3])} of cell {task.cell}"
            raise MachineFault(
                f"{self.most_deaths} workers ended abruptly when they were to {what}: see whether the machine had too "
                "little memory. No clip is charged; every finished batch is stored, and the same command goes on."
            )
        if task is not None:
            self._again.append(task)
        hired.actor = self._hire()
        hired.coming = hired.actor.prepare.remote(self._recipe)


def _begin(workers: int | None, address: str | None) -> tuple[Any, bool]:
    """Ray, connected, without a word of its own; and whether it is to be ended."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing leaves the cluster
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a warning
    try:
        import ray
    except ImportError as error:
        raise BenchError(
            "The engine ray needs Ray, which is not installed: pip install 'videorobustbench[ray]'."
        ) from error
    if ray.is_initialized():
        return ray, False
    _check_address(address)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is not None:
            ray.init(address, **quiet)
        else:
            cores = max(workers or 1, torch.get_num_threads())
            ray.init("local", num_cpus=cores, include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = f"at {address}" if address is not None else "on this machine"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BenchError(f"There is no Ray cluster {where} ({reason}): check --address, or start one.") from error
    return ray, True


def _check_address(address: str | None) -> None:
    """Refuses an address at which nobody listens, which Ray would ask for many minutes."""
    host, colon, port = (address or "").rpartition(":")
    if address in (None, "auto"):
        return
    if not colon or not port.isdigit():
        raise BenchError(f"--address is HOST:PORT of a Ray cluster's head, or auto, not {address!r}.")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise BenchError(f"There is no Ray cluster at {address} ({error}): check --address, or start one.") from error


def _shares(ray: Any, workers: int | None, device: str) -> tuple[str, int, int]:
    """The device, the number of workers and the cores of each."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus, cores = (sum(int(node.get(kind, 0)) for node in nodes) for kind in ("GPU", "CPU"))
    if device == "cuda" and not gpus:
        raise BenchError("Device cuda was asked for, but the Ray cluster has no GPU: use --device cpu.")
    if gpus and device != "cpu":
        count = workers or gpus
        if count > gpus:
            raise BenchError(f"{count} workers need as many GPUs, and the Ray cluster has {gpus}: lower --workers.")
        return "cuda", count, max(1, cores // count)
    count = workers or cores
    if count > cores:
        raise BenchError(f"{count} workers need as many cores, and the Ray cluster has {cores}: lower --workers.")
    share = cores // count
    # On several machines, no worker has cores of two.
    while sum(int(node.get("CPU", 0)) // share for node in nodes) < count:
        share -= 1
    return "cpu", count, share


def _plain(error: BenchError) -> BenchError:
    """An error that can be sent: what it says, and which of our kinds it is."""
    kind = next(kind for kind in (Impossible, MachineFault, BenchError) if isinstance(error, kind))
    return kind(str(error))


def _absolute(path: Path | None) -> Path | None:
    return path.absolute() if path is not None else None
