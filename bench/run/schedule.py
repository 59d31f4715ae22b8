"""In which order the batches of a run are done, and what has to be there before one may be begun."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from bench.data.base import ClipRef
from bench.plan.cells import Cell, ClipsUnit
from bench.records.outcome import Flaw, Outcome
from bench.run.leases import Leases
from bench.run.store import Store
from bench.run.work import Kind


def weight_of(unit: ClipsUnit) -> float:
    """Work of one clip of a unit, in forward passes; a backward pass counts twice."""
    forwards, backwards = unit.passes
    return forwards + 2 * backwards


def cell_weight(cell: Cell) -> float:
    """Work of one clip of a cell, in forward passes."""
    return cell.queries + (weight_of(cell.unit) if cell.unit and not cell.unit.shared else 0)


class Known:
    """What the store holds of cells and units, kept in memory. What other processes add is looked up where it is asked
    for by :meth:`refresh`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._done: dict[str, set[str]] = {}
        self._mistaken: dict[str, set[str]] = {}
        self._flaws: dict[str, dict[str, Flaw]] = {}
        self._versions: dict[str, int] = {}

    def done(self, cell: str) -> set[str]:
        """Clips of a cell with an outcome."""
        if cell not in self._done:
            self._versions[cell] = self._store.version()
            outcomes = self._store.outcomes(cell)
            self._done[cell] = set(outcomes)
            self._mistaken[cell] = {clip for clip, outcome in outcomes.items() if _is_mistake(outcome)}
        return self._done[cell]

    def mistaken(self, cell: str) -> set[str]:
        """Clips of a cell that were answered, and not rightly."""
        self.done(cell)
        return self._mistaken[cell]

    def made(self, unit: str) -> set[str]:
        """Clips of a unit of which there is an adversarial version, or a flaw."""
        if unit not in self._done:
            self._versions[unit] = self._store.version()
            self._done[unit] = self._store.clips_done(unit)
            self._flaws[unit] = self._store.clip_errors(unit)
        return self._done[unit]

    def flaws(self, unit: str) -> dict[str, Flaw]:
        """Clips of a unit of which no adversarial version could be made, and why."""
        self.made(unit)
        return self._flaws[unit]

    def add_outcomes(self, cell: str, outcomes: Sequence[Outcome]) -> None:
        self.done(cell).update(o.clip for o in outcomes)
        self._mistaken[cell].update(o.clip for o in outcomes if _is_mistake(o))

    def add_made(self, unit: str, clips: Sequence[str], flaws: dict[str, Flaw]) -> None:
        self.made(unit).update(clips)
        self._flaws[unit].update(flaws)

    def refresh(self, work: str) -> None:
        """Looks a cell or a unit up again when it is asked for, if somebody else has written to the store."""
        if self._versions.get(work) != self._store.version():
            self._done.pop(work, None)


def _is_mistake(outcome: Outcome) -> bool:
    return outcome.status == "ok" and not outcome.correct


@dataclass
class Job:
    """A cell, the shared clips of a unit or a control, and what is left of it.

    Attributes:
        work: id of the cell or the unit; cell: the cell, or the first one that shows the unit's clips.
        refs: what is left to do, in the order of the plan.
        weight: work of one clip.
        batches: of what was not begun yet; ``None`` until their size is known.
        size: clips per batch.
        out: batches that somebody works on.
        clips: how many have not been done.
        refused: why it does not exist, where trying has shown that it does not.
    """

    kind: Kind
    work: str
    cell: Cell
    refs: list[ClipRef]
    weight: float
    batches: list[list[ClipRef]] | None = None
    size: int = 1
    out: int = 0
    clips: int = field(init=False)
    refused: str = ""

    def __post_init__(self) -> None:
        self.clips = len(self.refs)

    @property
    def lease(self) -> str:
        """What others are told is worked on."""
        return f"control {self.work}" if self.kind == "control" else self.work

    @property
    def ended(self) -> bool:
        return not self.out and self.batches == []

    def cut(self, refs: Sequence[ClipRef], size: int) -> None:
        """Forms the batches. They are cut from the whole list of the plan, so that what is left after a kill is whole
        ones.

        Args:
            refs: all of the plan.
        """
        self.size = size
        if self.kind == "control":  # one verdict on all
            self.batches = [self.refs]
            return
        where = {r.id: i // size for i, r in enumerate(refs)}
        groups: dict[int, list[ClipRef]] = {}
        for ref in self.refs:
            groups.setdefault(where[ref.id], []).append(ref)
        self.batches = list(groups.values())


class Board:
    """The jobs of a run, and which of their batches may be begun.

    Args:
        refs: the plan's.
        size_of: chooses the clips per batch of a job.
        clean: id of the clean cell beside a cell.
        heaviest: begin with what takes longest, in place of the order of the plan: several workers end sooner then.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        refs: Sequence[ClipRef],
        known: Known,
        leases: Leases,
        *,
        size_of: Callable[[Cell], int],
        clean: Callable[[Cell], str],
        heaviest: bool = False,
    ) -> None:
        self._jobs, self._refs, self._known, self._leases = list(jobs), refs, known, leases
        self._size_of, self._clean = size_of, clean
        self._heaviest = heaviest

    def open(self) -> bool:
        """Whether anything is left to do, here or elsewhere."""
        self._jobs = [job for job in self._jobs if not job.ended]
        return bool(self._jobs)

    def next(self) -> tuple[Job, list[ClipRef]] | None:
        """A batch that may be begun, and now is held; none if all that is left waits for others."""
        if not self.open():
            return None
        held = self._leases.held()
        for job in self._order():
            if job.batches is None:  # a size is found out by trying, and not before there is a use for it
                if not any(self._is_ready(job, [r.id]) for r in job.refs):
                    continue
                job.cut(self._refs, self._size_of(job.cell))
            assert job.batches is not None
            for batch in job.batches:
                ids = [r.id for r in batch]
                free = not any((job.lease, i) in held for i in ids)
                if free and self._is_ready(job, ids) and self._leases.take(job.lease, ids):
                    job.batches.remove(batch)
                    job.out += 1
                    return job, batch
        return None

    def waits(self) -> bool:
        """Whether anything was not begun yet."""
        return any(job.batches != [] for job in self._jobs)

    def refuse(self, job: Job, reason: str) -> Iterator[Job]:
        """Leaves a job out, and those that show its clips; returns them."""
        for other in self._jobs:
            shown = job.kind == "make" and other.cell.unit is not None and other.cell.unit.id == job.work
            if (other is job or shown) and not other.refused:
                other.refused, other.batches = reason, []
                yield other

    def _order(self) -> list[Job]:
        if not self._heaviest:
            return self._jobs
        # Clean cells hold others up, and take no time.
        return sorted(self._jobs, key=lambda job: job.weight if job.cell.unit else float("inf"), reverse=True)

    def _is_ready(self, job: Job, ids: Sequence[str]) -> bool:
        """Whether the clips that a batch shows were made, and the clean ones judged on which it depends."""
        unit = job.cell.unit
        if job.kind != "run" or unit is None:
            return True
        if unit.shared:
            return self._known.made(unit.id).issuperset(ids)
        return not spares(job.cell) or self._known.done(self._clean(job.cell)).issuperset(ids)


def spares(cell: Cell) -> bool:
    """Whether clips of a cell that are mistaken without an attack need none: a mistake on the clean clip is final for
    the deterministic pipeline that made it, where that is the one under attack. One draw of a stochastic defence may
    err by chance."""
    unit = cell.unit
    if unit is None or unit.shared or unit.defended is None or unit.defended.stochastic:
        return False
    return cell.knowledge == "adaptive"  # others are made against a defence that is right or wrong elsewhere
