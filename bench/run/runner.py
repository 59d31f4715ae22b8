"""Drives a plan: makes what is not in the store yet, batch by batch, and writes each batch as it comes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from bench.data.base import ClipRef, MissingClip
from bench.defense.defended import DefendedClassifier
from bench.errors import BenchError, Impossible
from bench.faults import Failure, MachineFault, charge_no_machine
from bench.origins import check_origins
from bench.plan.cells import Cell, ClipsUnit, Plan
from bench.records.description import Skipped
from bench.records.identity import digest
from bench.records.outcome import Flaw, Outcome
from bench.run.control import compare
from bench.run.engine import LocalEngine
from bench.run.guard import Guard
from bench.run.store import Adversarial, LostClips, Store
from bench.weights.files import fingerprint

# Clips of each adaptive cell that the zero-budget control attacks, and the steps it takes: enough to notice a pipeline
# that changes while it is asked.
CONTROL_CLIPS = 4
_CONTROL_STEPS = 2
# Clean clips kept in memory between cells.
_CACHE_BYTES = 1 << 30


class Progress(Protocol):
    """What the runner tells whoever watches."""

    def begin(self, work: float, clips: int, cells: int) -> None:
        """Totals of what is left to do: work in forward-pass equivalents, clip outcomes, cells."""

    def working_on(self, what: str) -> None:
        """A unit or a cell begins."""

    def advance(self, work: float, clips: int, cells: int) -> None:
        """So much was done and stored."""


@dataclass(frozen=True)
class _Suspect:
    """Who is at work on a batch: in words, and the network that is asked, if one is."""

    name: str
    network: nn.Module | None


class Silent:
    """A progress display for nobody."""

    def begin(self, work: float, clips: int, cells: int) -> None: ...

    def working_on(self, what: str) -> None: ...

    def advance(self, work: float, clips: int, cells: int) -> None: ...


class Runner:
    """Runs a plan against a store.

    Args:
        batch_size: clips per batch, or ``None`` to choose. A choice is remembered in the store, so that a
            run that continues a killed one forms the same batches and ends with the same result.
        retry: run clips again that failed, were missing or came back invalid.
        control: clips of each adaptive cell that are also attacked with a budget of size 0, see
            :class:`bench.records.outcome.Control`; 0 for none.
        fail_fast: stop at the first clip with which a component fails, in place of charging it.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        engine: LocalEngine,
        *,
        batch_size: int | None = None,
        retry: bool = False,
        control: int = CONTROL_CLIPS,
        fail_fast: bool = False,
        progress: Progress | None = None,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise BenchError(f"--batch-size must be at least 1 or auto, not {batch_size}.")
        self.plan, self.store, self.engine = plan, store, engine
        self.progress: Progress = progress or Silent()
        self._asked_size = batch_size
        self._retry, self._control_clips, self._fail_fast = retry, control, fail_fast
        self._cache: OrderedDict[str, Tensor] = OrderedDict()
        self._cached_bytes = 0
        self._limit = 1  # clips that the memory has room for, as far as the cell at work has shown
        self._guard: Guard | None = None
        self._clean_cells = {(c.model.label, c.defense.label): c for c in plan.cells if c.knowledge == "clean"}

    def run(self) -> None:
        """Brings every cell of the plan up to date. One whose attack turns out not to exist for its row is moved to
        the plan's ``skipped``, with the reason.

        Raises:
            BenchError: an attack turns out not to exist for any row, a classifier's weights are not those that were
                loaded, or a component fails where that is to stop the run; everything computed so far is stored.
            MachineFault: the disk, the memory or the device failed; so it is then.
        """
        check_origins()
        if self._retry:
            self._forget_flawed()
        pending = {c.id: self._pending(self.store.done(c.id)) for c in self.plan.cells}
        open_cells = [c for c in self.plan.cells if pending[c.id]]
        self._check_classifiers(open_cells)
        self._guard = Guard(self._loaded_classifiers())
        units = {c.unit.id: c.unit for c in open_cells if c.unit and c.unit.shared}
        unmade = {u: self._pending(self.store.clips_done(u)) for u in units}
        work = sum(_weight(units[u]) * len(refs) for u, refs in unmade.items())
        work += sum(_cell_weight(c) * len(pending[c.id]) for c in open_cells)
        self.progress.begin(work, sum(len(pending[c.id]) for c in open_cells), len(open_cells))
        refused: dict[str, str] = {}
        for cell in open_cells:
            try:
                if cell.unit and unmade.get(cell.unit.id):
                    self._make_clips(cell.unit, cell, unmade[cell.unit.id])
                    del unmade[cell.unit.id]
                self._run_cell(cell, pending[cell.id])
            except Impossible as error:
                refused[cell.attack_label] = str(error)
                self._leave_out(cell, str(error), pending[cell.id])
        for cell in filter(self._wants_control, self.plan.cells):
            self._control(cell)
        left = {c.attack_label for c in self.plan.cells}
        for label, reason in refused.items():
            if label not in left:  # of no row: a mistake in the grid, and not a gap in a table
                raise BenchError(reason)

    def _leave_out(self, cell: Cell, reason: str, pending: Sequence[ClipRef]) -> None:
        """Takes a cell out of the plan, as planning would have done, had it known."""
        self.plan.cells = [c for c in self.plan.cells if c is not cell]
        model, defense = cell.model.label, cell.defense.label
        self.plan.skipped.append(Skipped(model=model, defense=defense, attack=cell.attack_label, reason=reason))
        self.progress.advance(_cell_weight(cell) * len(pending), len(pending), 1)

    def _attack(self, unit: ClipsUnit, batch: Sequence[ClipRef], clips: Tensor, skip: Sequence[bool]) -> Adversarial:
        """The engine's attack; what it refuses does not exist for this row, and the others go on.

        Raises:
            Impossible: with the attack's sentence.
        """
        try:
            return self.engine.attack(unit, batch, clips, skip)
        except BenchError as error:
            raise Impossible(str(error)) from error

    def _forget_flawed(self) -> None:
        """Lets the clips that failed, were missing or came back invalid be run again."""
        for cell in self.plan.cells:
            self.store.forget(cell.id, ("failed", "missing"))
            invalid = self.store.forget(cell.id, ("invalid",))
            if cell.unit and cell.unit.shared:
                self.store.forget_clips(cell.unit.id, invalid)

    def _wants_control(self, cell: Cell) -> bool:
        """Whether a cell's attack goes through its defence, and no control of it is stored that may stay."""
        own_clips = cell.knowledge == "adaptive" and cell.unit is not None and not cell.unit.shared
        return own_clips and (self._retry or self.store.control(cell.id) is None)

    def _pending(self, done: set[str]) -> list[ClipRef]:
        return [r for r in self.plan.refs if r.id not in done]

    def _make_clips(self, unit: ClipsUnit, cell: Cell, refs: list[ClipRef]) -> None:
        """Makes and stores the shared adversarial clips of a unit."""
        self.progress.working_on(f"{cell.model.label}: making {cell.attack_label} clips")

        def work(batch: Sequence[ClipRef], clips: Tensor) -> Callable[[], None]:
            # Shared clips meet other defences, which may be right where the bare classifier is wrong: none is left out.
            adversarial = self._attack(unit, batch, clips, [False] * len(batch))
            return lambda: self.store.add_clips(unit.id, [r.id for r in batch], adversarial)

        def give_up(ref: ClipRef, flaw: Flaw) -> None:
            self.store.add_clip_error(unit.id, ref.id, flaw)

        self._watch(unit.defended)
        who = f"attack {cell.attack_label} on {cell.model.label}"
        for batch in self._batches(cell, refs):
            self._attempt(batch, work, give_up, _Suspect(who, unit.defended))
            self.progress.advance(_weight(unit) * len(batch), 0, 0)

    def _run_cell(self, cell: Cell, refs: list[ClipRef]) -> None:
        self.progress.working_on(f"{cell.model.label}: {cell.defense.label}, {cell.attack_label}")
        shared = cell.unit if cell.unit and cell.unit.shared else None
        errors = self.store.clip_errors(shared.id) if shared else {}
        mistaken = self._mistaken(cell) if cell.unit and not shared else set()
        settings = cell.identity.model_dump_json(exclude_defaults=True)

        def work(batch: Sequence[ClipRef], clips: Tensor) -> Callable[[], None]:
            adversarial: Adversarial | None = None
            if shared:
                adversarial = self._shared_clips(shared, batch, clips)
            elif cell.unit:
                adversarial = self._attack(cell.unit, batch, clips, [r.id in mistaken for r in batch])
            outcomes = self.engine.judge(cell, batch, clips, adversarial)
            return lambda: self.store.add(cell.id, settings, outcomes)

        def give_up(ref: ClipRef, flaw: Flaw) -> None:
            self.store.add(cell.id, settings, [Outcome.of_flaw(ref.id, ref.label, flaw)])

        suspect = self._suspect(cell)
        for batch in self._batches(cell, refs):
            for ref in batch:
                if ref.id in errors:
                    give_up(ref, errors[ref.id])
            self._attempt([r for r in batch if r.id not in errors], work, give_up, suspect)
            self.progress.advance(_cell_weight(cell) * len(batch), len(batch), 0)
        self.progress.advance(0, 0, 1)

    def _shared_clips(self, unit: ClipsUnit, batch: Sequence[ClipRef], clips: Tensor) -> Adversarial:
        """The stored adversarial clips of a batch; made again where somebody removed them or they are torn."""
        ids = [r.id for r in batch]
        try:
            return self.store.load_clips(unit.id, ids)
        except LostClips:
            made = self._attack(unit, batch, clips, [False] * len(batch))
            self.store.add_clips(unit.id, ids, made)
            return made

    def _control(self, cell: Cell) -> None:
        """Attacks a few clips with a budget of size 0 and stores whether their answers are those on the clean clips."""
        assert cell.unit is not None
        clean = self.store.outcomes(self._clean_cells[cell.model.label, cell.defense.label].id)
        refs = [r for r in self.plan.refs if r.id in clean and clean[r.id].status == "ok"][: self._control_clips]
        if not refs:
            return
        self.progress.working_on(f"{cell.model.label}: {cell.defense.label}, {cell.attack_label} with no budget")
        budget = cell.unit.budget
        nothing = replace(budget, size=0.0, steps=min(budget.steps, _CONTROL_STEPS), restarts=1)
        attack = replace(cell.unit.attack, instance=cell.unit.attack.instance.lighter())
        unit = replace(cell.unit, budget=nothing, attack=attack)
        attacked: list[Outcome] = []

        def work(batch: Sequence[ClipRef], clips: Tensor) -> Callable[[], None]:
            adversarial = self.engine.attack(unit, batch, clips, [False] * len(batch))
            outcomes = self.engine.judge(replace(cell, unit=unit), batch, clips, adversarial)
            return lambda: attacked.extend(outcomes)

        def give_up(ref: ClipRef, flaw: Flaw) -> None:
            attacked.append(Outcome.of_flaw(ref.id, ref.label, flaw))

        self._limit, suspect = self._batch_size(cell), self._suspect(cell)
        for batch in self._parts(refs):
            self._attempt(batch, work, give_up, suspect)
        self.store.add_control(cell.id, compare(attacked, [clean[o.clip] for o in attacked]))

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

    def _suspect(self, cell: Cell) -> _Suspect:
        """Whom a batch of a cell is charged to: its defence."""
        self._watch(cell.defended)
        who = f"defence {cell.defense.label} on {cell.model.label}, {cell.attack_label}"
        return _Suspect(who, cell.defended)

    def _watch(self, network: nn.Module | None) -> None:
        if self._guard is not None and network is not None:
            self._guard.begin([network])

    def _spoiled(self, suspect: _Suspect) -> str | None:
        """One sentence if the batch that was worked on changed what is not its own; all is put back then.

        Raises:
            BenchError: what it changed judges all others, too.
        """
        check_origins()
        networks = [suspect.network] if suspect.network is not None else []
        what = self._guard.complaint(networks) if self._guard is not None else None
        return f"while {suspect.name} was at work, it changed {what}, which it must leave alone" if what else None

    def _mistaken(self, cell: Cell) -> set[str]:
        """Clips of an adaptive cell that need no attack: a mistake on the clean clip is final for the deterministic
        pipeline that made it. One draw of a stochastic defence may err by chance."""
        if cell.unit is None or cell.unit.defended is None or cell.unit.defended.stochastic:
            return set()
        if cell.knowledge != "adaptive":  # made against a defence that is right or wrong elsewhere
            return set()
        clean = self.store.outcomes(self._clean_cells[cell.model.label, cell.defense.label].id)
        return {clip for clip, outcome in clean.items() if outcome.status == "ok" and not outcome.correct}

    def _batches(self, cell: Cell, refs: list[ClipRef]) -> Iterator[list[ClipRef]]:
        size = self._batch_size(cell)
        # Batches are cut from the whole list of the plan, so that what is left after a kill is whole ones.
        where = {r.id: i // size for i, r in enumerate(self.plan.refs)}
        groups: dict[int, list[ClipRef]] = {}
        for ref in refs:
            groups.setdefault(where[ref.id], []).append(ref)
        self._limit = size
        for group in groups.values():
            yield from self._parts(group)

    def _parts(self, refs: Sequence[ClipRef], most: int | None = None) -> Iterator[list[ClipRef]]:
        """Parts of a batch for which there is room, and of ``most`` clips; the room may shrink from one to the next."""
        done = 0
        while done < len(refs):
            part = list(refs[done : done + min(self._limit, most or self._limit)])
            yield part
            done += len(part)

    def _batch_size(self, cell: Cell) -> int:
        if self._asked_size is not None:
            return self._asked_size
        # What is attacked decides: a purifier with several candidates takes many times what the classifier takes.
        unit = cell.unit
        attacked = unit.defended if unit is not None and unit.defended is not None else cell.defended
        parts = (cell.model, cell.defense, unit.defense if unit else None, cell.dataset)
        settings = [part.identity.model_dump() if part else None for part in parts]
        key = digest([*settings, unit.gradient if unit else None, self.engine.device.type])
        return self.store.batch_size(key, lambda: self._choose_size(attacked, cell.defended))

    def _choose_size(self, *modules: DefendedClassifier) -> int:
        clip = self._any_clip()
        return 1 if clip is None else min(self._size_of(module, clip) for module in modules)

    def _size_of(self, defended: DefendedClassifier, clip: Tensor) -> int:
        try:
            return self.engine.batch_size(defended, clip)
        except BenchError:
            raise
        except Exception:  # noqa: BLE001 - with one clip a batch, whoever fails is told and charged
            return 1

    def _check_classifiers(self, cells: Sequence[Cell]) -> None:
        """Asks every classifier that has work to do once."""
        clip = self._any_clip() if cells else None
        if clip is not None:
            needed = 1 + max(ref.label for ref in self.plan.refs)
            for model in {c.model.label: c.model for c in cells}.values():
                self.engine.check_classifier(model.instance, model.label, clip, needed, len(self.plan.dataset.classes))

    def _any_clip(self) -> Tensor | None:
        clips = (self._try_load(ref) for ref in self.plan.refs)
        return next((clip for clip in clips if isinstance(clip, Tensor)), None)

    def _load(self, ref: ClipRef) -> Tensor:
        if ref.id not in self._cache:
            clip = self.plan.dataset.load(ref)
            self._cache[ref.id] = clip
            self._cached_bytes += clip.numel() * clip.element_size()
            while self._cached_bytes > _CACHE_BYTES and len(self._cache) > 1:
                _, old = self._cache.popitem(last=False)
                self._cached_bytes -= old.numel() * old.element_size()
        return self._cache[ref.id]

    def _try_load(self, ref: ClipRef) -> Tensor | Flaw:
        """A clip, or why there is none."""
        try:
            return self._load(ref)
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

    def _attempt(
        self,
        batch: Sequence[ClipRef],
        work: Callable[[Sequence[ClipRef], Tensor], Callable[[], None]],
        give_up: Callable[[ClipRef, Flaw], None],
        suspect: _Suspect,
    ) -> None:
        """Works on a batch; if that raises, on each clip alone, so that only the guilty ones are charged. Where memory
        is lacking, on halves of it.

        Nothing of it is kept where weights or modes are other ones afterwards than before: see :class:`Guard`.

        Args:
            work: returns what keeps its result.
            give_up: keeps a flaw in place of one.
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
                give_up(ref, clip)
        if not loaded:
            return
        keep: Callable[[], None] | None = None
        failure = Failure("", "")
        try:
            keep = work(loaded, torch.stack(clips))
        except BenchError:
            self._spoiled(suspect)
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - recorded with the clip, shown in every table, never robust
            failure = Failure.of(error)
        # Out of the except block: its traceback would keep the tensors of the failed batch alive.
        spoiled = self._spoiled(suspect)
        if keep is not None and spoiled is None:
            keep()
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
            for ref in loaded:
                give_up(ref, flaw)
            return
        if failure.memory:
            self._limit = min(self._limit, len(loaded) // 2)
        for part in self._parts(loaded, None if failure.memory else 1):
            self._attempt(part, work, give_up, suspect)

    def _check_patience(self, suspect: _Suspect, refs: Sequence[ClipRef], flaw: Flaw) -> None:
        """Stops where one failure is enough."""
        if self._fail_fast:
            ids = ", ".join(ref.id for ref in refs)
            raise BenchError(f"{flaw.error}, from {suspect.name}, on {ids}.\n{flaw.traceback}".rstrip())


def _clips(count: int) -> str:
    return "one clip" if count == 1 else f"{count} clips"


def _weight(unit: ClipsUnit) -> float:
    """Work of one clip of a unit, in forward passes; a backward pass counts twice."""
    forwards, backwards = unit.passes
    return forwards + 2 * backwards


def _cell_weight(cell: Cell) -> float:
    return cell.queries + (_weight(cell.unit) if cell.unit and not cell.unit.shared else 0)
