"""What a process of its own answers to clips that were attacked, against what is stored of them.

A defence that reads labels or clean clips where it is judged, remembers, knows the test clips by heart, or behaves when
it is audited, has other answers there (:mod:`bench.run.alone`) than in the run.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from bench.audit.outcomes import Evidence, more_than_chance
from bench.audit.probes import ProbedRow, slopes_as_probed
from bench.data.base import ClipRef, Missing
from bench.defense.nature import PLAIN
from bench.errors import BenchError
from bench.faults import charge_no_machine
from bench.plan.cells import Cell, ClipsUnit, Plan
from bench.records.audits import Finding, Severity
from bench.records.metrics import wilson
from bench.records.outcome import Outcome
from bench.registry import MODELS, Spec
from bench.run.alone import Alone, Suspect, defended_weights
from bench.run.engine import LocalEngine
from bench.run.judge import distances
from bench.run.store import Adversarial, LostClips, Store
from bench.seeds import ClipRandom
from bench.weights.zoo import find_weights

# Clips whose gradients are compared, and the share of values that must point the same way.
_SLOPES, _ALIKE = 4, 0.9
DRAWS = 10
"""Of a randomised defence, per clip."""


@dataclass(frozen=True, kw_only=True)
class AskedCell:
    """One cell, asked again: stored outcomes and answers, clip by clip.

    Attributes:
        same: whether a clip is the one that was measured, as far as its record tells.
    """

    label: str
    stored: Sequence[Outcome]
    answers: Sequence[Outcome]
    same: Sequence[bool]


@dataclass(kw_only=True)
class Asked:
    """What asking a row came to.

    Attributes:
        clips: clips that were asked again; fresh: clips that were drawn for it.
        dear: what was left out because it takes too long, in words.
    """

    findings: list[Finding] = field(default_factory=list)
    clips: int = 0
    fresh: int = 0
    dear: str = ""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How the rows of a plan are asked.

    Attributes:
        clips: how many of each row.
        salt: seeds all random numbers of the audit.
        seconds: that one row may take, as far as can be told before.
        store: of the run, if it is there: shared clips are taken from it.
        data_root, checkpoint: as for :func:`bench.plan.expand.make_plan`.
    """

    plan: Plan
    clips: int
    salt: str
    device: torch.device
    seconds: float
    store: Path | None = None
    data_root: Path | None = None
    checkpoint: Path | None = None


def as_recorded(stored: Outcome, trace: Sequence[float | None], clean: Tensor, made: Tensor) -> bool:
    """Whether a clip that was attacked again is the one that was measured, by its loss at every step and its size.

    Args:
        clean, made: ``(3, T, H, W)``.
    """
    size = distances(clean, made)
    return (
        stored.status == "ok"
        and stored.trace == trace
        and stored.l2 == float(f"{size.l2:.4g}")
        and stored.changed == float(f"{size.changed:.4g}")
    )


def share_right(answer: Outcome, label: int) -> float:
    """How often an answer is right."""
    if answer.status != "ok":
        return 0.0
    return (
        sum(d == label for d in answer.draws) / len(answer.draws) if answer.draws else float(answer.prediction == label)
    )


def answers_agree(cells: Sequence[AskedCell]) -> list[Finding]:
    """Answers of a process that knows nothing must be the stored ones.

    Of a deterministic defence clip by clip, where the record says that the clip is the one that was measured; where it
    is another (made on another machine), more of them may not be lost than won, by a sign test. Of a randomised one,
    the 95 % Wilson intervals of the shares of right draws must overlap.
    """
    if any(o.draws for cell in cells for o in cell.stored):
        return _draws_agree(cells)
    lost: dict[str, list[str]] = {}
    other: dict[str, list[str]] = {}
    wins = losses = 0
    for cell in cells:
        for stored, answer, same in zip(cell.stored, cell.answers, cell.same, strict=True):
            was, right = share_right(stored, stored.label) > 0, share_right(answer, stored.label) > 0
            wins, losses = wins + (was and not right and not same), losses + (right and not was and not same)
            if same and was and not right:
                lost.setdefault(cell.label, []).append(stored.clip)
            elif same and stored.status == "ok" and _answer(stored) != _answer(answer):
                other.setdefault(cell.label, []).append(stored.clip)
    findings = []
    if lost:
        message = (
            f"{_count(lost)} answers that are stored as right are wrong in a process of its own that is handed clips "
            "alone: the defence knew more than the clip."
        )
        findings.append(Finding(check="alone", severity="fault", message=message, cells=list(lost), clips=_every(lost)))
    if more_than_chance(wins, losses) and wins:
        message = (
            f"Attacked again, {wins} clips are wrong in a process of its own that are stored as right, and {losses} "
            "the other way round."
        )
        findings.append(Finding(check="alone", severity="fault", message=message, cells=[c.label for c in cells]))
    if other:
        message = f"{_count(other)} answers in a process of its own are others than the stored ones."
        findings.append(
            Finding(check="alone", severity="warning", message=message, cells=list(other), clips=_every(other))
        )
    return findings


def _answer(outcome: Outcome) -> tuple[str, int | None, list[int | None]]:
    return outcome.status, outcome.prediction, outcome.votes


def _count(found: Mapping[str, list[str]]) -> int:
    return sum(map(len, found.values()))


def _every(found: Mapping[str, list[str]]) -> list[str]:
    return list(dict.fromkeys(clip for clips in found.values() for clip in clips))


def _draws_agree(cells: Sequence[AskedCell]) -> list[Finding]:
    findings = []
    for cell in cells:
        stored = [v for o in cell.stored for v in o.verdicts]
        asked = [d == o.label for o, a in zip(cell.stored, cell.answers, strict=True) for d in (a.draws or [-1])]
        (low, high), (least, most) = wilson(sum(stored), len(stored)), wilson(sum(asked), len(asked))
        if low > most or least > high:
            message = (
                f"{sum(asked)} of {len(asked)} draws are right in a process of its own that is handed clips alone, "
                f"{sum(stored)} of {len(stored)} of the stored ones."
            )
            severity: Severity = "fault" if low > most else "warning"
            findings.append(Finding(check="alone", severity=severity, message=message, cells=[cell.label]))
    return findings


def fresh_clips_agree(
    label: str, stored: Sequence[Outcome], answers: Sequence[Outcome], labels: Sequence[int]
) -> Finding | None:
    """Clips that nobody had seen must be as right as those that were measured: the 95 % Wilson intervals overlap.

    Args:
        label: of the attack.
        stored: outcomes of clips that the bare classifier gets right without an attack.
        answers, labels: of fresh such clips.
    """
    if not stored or not answers:
        return None
    before = sum(share_right(o, o.label) for o in stored)
    now = sum(share_right(a, label) for a, label in zip(answers, labels, strict=True))
    low, _ = wilson(before, len(stored))
    _, most = wilson(now, len(answers))
    if low <= most:
        return None
    message = (
        f"{label}: {now:.3g} of {len(answers)} clips are right that were drawn for this audit, {before:.3g} of "
        f"{len(stored)} of those that were measured: the defence knows them."
    )
    return Finding(check="fresh clips", severity="fault", message=message, cells=[label])


def suspect_of(setting: Setting, cell: Cell) -> Suspect:
    """Who answers in a cell, as a process of its own has to know it."""
    grid = setting.plan.grid
    model = next(s for s in grid.model_specs if cell.model.label == str(s) or cell.model.label.startswith(f"{s}@"))
    defense = next((s for s in grid.defense_specs if cell.defense.label == str(s)), Spec(cell.defense.label))
    reads_file = any(p.name == "checkpoint" for p in MODELS.get(model.name).parameters)
    weights = find_weights(model, grid.dataset.name, setting.checkpoint, setting.data_root) if reads_file else None
    return Suspect(
        model=model,
        defense=defense,
        dataset=grid.dataset.name,
        classifier=cell.model.instance,
        defended=defended_weights(cell.defended),
        nature=setting.plan.natures.get(cell.model.label, PLAIN),
        checkpoint=None if isinstance(weights, Missing) else weights,
    )


class _Asking:
    """Asks one row."""

    def __init__(self, setting: Setting, row: Evidence, cells: Mapping[str, Cell], probed: ProbedRow) -> None:
        self.setting, self.row, self.probed = setting, row, probed
        self.attacked = {label: cell for label, cell in cells.items() if cell.unit is not None and label in row.cells}
        self.clean = next(cell for cell in cells.values() if cell.unit is None)
        refs = {r.id: r for r in setting.plan.refs}
        self.refs = [refs[i] for i in probed.ids]
        self.engine = LocalEngine(setting.device)
        self.asked = Asked(clips=len(self.refs))
        self._left, self._too_dear = setting.seconds, list[str]()
        self._pass = seconds_of_a_pass(probed)

    def run(self) -> Asked:
        least = self._pass * len(self.refs) * (DRAWS if self.clean.defended.stochastic else 1)
        if least > self._left:
            minutes = f"{least / 60:.3g} min, and {self._left / 60:g} min are allowed for a row"
            return Asked(dear=f"asking the clips in a process of its own takes at least {minutes}")
        suspect = suspect_of(self.setting, self.clean)
        batch = max(1, min(len(self.refs), self.probed.room.clips))
        with Alone(suspect, self.setting.device, batch, self.setting.salt) as alone:
            # What was attacked comes first: a process that has seen a clean clip may remember it.
            self._stored(alone)
            self._fresh(alone)
            self._clean(alone)
        if self._too_dear:
            labels = ", ".join(dict.fromkeys(self._too_dear))
            self.asked.dear = f"{labels}: attacking again takes more than the {self.setting.seconds / 60:g} min allowed"
        return self.asked

    def _affordable(self, unit: ClipsUnit, clips: int, label: str) -> bool:
        """Whether there is time for an attack; takes it off what is left, or notes that it is too dear."""
        forwards, backwards = unit.passes
        seconds = self._pass * (forwards + 2 * backwards + DRAWS) * clips
        if seconds > self._left:
            self._too_dear.append(label)
            return False
        self._left -= seconds
        return True

    def _stored(self, alone: Alone) -> None:
        """Attacked clips of the run, taken from its store or made again, and the gradient at some of them."""
        asked: list[AskedCell] = []
        at: Tensor | None = None
        for label, cell in self.attacked.items():
            assert cell.unit is not None
            made = self._from_store(cell.unit)
            if made is None and not self._affordable(cell.unit, len(self.refs), label):
                continue
            again = made or self._attack(label, cell.unit, self.refs, self.probed.clips.cpu())
            if again is None or again.clips.shape != self.probed.clips.shape:
                continue
            stored = self._outcomes(label, self.refs)
            clean, pairs = self.probed.clips.cpu(), zip(stored, again.traces, again.clips, strict=True)
            same = [made is not None or as_recorded(o, t, c, m) for c, (o, t, m) in zip(clean, pairs, strict=True)]
            answers = alone.ask(again.clips, DRAWS)
            asked.append(AskedCell(label=label, stored=stored, answers=answers, same=same))
            at = again.clips if at is None or cell.knowledge == "adaptive" else at
        self.asked.findings += answers_agree(asked)
        if at is not None:
            self._slopes(alone, at[:_SLOPES])

    def _attack(self, label: str, unit: ClipsUnit, refs: Sequence[ClipRef], clips: Tensor) -> Adversarial | None:
        def attacked(which: slice) -> Adversarial:
            return self.engine.attack(unit, refs[which], clips[which], [False] * len(refs[which]))

        try:
            made = self.probed.room.each(len(refs), attacked)
            # The judge refuses clips of another shape, and there is nothing to ask.
            odd = any(part.clips.shape[1:] != clips.shape[1:] for part in made)
            return None if odd else Adversarial.joined(made)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - recorded in the row's audit, never passed over
            charge_no_machine(error, f"{label} could not be run again")
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            message = f"{label} could not be run again: {reason}."
            self.asked.findings.append(Finding(check="alone", severity="warning", message=message, cells=[label]))
            return None

    def _outcomes(self, label: str, refs: Sequence[ClipRef]) -> list[Outcome]:
        known = {o.clip: o for o in self.row.cells[label].outcomes}
        return [known[r.id] for r in refs]

    def _from_store(self, unit: ClipsUnit) -> Adversarial | None:
        if not unit.shared or self.setting.store is None:
            return None
        with Store(self.setting.store, writable=False) as store:
            ids = [r.id for r in self.refs]
            there = set(ids) <= store.clips_done(unit.id) - store.clip_errors(unit.id).keys()
            try:
                return store.load_clips(unit.id, ids, self.probed.clips.cpu()) if there else None
            except LostClips:
                return None

    def _slopes(self, alone: Alone, clips: Tensor) -> None:
        tokens = alone.tokens(len(clips))
        there = alone.slopes(clips, self.probed.gradient)
        here = slopes_as_probed(self.probed, clips, tokens)
        alike = (here == there).flatten(1).double().mean(1)
        other = [r.id for r, share in zip(self.refs, alike.tolist(), strict=False) if share < _ALIKE]
        if other:
            message = (
                f"On {len(other)} of {len(clips)} clips the {self.probed.gradient} gradient is another one in the "
                "audit than in a process of its own: the defence behaves when it is audited."
            )
            self.asked.findings.append(Finding(check="audited", severity="fault", message=message, clips=other))

    def _clean(self, alone: Alone) -> None:
        """The clips as they are, those of the row and fresh ones."""
        stored = self._outcomes("clean", self.refs)
        answers = alone.ask(self.probed.clips, DRAWS)
        cell = AskedCell(label="clean", stored=stored, answers=answers, same=[True] * len(stored))
        self.asked.findings += answers_agree([cell])
        refs, clips = self._drawn(2 * self.setting.clips, "clean")
        if refs:
            self._compare("clean", refs, alone.ask(clips, DRAWS))

    def _fresh(self, alone: Alone) -> None:
        """Fresh clips under the cheapest attack on the bare classifier, and the cheapest through the defence."""
        for knowledge in ("gray-box", "adaptive"):
            cells = [c for c in self.attacked.values() if c.knowledge == knowledge]
            cell = min(cells, key=lambda c: c.unit.passes if c.unit else (0, 0), default=None)
            if cell is None or cell.unit is None:
                continue
            refs, clips = self._drawn(self.setting.clips, knowledge)
            if refs and self._affordable(cell.unit, len(refs), f"{cell.attack_label} on fresh clips"):
                made = self._attack(cell.attack_label, cell.unit, refs, clips)
                if made is not None:
                    self._compare(cell.attack_label, refs, alone.ask(made.clips, DRAWS))

    def _drawn(self, count: int, key: str) -> tuple[list[ClipRef], Tensor]:
        """Fresh clips, as far as the bare classifier gets them right: a grid may hold such clips alone."""
        dataset = self.setting.plan.dataset
        refs = dataset.fresh(count, f"{self.setting.salt} {key}")
        if not refs:
            return [], torch.empty(0)
        clips = torch.stack([dataset.load(r) for r in refs])
        network = self.clean.model.instance.to(self.setting.device)

        def answers(which: slice) -> list[int]:
            with torch.no_grad():
                found: list[int] = network(clips[which].to(self.setting.device)).argmax(1).tolist()
            return found

        bare = list(chain.from_iterable(self.probed.room.each(len(refs), answers)))
        right = [i for i, ref in enumerate(refs) if bare[i] == ref.label]
        return [refs[i] for i in right], clips[right]

    def _compare(self, label: str, refs: Sequence[ClipRef], answers: Sequence[Outcome]) -> None:
        self.asked.fresh += len(refs)
        bare = next((c for c in self.row.bare.values() if c.knowledge == "clean"), None)
        known = {o.clip for o in bare.outcomes if o.correct} if bare is not None else None
        stored = [o for o in self.row.cells[label].outcomes if known is None or o.clip in known]
        finding = fresh_clips_agree(label, stored, answers, [r.label for r in refs])
        if finding is not None:
            self.asked.findings.append(finding)


def seconds_of_a_pass(probed: ProbedRow) -> float:
    """Wall time of one clip through the defence and its classifier, here and now."""
    defended, clips = probed.make(), probed.clips[:1]
    times = []
    for _ in range(2):  # the first also warms up
        begun = time.perf_counter()
        defended.decide(clips, ClipRandom.for_clips(probed.ids[:1], "audit", probed.salt, "time"))
        times.append(time.perf_counter() - begun)
    return min(times)


def ask(setting: Setting, row: Evidence, cells: Mapping[str, Cell], probed: ProbedRow) -> Asked:
    """Asks a row again in a process of its own.

    Args:
        cells: the plan's cells of the row, by the label of their attack.
        probed: its clips.
    """
    try:
        return _Asking(setting, row, cells, probed).run()
    except BenchError as error:
        charge_no_machine(error, "A row could not be asked in a process of its own")
        message = f"The row could not be asked in a process of its own: {str(error).rstrip('.')}."
        return Asked(findings=[Finding(check="alone", severity="warning", message=message)])
