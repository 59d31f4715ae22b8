"""What is done with one batch: loaded, attacked, judged, and charged to whoever failed. It knows of no store.

A task names a cell, or the unit whose clips it shows, and clips; all of it can be sent to another process, which has
made the same plan for itself. So every engine does the same work in the same way, wherever it does it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from bench.data.base import ClipRef, MissingClip
from bench.errors import BenchError, Impossible
from bench.faults import Failure, MachineFault, charge_no_machine
from bench.origins import check_origins
from bench.plan.cells import Cell, ClipsUnit, Plan
from bench.records.identity import digest
from bench.records.outcome import Flaw, Outcome
from bench.run.engine import LocalEngine
from bench.run.guard import Guard
from bench.run.loading import Frames, Loader
from bench.run.store import Adversarial, Coded, LostClips
from bench.weights.files import fingerprint

Kind = Literal["make", "run", "control"]
"""``make`` shared clips of a unit, ``run`` a cell, or ``control`` it: attack with a budget of size 0."""

# Steps of the zero-budget control: enough to notice a pipeline that changes while it is asked.
_CONTROL_STEPS = 2


@dataclass(frozen=True, eq=False)
class Task:
    """What is asked of whoever works on a batch.

    Attributes:
        work: id of the cell, or of the unit whose clips are to be made.
        cell: id of the cell; of the first one that needs the clips, if those are to be made.
        clips: their ids.
        size: clips for which there is room, as far as is known.
        skip: ids of those that are wrong without an attack, which is then final.
        made: shared adversarial clips, in the order of ``clips``; ``None`` where there are none, or where they were
            lost and are to be made again.
        keep: whether adversarial clips that are made for this cell alone are handed back, too.
    """

    kind: Kind
    work: str
    cell: str
    clips: tuple[str, ...]
    size: int
    skip: frozenset[str] = frozenset()
    made: Coded | None = None
    keep: bool = False


@dataclass(frozen=True)
class Part:
    """What came of some clips of a task: of each an outcome, an adversarial clip or a flaw.

    Attributes:
        clips: their ids.
        outcomes: in that order; of tasks that judge.
        made: adversarial clips that are to be stored, in that order.
        flaws: in place of both.
    """

    clips: tuple[str, ...]
    outcomes: list[Outcome] = field(default_factory=list)
    made: Coded | None = None
    flaws: dict[str, Flaw] = field(default_factory=dict)


@dataclass(frozen=True)
class _Suspect:
    """Who is at work on a batch: in words, and the network that is asked, if one is."""

    name: str
    network: nn.Module | None


_Work = Callable[[Sequence[ClipRef], Tensor], Part]


class Worker:
    """Works on batches of a plan, with the networks of that plan.

    Args:
        fail_fast: stop at the first clip with which a component fails, in place of charging it.
        frames: where decoded clips are kept, so that each is decoded once; in memory alone if not given.
        in_order: whether batches come in the order of the plan's clips, as where there are no other workers: then the
            next ones are loaded while one is worked on.
    """

    def __init__(
        self,
        plan: Plan,
        engine: LocalEngine,
        *,
        fail_fast: bool = False,
        frames: Frames | None = None,
        in_order: bool = False,
    ) -> None:
        self.plan, self.engine, self._fail_fast = plan, engine, fail_fast
        self._cells = {c.id: c for c in plan.cells}
        self._refs = {r.id: r for r in plan.refs}
        self._in_order = in_order
        identities = [cell.dataset.identity.model_dump() for cell in plan.cells[:1]]
        self._loader = Loader(plan.dataset, digest(identities), frames)
        self._limits: dict[tuple[Kind, str], int] = {}  # clips that the memory has room for, as far as is known
        self._at: tuple[Kind, str] = ("run", "")  # what was worked on last
        self._guard: Guard | None = None

    def check(self, labels: Sequence[str]) -> None:
        """Asks classifiers once, by their labels.

        Raises:
            BenchError: one does not take the clips, or knows fewer classes than they have.
        """
        clip = self._any_clip() if labels else None
        if clip is None:
            return
        needed = 1 + max(ref.label for ref in self.plan.refs)
        models = {c.model.label: c.model for c in self._cells.values()}
        for label in labels:
            self.engine.check_classifier(models[label].instance, label, clip, needed, len(self.plan.dataset.classes))

    def batch_size(self, cell: str) -> int:
        """Clips of a cell for which there is room; 0 if that could not be found out."""
        clip = self._any_clip()
        if clip is None:
            return 1
        try:
            return self.engine.batch_size(self._cells[cell], clip)
        except BenchError:
            raise
        except Exception:  # noqa: BLE001 - with one clip a batch, whoever fails is told and charged
            return 0

    def parts(self, task: Task) -> Iterator[Part]:
        """Does what a task asks for, part by part as the memory has room.

        Raises:
            Impossible: the attack does not exist for its row.
            BenchError: a classifier's weights are not those that were loaded, something changed what judges all
                others, or a component fails where that is to stop the run.
            MachineFault: nobody is charged with what the machine could not do.
        """
        if self._guard is None:
            check_origins()
            self._guard = Guard(self._loaded_classifiers())
        cell, at = self._cells[task.cell], (task.kind, task.work)
        suspect, work = self._job(task, cell)
        if at != self._at:
            self._at = at
            self._guard.begin([suspect.network] if suspect.network is not None else [])
        self._limits.setdefault(at, task.size)
        if self._in_order and task.clips:
            self._look_ahead(task.clips[-1])
        for batch in self._split([self._refs[i] for i in task.clips]):
            yield from self._attempt(batch, work, suspect)

    def _job(self, task: Task, cell: Cell) -> tuple[_Suspect, _Work]:
        """Who is charged with a task, and what is done."""
        unit = cell.unit
        if task.kind == "make":
            assert unit is not None
            suspect = _Suspect(f"attack {cell.attack_label} on {cell.model.label}", unit.defended)
            return suspect, lambda refs, clips: self._make(unit, refs, clips)
        suspect = _Suspect(f"defence {cell.defense.label} on {cell.model.label}, {cell.attack_label}", cell.defended)
        if task.kind == "run":
            return suspect, lambda refs, clips: self._run(task, cell, refs, clips)
        assert unit is not None
        nothing = replace(unit.budget, size=0.0, steps=min(unit.budget.steps, _CONTROL_STEPS), restarts=1)
        lighter = replace(unit.attack, instance=unit.attack.instance.lighter())
        idle = replace(cell, unit=replace(unit, budget=nothing, attack=lighter))
        return suspect, lambda refs, clips: self._control(idle, refs, clips)

    def _make(self, unit: ClipsUnit, refs: Sequence[ClipRef], clips: Tensor) -> Part:
        # Shared clips meet other defences, which may be right where the bare classifier is wrong: none is left out.
        return Part(_ids(refs), made=Coded.of(clips, self._attack(unit, refs, clips, [False] * len(refs))))

    def _run(self, task: Task, cell: Cell, refs: Sequence[ClipRef], clips: Tensor) -> Part:
        unit = cell.unit
        if unit is None:
            return Part(_ids(refs), self.engine.judge(cell, refs, clips, None))
        if not unit.shared:
            adversarial = self._attack(unit, refs, clips, [r.id in task.skip for r in refs])
            outcomes = self.engine.judge(cell, refs, clips, adversarial)
            return Part(_ids(refs), outcomes, Coded.of(clips, adversarial) if task.keep else None)
        adversarial, again = self._shared(task, unit, refs, clips)
        return Part(_ids(refs), self.engine.judge(cell, refs, clips, adversarial), again)

    def _shared(
        self, task: Task, unit: ClipsUnit, refs: Sequence[ClipRef], clips: Tensor
    ) -> tuple[Adversarial, Coded | None]:
        """The shared clips that a task brings; those that were lost are made again, and are to be stored."""
        if task.made is not None:
            with suppress(LostClips):
                return task.made.select([task.clips.index(r.id) for r in refs]).decoded(clips), None
        made = self._attack(unit, refs, clips, [False] * len(refs))
        return made, Coded.of(clips, made)

    def _control(self, cell: Cell, refs: Sequence[ClipRef], clips: Tensor) -> Part:
        assert cell.unit is not None
        adversarial = self.engine.attack(cell.unit, refs, clips, [False] * len(refs))
        return Part(_ids(refs), self.engine.judge(cell, refs, clips, adversarial))

    def _attack(self, unit: ClipsUnit, refs: Sequence[ClipRef], clips: Tensor, skip: Sequence[bool]) -> Adversarial:
        """The engine's attack; what it refuses does not exist for this row, and the others go on."""
        try:
            return self.engine.attack(unit, refs, clips, skip)
        except BenchError as error:
            raise Impossible(str(error)) from error

    def _loaded_classifiers(self) -> dict[str, nn.Module]:
        """The bare classifiers, those to transfer from among them, with the weights that the plan found in them."""
        units = [c.unit.model for c in self.plan.cells if c.unit and c.unit.model]
        models = {m.label: m for m in (*(c.model for c in self.plan.cells), *units)}
        for model in models.values():
            if model.identity.weights and fingerprint(model.instance) != model.identity.weights:
                raise BenchError(
                    f"The weights of classifier {model.label} are not those that were loaded: one of the defences "
                    f"({', '.join({c.defense.label: None for c in self.plan.cells})}) changed them when it was made."
                )
        return {label: model.instance for label, model in models.items()}

    def _spoiled(self, suspect: _Suspect) -> str | None:
        """One sentence if the batch that was worked on changed what is not its own; all is put back then.

        Raises:
            BenchError: what it changed judges all others, too.
        """
        check_origins()
        networks = [suspect.network] if suspect.network is not None else []
        what = self._guard.complaint(networks) if self._guard is not None else None
        return f"while {suspect.name} was at work, it changed {what}, which it must leave alone" if what else None

    def _split(self, refs: Sequence[ClipRef], most: int | None = None) -> Iterator[list[ClipRef]]:
        """Parts of a batch for which there is room, and of ``most`` clips; the room may shrink from one to the next."""
        done = 0
        while done < len(refs):
            limit = self._limits[self._at]
            part = list(refs[done : done + min(limit, most or limit)])
            yield part
            done += len(part)

    def _attempt(self, batch: Sequence[ClipRef], work: _Work, suspect: _Suspect) -> Iterator[Part]:
        """Works on a batch; if that raises, on each clip alone, so that only the guilty ones are charged. Where memory
        is lacking, on halves of it.

        Nothing of it is kept where weights or modes are other ones afterwards than before: see :class:`Guard`.

        Args:
            suspect: who is at work.

        Raises:
            MachineFault: nobody is charged with what the machine could not do.
        """
        loaded: list[ClipRef] = []
        clips: list[Tensor] = []
        for ref in batch:
            clip = self._try_load(ref)
            if isinstance(clip, Tensor):
                loaded.append(ref)
                clips.append(clip)
            else:
                yield Part((ref.id,), flaws={ref.id: clip})
        if not loaded:
            return
        part: Part | None = None
        failure = Failure("", "")
        try:
            part = work(loaded, self.engine.stacked(clips))
        except BenchError:
            self._spoiled(suspect)
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - recorded with the clip, shown in every table, never robust
            failure = Failure.of(error)
        # Out of the except block: its traceback would keep the tensors of the failed batch alive.
        spoiled = self._spoiled(suspect)
        if part is not None and spoiled is None:
            yield part
            return
        if self.engine.device.type == "cuda":
            torch.cuda.empty_cache()
        whole_batch = spoiled is not None or len(loaded) == 1
        if failure.machine and (whole_batch or not failure.memory):
            raise MachineFault(
                f"{failure.machine[0].upper()}{failure.machine[1:]}: {suspect.name} was at work on "
                f"{_clips(len(loaded))}. No clip is charged; every finished batch is stored, and the same command goes "
                "on from there."
            )
        if whole_batch:
            flaw = Flaw("failed", spoiled or failure.message, failure.traceback)
            self._check_patience(suspect, loaded, flaw)
            yield Part(_ids(loaded), flaws={ref.id: flaw for ref in loaded})
            return
        if failure.memory:
            self._limits[self._at] = min(self._limits[self._at], len(loaded) // 2)
        for smaller in self._split(loaded, None if failure.memory else 1):
            yield from self._attempt(smaller, work, suspect)

    def _check_patience(self, suspect: _Suspect, refs: Sequence[ClipRef], flaw: Flaw) -> None:
        """Stops where one failure is enough."""
        if self._fail_fast:
            ids = ", ".join(ref.id for ref in refs)
            raise BenchError(f"{flaw.error}, from {suspect.name}, on {ids}.\n{flaw.traceback}".rstrip())

    def _any_clip(self) -> Tensor | None:
        clips = (self._try_load(ref) for ref in self.plan.refs)
        return next((clip for clip in clips if isinstance(clip, Tensor)), None)

    def _look_ahead(self, last: str) -> None:
        """Has the clips loaded that come after one: the rest of the plan's, and then its first again."""
        ids = list(self._refs)
        after = ids.index(last) + 1
        self._loader.expect(self._refs[i] for i in (*ids[after:], *ids[: after - 1]))

    def close(self) -> None:
        """Ends what is done in the background."""
        self._loader.close()

    def _try_load(self, ref: ClipRef) -> Tensor | Flaw:
        """A clip, or why there is none."""
        try:
            return self._loader.load(ref)
        except MissingClip as error:
            root = getattr(self.plan.dataset, "root", None)
            if root is not None and not Path(root).exists():  # a drive that is gone, and not this clip
                raise MachineFault(
                    f"The folder of the data set, {root}, is gone: bring it back, and the same command goes on."
                ) from error
            return Flaw("missing", self._placeless(error))
        except Exception as error:
            charge_no_machine(error, f"Clip {ref.id} cannot be loaded")
            if not isinstance(error, (BenchError, OSError, RuntimeError, ValueError)):
                raise
            return Flaw("failed", f"cannot be loaded: {self._placeless(error)}")

    def _placeless(self, error: Exception) -> str:
        """The message without the place of the files on this machine, on which no result file may depend."""
        root = getattr(self.plan.dataset, "root", None)
        return str(error).replace(str(root), "DATA_ROOT") if root else str(error)


def _ids(refs: Sequence[ClipRef]) -> tuple[str, ...]:
    return tuple(r.id for r in refs)


def _clips(count: int) -> str:
    return "one clip" if count == 1 else f"{count} clips"
