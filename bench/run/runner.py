"""Drives a plan: has made what is not in the store yet, batch by batch, and writes each batch as it comes.

This process alone writes outcomes. Who computes them, here or elsewhere, is the crew's affair; which batch is next, the
board's. Another process that runs on the same store takes other batches.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal, Protocol, get_args

from bench.data.base import ClipRef
from bench.errors import BenchError, Impossible
from bench.faults import charge_no_machine
from bench.modes import check_precision
from bench.origins import check_origins
from bench.plan.cells import Cell, ClipsUnit, Plan
from bench.records.description import Skipped
from bench.records.identity import digest
from bench.records.outcome import Outcome
from bench.run.control import compare
from bench.run.crew import Crew, Report, ThisProcess
from bench.run.engine import LocalEngine
from bench.run.leases import Leases
from bench.run.loading import Frames
from bench.run.schedule import Board, Job, Known, cell_weight, spares, weight_of
from bench.run.store import Coded, LostClips, Store, Use
from bench.run.work import Part, Task

# Clips of each adaptive cell that the zero-budget control attacks: enough to notice a pipeline that changes while it is
# asked.
CONTROL_CLIPS = 4
# Seconds between two looks at what another process does.
_LOOK = 0.5


Keep = Literal["all", "shared", "none"]
"""Which adversarial clips stay in the store after a run: those of adaptive cells too, those alone that serve every
defence, or none."""


class Progress(Protocol):
    """What the runner tells whoever watches."""

    def begin(self, work: float, clips: int, cells: int) -> None:
        """Totals of what is left to do: work in forward-pass equivalents, clip outcomes, cells."""

    def working_on(self, what: str) -> None:
        """A unit or a cell begins."""

    def advance(self, work: float, clips: int, cells: int) -> None:
        """So much was done and stored."""


class Silent:
    """A progress display for nobody."""

    def begin(self, work: float, clips: int, cells: int) -> None: ...

    def working_on(self, what: str) -> None: ...

    def advance(self, work: float, clips: int, cells: int) -> None: ...


class Runner:
    """Runs a plan against a store.

    Args:
        engine: works on the batches: that of this process, or a crew that was given the same plan.
        batch_size: clips per batch, or ``None`` to choose. A choice is remembered in the store, so that a
            run that continues a killed one forms the same batches and ends with the same result.
        retry: run clips again that failed, were missing or came back invalid.
        control: clips of each adaptive cell that are also attacked with a budget of size 0, see
            :class:`bench.records.outcome.Control`; 0 for none.
        fail_fast: stop at the first clip with which a component fails, in place of charging it. A crew was told before.
        keep: the adversarial clips that stay.
        frames: where decoded clips are kept, so that each is decoded once; in memory alone if not given. A crew has its
            own.

    Attributes:
        computed: outcomes that this run has stored.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        engine: LocalEngine | Crew,
        *,
        batch_size: int | None = None,
        retry: bool = False,
        control: int = CONTROL_CLIPS,
        fail_fast: bool = False,
        progress: Progress | None = None,
        keep: Keep = "all",
        frames: Frames | None = None,
    ) -> None:
        if keep not in get_args(Keep):
            raise BenchError(f"--keep must be all, shared or none, not {keep!r}.")
        if batch_size is not None and batch_size < 1:
            raise BenchError(f"--batch-size must be at least 1 or auto, not {batch_size}.")
        self.plan, self.store, self.engine = plan, store, engine
        self.progress: Progress = progress or Silent()
        self.computed = 0
        self._crew: Crew
        self._crew = (
            ThisProcess(plan, engine, fail_fast=fail_fast, frames=frames) if isinstance(engine, LocalEngine) else engine
        )
        self._asked_size, self._keep_clips = batch_size, keep
        self._retry, self._control_clips = retry, control
        self._refs = {r.id: r for r in plan.refs}
        self._clean_cells = {(c.model.label, c.defense.label): c.id for c in plan.cells if c.knowledge == "clean"}
        self._at_work: dict[Task, tuple[Job, Sequence[ClipRef]]] = {}
        self._attacked: dict[str, list[Outcome]] = {}  # by the controls at work

    def run(self) -> None:
        """Brings every cell of the plan up to date. One whose attack turns out not to exist for its row is moved to
        the plan's ``skipped``, with the reason.

        Raises:
            BenchError: an attack turns out not to exist for any row, a classifier's weights are not those that were
                loaded, or a component fails where that is to stop the run; everything computed so far is stored.
            MachineFault: the disk, the memory or the device failed; so it is then.
        """
        check_origins()
        check_precision(self.plan.grid.precision, self._crew.device)
        if self._retry:
            self._forget_flawed()
        self._known = Known(self.store)
        self._at_work.clear()
        self._attacked.clear()
        jobs = self._jobs()
        cells = [job for job in jobs if job.kind == "run"]
        if cells:
            self._crew.ask("check", list(dict.fromkeys(job.cell.model.label for job in cells)))
        self.progress.begin(sum(job.weight * job.clips for job in jobs), sum(job.clips for job in cells), len(cells))
        self.store.add_uses(_use(self.plan, c, c.unit) for c in self.plan.cells if c.unit)
        try:
            with Leases(self.store) as self._leases:
                self._drive(jobs)
                refused = self._leave_out(cells)
                self._drive(self._controls())
        finally:
            self._crew.rest()
        for unit in self.plan.units if self._keep_clips == "none" else ():
            self.store.drop_clips(unit.id)
        left = {c.attack_label for c in self.plan.cells}
        for label, reason in refused.items():
            if label not in left:  # of no row: a mistake in the grid, and not a gap in a table
                raise BenchError(reason)

    # --- what there is to do ---

    def _jobs(self) -> list[Job]:
        """Cells with clips that are not in the store, each after the unit whose clips it shows, if those are not."""
        jobs: dict[str, Job] = {}
        for cell in self.plan.cells:
            pending = self._pending(self._known.done(cell.id))
            if not pending or cell.id in jobs:
                continue
            unit = cell.unit if cell.unit and cell.unit.shared else None
            if unit is not None and unit.id not in jobs:
                unmade = self._pending(self._known.made(unit.id))
                if unmade:
                    jobs[unit.id] = Job("make", unit.id, cell, unmade, weight_of(unit))
            jobs[cell.id] = Job("run", cell.id, cell, pending, cell_weight(cell))
        return list(jobs.values())

    def _controls(self) -> list[Job]:
        jobs: dict[str, Job] = {}
        for cell in filter(self._wants_control, self.plan.cells):
            clean = self.store.outcomes(self._clean(cell))
            refs = [r for r in self.plan.refs if r.id in clean and clean[r.id].status == "ok"][: self._control_clips]
            if refs:
                jobs[cell.id] = Job("control", cell.id, cell, refs, cell_weight(cell))
        return list(jobs.values())

    def _wants_control(self, cell: Cell) -> bool:
        """Whether a cell's attack goes through its defence, and no control of it is stored that may stay."""
        own_clips = cell.knowledge == "adaptive" and cell.unit is not None and not cell.unit.shared
        return own_clips and (self._retry or self.store.control(cell.id) is None)

    def _pending(self, done: set[str]) -> list[ClipRef]:
        return [r for r in self.plan.refs if r.id not in done]

    def _clean(self, cell: Cell) -> str:
        return self._clean_cells[cell.model.label, cell.defense.label]

    def _forget_flawed(self) -> None:
        """Lets the clips that failed, were missing or came back invalid be run again."""
        for cell in self.plan.cells:
            self.store.forget(cell.id, ("failed", "missing"))
            invalid = self.store.forget(cell.id, ("invalid",))
            if cell.unit and cell.unit.shared:
                self.store.forget_clips(cell.unit.id, invalid)

    def _leave_out(self, jobs: Sequence[Job]) -> dict[str, str]:
        """Takes cells out of the plan whose attack does not exist, as planning would have done, had it known.

        Returns:
            By the label of the attack, why.
        """
        reasons = {job.cell.id: job.refused for job in jobs if job.refused}
        gone = [c for c in self.plan.cells if c.id in reasons]
        self.plan.cells = [c for c in self.plan.cells if c.id not in reasons]
        self.plan.skipped += [
            Skipped(model=c.model.label, defense=c.defense.label, attack=c.attack_label, reason=reasons[c.id])
            for c in gone
        ]
        return {c.attack_label: reasons[c.id] for c in gone}

    def _batch_size(self, cell: Cell) -> int:
        if self._asked_size is not None:
            return self._asked_size
        unit = cell.unit
        parts = (cell.model, cell.defense, *((unit.defense, unit.attack) if unit else ()), cell.dataset)
        settings = [part.identity.model_dump() if part else None for part in parts]
        key = digest([*settings, [unit.gradient, unit.precision] if unit else None, self._crew.hardware])
        return self.store.batch_size(key, lambda: self._crew.ask("batch_size", cell.id))

    # --- doing it ---

    def _drive(self, jobs: list[Job]) -> None:
        """Has all jobs done; what another process works on is waited for."""
        crew = self._crew
        board = Board(
            jobs,
            self.plan.refs,
            self._known,
            self._leases,
            size_of=self._batch_size,
            clean=self._clean,
            heaviest=not isinstance(crew, ThisProcess),
        )
        while board.open():
            waits = self._fill(board)
            if waits:
                self._leases.flush()
            if crew.busy():
                failed: BenchError | None = None
                for report in crew.reports(_LOOK if waits and board.waits() else None):
                    if report.error is None and failed is None:
                        self._fill(board)  # nobody is to stand idle while what was done is written
                    try:
                        self._take(board, report)
                    except BenchError as error:  # what others have done meanwhile is kept first
                        failed = failed or error
                if failed is not None:
                    raise failed
            elif waits and board.open():
                self.progress.working_on("waiting for another process")
                time.sleep(_LOOK)

    def _fill(self, board: Board) -> bool:
        """Gives a batch to everybody who is free; whether somebody still is, as all that is left waits for others."""
        while self._crew.free():
            found = board.next()
            if found is None:
                return True
            self._begin(*found)
        return False

    def _begin(self, job: Job, batch: Sequence[ClipRef]) -> None:
        """Has the crew work on a batch, without the clips that another process has done and those that have a flaw."""
        self._known.refresh(job.work)
        rest = [r for r in batch if r.id not in self._done_of(job)]
        self._advance(job, len(batch) - len(rest))
        unit = job.cell.unit
        made: Coded | None = None
        if job.kind == "run" and unit is not None and unit.shared:
            flaws = self._known.flaws(unit.id)
            flawed = tuple(r.id for r in rest if r.id in flaws)
            if flawed:
                self._keep(job, Part(flawed, flaws={clip: flaws[clip] for clip in flawed}))
            rest = [r for r in rest if r.id not in flaws]
            made = self._shared_clips(unit.id, rest) if rest else None
        if not rest:
            self._end(job, batch)
            return
        skip = self._known.mistaken(self._clean(job.cell)) if job.kind == "run" and spares(job.cell) else set()
        clips = tuple(r.id for r in rest)
        keep = self._keep_clips == "all" and job.kind == "run"
        task = Task(job.kind, job.work, job.cell.id, clips, job.size, frozenset(skip.intersection(clips)), made, keep)
        self._at_work[task] = job, batch
        self.progress.working_on(_words(job))
        self._crew.start(task)

    def _done_of(self, job: Job) -> set[str]:
        if job.kind == "make":
            return self._known.made(job.work)
        if job.kind == "run":
            return self._known.done(job.work)
        done_elsewhere = not self._retry and self.store.control(job.work) is not None
        return {r.id for r in job.refs} if done_elsewhere else set()

    def _shared_clips(self, unit: str, refs: Sequence[ClipRef]) -> Coded | None:
        """The stored adversarial clips of a batch; none where somebody removed them or they are torn."""
        try:
            return self.store.coded_clips(unit, [r.id for r in refs])
        except LostClips:
            return None
        except Exception as error:
            charge_no_machine(error, "Adversarial clips cannot be loaded")
            raise

    def _take(self, board: Board, report: Report) -> None:
        """Keeps what is reported, and stops where that is called for."""
        job, batch = self._at_work[report.task]
        if report.part is not None:
            self._keep(job, report.part)
            return
        del self._at_work[report.task]
        if isinstance(report.error, Impossible):
            for refused in board.refuse(job, str(report.error)):
                self._advance(refused, refused.clips)
                self.progress.advance(0, 0, int(refused.kind == "run"))
        elif report.error is not None:
            raise report.error
        self._end(job, batch)

    def _keep(self, job: Job, part: Part) -> None:
        """Stores a part of a batch."""
        unit = job.cell.unit
        if part.made is not None and unit is not None:
            self.store.add_clips(unit.id, part.clips, part.made)
        if job.kind == "make":
            for clip, flaw in part.flaws.items():
                self.store.add_clip_error(job.work, clip, flaw)
            self._known.add_made(job.work, part.clips, part.flaws)
        else:
            flawed = [Outcome.of_flaw(clip, self._refs[clip].label, flaw) for clip, flaw in part.flaws.items()]
            outcomes = [*part.outcomes, *flawed]
            if job.kind == "control":
                self._attacked.setdefault(job.work, []).extend(outcomes)
                return
            self.store.add(job.work, job.cell.identity.model_dump_json(exclude_defaults=True), outcomes)
            self._known.add_outcomes(job.work, outcomes)
            self.computed += len(outcomes)
        if not job.refused:
            self._advance(job, len(part.clips))

    def _end(self, job: Job, batch: Sequence[ClipRef]) -> None:
        """A batch has ended, and all of it is stored."""
        attacked = self._attacked.pop(job.work, None) if job.kind == "control" else None
        if attacked is not None:
            clean = self.store.outcomes(self._clean(job.cell))
            self.store.add_control(job.work, compare(attacked, [clean[o.clip] for o in attacked]))
        self._leases.give_back(job.lease, [r.id for r in batch])
        job.out -= 1
        if job.ended and job.kind == "run" and not job.refused:
            self.progress.advance(0, 0, 1)

    def _advance(self, job: Job, clips: int) -> None:
        """Tells how far it is; controls are extra."""
        job.clips -= clips
        if clips and job.kind != "control":
            self.progress.advance(job.weight * clips, clips if job.kind == "run" else 0, 0)


def _use(plan: Plan, cell: Cell, unit: ClipsUnit) -> Use:
    return Use(
        unit=unit.id,
        cell=cell.id,
        grid=plan.grid.name,
        dataset=cell.dataset.label,
        model=cell.model.label,
        defense=cell.defense.label,
        attack=cell.attack_label,
        budget=cell.threat,
        knowledge=cell.knowledge,
        shared=unit.shared,
    )


def _words(job: Job) -> str:
    """What is worked on."""
    if job.kind == "make":
        return f"{job.cell.model.label}: making {job.cell.attack_label} clips"
    last = " with no budget" if job.kind == "control" else ""
    return f"{job.cell.model.label}: {job.cell.defense.label}, {job.cell.attack_label}{last}"
