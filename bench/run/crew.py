"""Who works on the batches of a run: what the runner asks of any engine, and the engine that is this process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from bench.errors import BenchError
from bench.plan.cells import Plan
from bench.records.provenance import Provenance
from bench.run.engine import LocalEngine, hardware
from bench.run.loading import Frames
from bench.run.provenance import of_this_process
from bench.run.work import Part, Task, Worker


@dataclass(frozen=True)
class Report:
    """What is told of a task: that a part of it is there, that it ended, or why it could not be done.

    Attributes:
        part: ``None`` where it ended.
        error: only where it ended, too.
    """

    task: Task
    part: Part | None = None
    error: BenchError | None = None


class Crew(Protocol):
    """Works on the tasks of one plan. Only who asks it writes to the store.

    Attributes:
        device: PyTorch's kind of the device that is used.
        name: of that device and of how many there are, for the record of a run.
        hardware: of that device alone, see :func:`bench.run.engine.hardware`.
        computed_by: who computed what was reported last; ``None`` as long as nobody has.
    """

    device: str
    name: str
    hardware: str
    computed_by: Provenance | None

    def ask(self, what: Literal["check", "batch_size"], argument: Any) -> Any:
        """Asks one worker, and waits for its answer: see :class:`bench.run.work.Worker`."""

    def free(self) -> bool:
        """Whether a task may be started."""

    def busy(self) -> bool:
        """Whether a task was started and has not been reported to have ended."""

    def start(self, task: Task) -> None:
        """Gives a task to somebody who is free."""

    def reports(self, seconds: float | None) -> Iterator[Report]:
        """What there is to tell, once there is anything or after so many seconds."""

    def rest(self) -> None:
        """Ends what is done ahead in the background; more can be asked for afterwards."""


class ThisProcess:
    """This process: does one task after the other, each when it is asked what there is to tell. It is free for the next
    once all was told."""

    def __init__(
        self, plan: Plan, engine: LocalEngine, *, fail_fast: bool = False, frames: Frames | None = None
    ) -> None:
        self.device = engine.device.type
        self.name = self.hardware = hardware(engine.device)
        self.computed_by: Provenance | None = of_this_process(self.hardware)
        self._worker = Worker(plan, engine, fail_fast=fail_fast, frames=frames, in_order=True)
        self._task: Task | None = None

    def ask(self, what: Literal["check", "batch_size"], argument: Any) -> Any:
        return getattr(self._worker, what)(argument)

    def rest(self) -> None:
        self._worker.close()

    def free(self) -> bool:
        return self._task is None

    def busy(self) -> bool:
        return self._task is not None

    def start(self, task: Task) -> None:
        self._task = task

    def reports(self, seconds: float | None) -> Iterator[Report]:
        task = self._task
        if task is None:
            return
        try:
            try:
                for part in self._worker.parts(task):
                    yield Report(task, part)
            except BenchError as error:
                yield Report(task, error=error)
            else:
                yield Report(task)
        finally:  # also where whoever is told goes no further
            self._task = None
