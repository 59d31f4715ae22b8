"""How far a run is, read from its store while others write to it: nothing is written, and nobody waits for it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from bench.plan.cells import Plan
from bench.run.leases import Holder, holders
from bench.run.schedule import cell_weight, weight_of
from bench.run.store import Store


@dataclass(frozen=True)
class CellState:
    """How far a cell is.

    Attributes:
        model, defense, attack, budget: labels.
        done, clips: outcomes that are stored, and that there will be.
        right: the clips that the defence answers rightly, of those; of a randomised one, the mean number over its
            passes.
        flaws: outcomes without an answer, by status.
    """

    model: str
    defense: str
    attack: str
    budget: str
    done: int
    clips: int
    right: float
    flaws: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Working:
    """A process, and what it is at: how many clips of what."""

    holder: Holder
    clips: int
    what: str


@dataclass(frozen=True)
class Snapshot:
    """How far a run is.

    Attributes:
        cells: in the plan's order.
        units, all_units: shared adversarial clips that are made, and that there will be.
        work, all_work: in forward passes of one clip, at most; clips that need no attack take fewer.
        working: who works on the run.
        flaw: what the first clip without an answer says.
    """

    cells: list[CellState]
    units: int
    all_units: int
    work: float
    all_work: float
    working: list[Working]
    flaw: str = ""

    @property
    def done(self) -> int:
        return sum(cell.done for cell in self.cells)

    @property
    def clips(self) -> int:
        """All outcomes that there will be."""
        return sum(cell.clips for cell in self.cells)

    @property
    def flaws(self) -> Counter[str]:
        return sum((cell.flaws for cell in self.cells), Counter[str]())

    @property
    def complete(self) -> bool:
        return self.done == self.clips


def snapshot(plan: Plan, folder: Path) -> Snapshot:
    """How far the run of a plan is.

    Args:
        folder: of the store; it need not be there.

    Raises:
        MachineFault: the store cannot be read.
    """
    wanted = {ref.id for ref in plan.refs}
    cells, work, all_work, flaw = list[CellState](), 0.0, 0.0, ""
    with Store(folder, writable=False) as store:
        for cell in plan.cells:
            outcomes = [o for clip, o in store.outcomes(cell.id).items() if clip in wanted]
            flawed = [o for o in outcomes if o.status != "ok"]
            flaw = flaw or next((o.error for o in flawed if o.error), "")
            names = (cell.model.label, cell.defense.label, cell.attack_label, cell.threat)
            right, flaws = sum(o.chance for o in outcomes), Counter[str](o.status for o in flawed)
            cells.append(CellState(*names, len(outcomes), len(wanted), right, flaws))
            work += cell_weight(cell) * len(outcomes)
            all_work += cell_weight(cell) * len(wanted)
        made = all_made = 0
        for unit in plan.units:
            if unit.shared:
                there = len(wanted & store.clips_done(unit.id))
                made, all_made = made + there, all_made + len(wanted)
                work += weight_of(unit) * there
                all_work += weight_of(unit) * len(wanted)
        return Snapshot(cells, made, all_made, work, all_work, _working(plan, store), flaw)


def _working(plan: Plan, store: Store) -> list[Working]:
    """Who holds clips of the plan's cells and units."""
    what = {cell.id: f"{cell.defense.label}, {cell.attack_label}" for cell in plan.cells}
    for cell in plan.cells:
        if cell.unit is not None and cell.unit.shared:
            what.setdefault(cell.unit.id, f"{cell.attack_label} on {cell.model.label}")
    held: dict[tuple[Holder, str], int] = Counter()
    for work, holder in holders(store):
        control, _, of_cell = work.rpartition("control ")
        words = what.get(of_cell)
        if words is not None:
            held[holder, f"zero-budget control of {words}" if control or work != of_cell else words] += 1
    return [Working(holder, clips, words) for (holder, words), clips in held.items()]


class Pace:
    """How long a run will take, by how fast it has gone while it was watched.

    Args:
        window: seconds that count.
    """

    def __init__(self, window: float = 120.0) -> None:
        self._window = window
        self._seen: list[tuple[float, float]] = []

    def left(self, now: float, work: float, all_work: float) -> float | None:
        """Seconds that are left; ``None`` as long as nothing has been seen to change.

        Args:
            now: seconds, of any clock.
            work, all_work: as in :class:`Snapshot`.
        """
        self._seen.append((now, work))
        # One that lies before the window stays: from there until now is known.
        while len(self._seen) > 2 and self._seen[1][0] <= now - self._window:
            self._seen.pop(0)
        begun, before = self._seen[0]
        if work <= before or now <= begun:
            return None
        return (all_work - work) * (now - begun) / (work - before)
