"""Can what is recorded of a row be believed? Drawn clips are judged, and attacked, again.

Nothing that lies beside the results is trusted: clips and their labels come from the data set, the defence is made anew
in a process of its own that is handed clips alone, kept adversarial clips are measured against the data set's clean
ones, and others are attacked from the start. Machines differ in rounding, and a sign of a gradient that differs changes
every step after it; what must not differ is said by :func:`doubts`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.audit.asked import DRAWS, Setting, as_recorded, share_right, suspect_of
from bench.audit.room import Room
from bench.audit.rows import room_of
from bench.data.base import ClipRef, MissingClip
from bench.errors import BenchError
from bench.plan.cells import Cell, ClipsUnit, Plan
from bench.records.metrics import wilson
from bench.records.outcome import Outcome
from bench.records.results import CellResult
from bench.records.submissions import Counts, VerifiedCell
from bench.run.alone import Alone
from bench.run.engine import LocalEngine
from bench.run.judge import distances, violation
from bench.run.sample import Sample
from bench.run.store import Adversarial

# How often a sign test refuses an honest row.
_LEVEL = 0.025
# First losses that are the same whatever the machine: far more than rounding, or TF32, changes.
_LOSS_RELATIVE, _LOSS_ABSOLUTE, _SIZE_RELATIVE = 0.05, 0.01, 0.02
# Share of clips that may begin otherwise, or be right although they are recorded as wrong.
_OTHERWISE = 0.1


def unlike_the_plan(plan: Plan, results: Sequence[CellResult], defense: str) -> list[str]:
    """What a row's results must be before any clip is asked: of this code, these weights, these clips and labels.

    Args:
        plan: made here, of the data set and the defence that are here.
        results: of the row's grid.
        defense: label of the row.

    Returns:
        A sentence for each thing that is otherwise.
    """
    there = {(r.model, r.attack, r.budget): r for r in results if r.defense == defense}
    cells = {(c.model.label, c.attack_label, c.threat): c for c in plan.cells if c.defense.label == defense}
    words = []
    if lacking := [key for key in cells if key not in there]:
        words.append(f"{plan.grid.name} has no results of {_named(lacking)}: run it whole.")
    if unknown := [key for key in there if key not in cells]:
        words.append(f"{plan.grid.name} has results of {_named(unknown)}, which is no column of it.")
    if other := [key for key in cells if key in there and there[key].cell != cells[key].id]:
        words.append(
            f"{plan.grid.name}: {_named(other)} was measured with other code, weights, clips or settings than those "
            "that are here: run it again with this version."
        )
    clips = [(ref.id, ref.label) for ref in plan.refs]
    if foreign := [k for k, r in there.items() if [(o.clip, o.label) for o in r.outcomes] != clips]:
        words.append(f"{plan.grid.name}: the clips or labels of {_named(foreign)} are not those of the data set.")
    return words


def _named(keys: Iterable[tuple[str, ...]]) -> str:
    return ", ".join(" · ".join(filter(None, key)) for key in keys)


@dataclass(frozen=True)
class _Again:
    """Clips of one cell that were judged again: how they are recorded, what is answered now, and whether each is the
    one that was measured."""

    stored: Sequence[Outcome]
    answers: Sequence[Outcome]
    exact: Sequence[bool]

    def counts(self, exact: bool) -> Counts:
        pairs = zip(self.stored, self.answers, self.exact, strict=True)
        found = [(_right(o, o.label), _right(a, o.label)) for o, a, same in pairs if same == exact]
        lost, won = found.count((True, False)), found.count((False, True))
        return Counts(asked=len(found), lost=lost, won=won)

    def draws(self) -> tuple[int, int, int, int]:
        """Right ones and all of them, by the record and now, of the clips that were measured."""
        stored = [v for o, same in zip(self.stored, self.exact, strict=True) if same for v in o.verdicts]
        pairs = zip(self.stored, self.answers, self.exact, strict=True)
        found = [d == o.label for o, a, same in pairs if same for d in (a.draws or [-1])]
        return sum(stored), len(stored), sum(found), len(found)


def _right(answer: Outcome, label: int) -> bool:
    return share_right(answer, label) >= 0.5


class _Row:
    """Asks one row."""

    def __init__(self, setting: Setting, cells: Sequence[tuple[Cell, CellResult]], sample: Sample) -> None:
        self._setting, self._sample, self._cells = setting, sample, cells
        self._refs = setting.plan.refs
        self._engine = LocalEngine(setting.device)
        clean = next(cell for cell, _ in cells if cell.unit is None)
        self._suspect = suspect_of(setting, clean)
        absent = {o.clip for _, result in cells for o in result.outcomes if o.status == "missing"}
        there = [i for i, ref in enumerate(self._refs) if ref.id not in absent]
        key = f"{setting.salt} {clean.model.label} {clean.defense.label}"
        self._numbers = sorted(random.Random(key).sample(there, min(setting.clips, len(there))))
        self._clean = {i: self._load(self._refs[i]) for i in self._numbers}

    def _load(self, ref: ClipRef) -> Tensor:
        try:
            return self._setting.plan.dataset.load(ref)
        except (MissingClip, OSError, RuntimeError, ValueError) as error:
            raise BenchError(f"Clip {ref.id} is recorded, and cannot be loaded ({error}): get its file.") from error

    def ask(self, working_on: Callable[[str], None]) -> Iterator[VerifiedCell]:
        """What is attacked comes first: a process that has seen a clean clip may remember it."""
        if not self._numbers:
            return
        clip = self._clean[self._numbers[0]]
        room = room_of((cell for cell, _ in self._cells), clip, self._setting.device)
        batch = max(1, min(len(self._numbers), room.clips))
        with Alone(self._suspect, self._setting.device, batch, self._setting.salt) as alone:
            for cell, result in sorted(self._cells, key=lambda pair: pair[0].unit is None):
                working_on(f"{cell.defense.label}, {cell.attack_label}")
                yield self._asked(cell, result, alone, room)

    def _asked(self, cell: Cell, result: CellResult, alone: Alone, room: Room) -> VerifiedCell:
        stored = [result.outcomes[i] for i in self._numbers]
        clean = torch.stack([self._clean[i] for i in self._numbers])
        kept, spoiled, otherwise = _Again((), (), ()), 0, 0
        if cell.unit is None:
            again = _Again(stored, alone.ask(clean, DRAWS), [True] * len(stored))
        else:
            kept, spoiled = self._kept(cell.unit, result, alone)
            made = self._attacked(cell.unit, clean, stored, room)
            rows = list(zip(stored, made.traces, clean, made.clips, made.attacked, strict=True))
            exact = [as_recorded(o, t, c, m) for o, t, c, m, _ in rows]
            otherwise = sum(_begins_otherwise(o, t, c, m) for o, t, c, m, attacked in rows if attacked)
            again = _Again(stored, alone.ask(made.clips, DRAWS), exact)
        randomised = cell.defended.stochastic
        both = [*zip(kept.draws(), again.draws(), strict=True)]
        return VerifiedCell(
            grid=self._setting.plan.grid.name,
            model=cell.model.label,
            defense=cell.defense.label,
            attack=cell.attack_label,
            budget=cell.threat,
            kept=kept.counts(True),
            exact=again.counts(True),
            other=again.counts(False),
            spoiled=spoiled,
            begun_otherwise=otherwise,
            draws=(sum(both[0]), sum(both[1]), sum(both[2]), sum(both[3])) if randomised else None,
        )

    def _kept(self, unit: ClipsUnit, result: CellResult, alone: Alone) -> tuple[_Again, int]:
        """The clips of the sample, and how many of them are not what was measured."""
        numbers = self._sample.numbers(unit, self._refs)
        drawn = random.Random(f"{self._setting.salt} {unit.id}").sample(numbers, min(self._setting.clips, len(numbers)))
        stored, clips, spoiled = list[Outcome](), list[Tensor](), 0
        for number in sorted(drawn):
            outcome, clean = result.outcomes[number], self._load(self._refs[number])
            clip = self._sample.load(unit, number, self._refs[number], clean)
            if outcome.status not in ("ok", "invalid"):  # there is no answer, which counts as a wrong one
                continue
            good = outcome.status == "ok"
            if (
                clip is None
                or good != (violation(clean, clip, unit.budget) is None)
                or not _sized(outcome, clean, clip)
            ):
                spoiled += 1
            elif good:
                stored.append(outcome)
                clips.append(clip)
        answers = alone.ask(torch.stack(clips), DRAWS) if clips else []
        return _Again(stored, answers, [True] * len(stored)), spoiled

    def _attacked(self, unit: ClipsUnit, clean: Tensor, stored: Sequence[Outcome], room: Room) -> Adversarial:
        refs = [self._refs[i] for i in self._numbers]
        skip = [o.status == "ok" and not o.attacked for o in stored]
        made = room.each(len(refs), lambda which: self._engine.attack(unit, refs[which], clean[which], skip[which]))
        if any(part.clips.shape[1:] != clean.shape[1:] for part in made):
            raise BenchError(f"{unit.attack.label} returns clips of another shape: no judge takes them.")
        return Adversarial.joined(made)


def _sized(stored: Outcome, clean: Tensor, clip: Tensor) -> bool:
    """Whether a kept clip is as large as recorded; one that breaks its budget is judged by that alone."""
    return stored.status != "ok" or as_recorded(stored, stored.trace, clean, clip)


def _begins_otherwise(stored: Outcome, trace: Sequence[float | None], clean: Tensor, made: Tensor) -> bool:
    """Whether an attack did not begin where it is recorded to have begun: its first loss is taken where the clip, and
    a random start, which is seeded, lead; noise, which asks no network, is the same everywhere."""
    if stored.status != "ok":
        return False
    if not stored.trace or not trace:
        size = distances(clean, made).l2
        asked = bool(stored.trace) != bool(trace)
        return asked or (stored.forwards == 0 and not _near(stored.l2, size, _SIZE_RELATIVE, 1e-6))
    return not _near(stored.trace[0], trace[0], _LOSS_RELATIVE, _LOSS_ABSOLUTE)


def _near(a: float | None, b: float | None, relative: float, absolute: float) -> bool:
    if a is None or b is None:
        return a is b
    return abs(a - b) <= relative * max(abs(a), abs(b)) + absolute


def ask_again(
    setting: Setting,
    results: Sequence[CellResult],
    sample: Sample,
    *,
    defense: str | None = None,
    working_on: Callable[[str], None] = lambda what: None,
) -> list[VerifiedCell]:
    """Judges, and attacks, drawn clips of rows again.

    Args:
        setting: ``clips`` of each row are drawn by ``salt``.
        results: of the plan; cells that the plan has not are passed over.
        sample: adversarial clips that were kept.
        defense: label of the only row that is asked; all if not given.
        working_on: is told what is asked.

    Raises:
        BenchError: a recorded clip cannot be loaded, or the defence cannot be made in a process of its own.
    """
    known = {(r.model, r.defense, r.attack, r.budget): r for r in results}
    rows: dict[tuple[str, str], list[tuple[Cell, CellResult]]] = {}
    for cell in setting.plan.cells:
        result = known.get((cell.model.label, cell.defense.label, cell.attack_label, cell.threat))
        if result is not None and defense in (None, cell.defense.label):
            rows.setdefault((cell.model.label, cell.defense.label), []).append((cell, result))
    return [verified for cells in rows.values() for verified in _Row(setting, cells, sample).ask(working_on)]


def doubts(cells: Sequence[VerifiedCell]) -> list[str]:
    """Why a row cannot be believed, a sentence each.

    - A clip that was measured (kept, or attacked again and exactly as recorded) and is recorded as right must be right.
    - Of the others, which machines make otherwise, no more may be lost than won by chance (sign test, 2.5 %).
    - Attacks begin where they are recorded to begin.
    - Kept clips are whole, within their budget, and of the recorded size.
    - A randomised defence is right in as large a share of its draws: the 95 % Wilson intervals overlap.

    Args:
        cells: of one row.
    """
    total, exact = Counts(), Counts()
    for cell in cells:
        total += cell.other
        exact += cell.kept + cell.exact
    found = [*_spoiled(cells)]
    randomised = any(cell.draws for cell in cells)
    if exact.lost and not randomised:
        found.append(
            f"{exact.lost} of {exact.asked} measured clips are recorded as right, and are wrong ({_where(cells)})."
        )
    if exact.won > max(1.0, _OTHERWISE * exact.asked) and not randomised:
        found.append(f"{exact.won} of {exact.asked} measured clips are recorded as wrong, and are right.")
    if total.lost and _sign_test(total.lost, total.won) < _LEVEL:
        found.append(
            f"Attacked again, {total.lost} clips are wrong that are recorded as right, and {total.won} the other way "
            f"round ({_where(cells)})."
        )
    return [*found, *_of_draws(cells)]


def _where(cells: Sequence[VerifiedCell]) -> str:
    return ", ".join(cell.attack for cell in cells if cell.total.lost)


def _spoiled(cells: Sequence[VerifiedCell]) -> Iterator[str]:
    if spoiled := sum(cell.spoiled for cell in cells):
        kept = spoiled + sum(cell.kept.asked for cell in cells)
        names = ", ".join(cell.attack for cell in cells if cell.spoiled)
        yield f"{spoiled} of {kept} kept clips are torn, leave their budget, or are not the measured ones ({names})."
    for cell in cells:
        attacked = cell.exact.asked + cell.other.asked
        if cell.begun_otherwise > max(1.0, _OTHERWISE * attacked):
            yield f"{cell.attack} begins otherwise than recorded on {cell.begun_otherwise} of {attacked} clips."


def _of_draws(cells: Sequence[VerifiedCell]) -> Iterator[str]:
    for cell in cells:
        was_right, was, is_right, now = cell.draws or (0, 0, 0, 0)
        (low, _), (_, most) = wilson(was_right, was), wilson(is_right, now)
        if low > most:
            yield f"{cell.attack}: {is_right} of {now} draws are right, and {was_right} of {was} by the record."


def _sign_test(lost: int, won: int) -> float:
    """How likely so many losses among all that changed are, if either way is as likely."""
    n = lost + won
    return float(sum(math.comb(n, k) for k in range(lost, n + 1)) / 2**n)
