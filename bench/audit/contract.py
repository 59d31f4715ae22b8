"""Does a defence keep the contract? A dry run on a few clips, before anything is measured.

Asked are the purifier itself, as :class:`bench.defense.base.Purifier` says what it may do, and the defended classifier,
by the probes of the audit that look for a broken promise and not for a weak defence.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from bench.attack.moves import Moves
from bench.audit import probes
from bench.audit.asked import seconds_of_a_pass
from bench.audit.probes import ProbedRow
from bench.audit.rows import maker
from bench.defense.base import Purifier
from bench.defense.defended import automatic
from bench.errors import BenchError
from bench.faults import charge_no_machine
from bench.modes import computing
from bench.plan.cells import Cell, Plan
from bench.records.audits import Finding
from bench.registry import ATTACKS
from bench.run.guard import Guard
from bench.seeds import ClipRandom
from bench.threat.budgets import Budget

Verdict = Literal["refused", "noted"]

# Values beyond [0, 1] by more than rounding.
_SLACK = 1e-4
# Half the step of a central difference, and the share by which it may miss the gradient's promise.
_STEP, _MISS = 1e-3, 0.25


@dataclass(frozen=True)
class Breach:
    """What a defence does that it must not, or that is worth knowing.

    Attributes:
        check: the clause of the contract.
        verdict: ``refused``: no figure of it would mean anything, or its run would fail. ``noted``: it may be meant so.
        message: one sentence.
    """

    check: str
    verdict: Verdict
    message: str


@dataclass
class Inspection:
    """What a dry run came to.

    Attributes:
        breaches: refused ones first.
        moves: what the attack ``adaptive`` would run: each move, with its forward and backward passes a clip at most.
        seconds: of one clip through defence and classifier.
        megabytes: by which the process, or the memory of its GPU, grew at most while it was asked.
    """

    breaches: list[Breach] = field(default_factory=list)
    moves: list[tuple[str, int, int]] = field(default_factory=list)
    seconds: float = 0.0
    megabytes: float = 0.0

    @property
    def refused(self) -> bool:
        return any(b.verdict == "refused" for b in self.breaches)


def _refused(check: str, message: str) -> Breach:
    return Breach(check, "refused", message)


def _noted(check: str, message: str) -> Breach:
    return Breach(check, "noted", message)


def _numbers() -> tuple[Any, ...]:
    """State of NumPy's global generator."""
    return cast("tuple[Any, ...]", np.random.get_state())


@contextmanager
def _watched(touched: list[str]) -> Iterator[None]:
    """Names the global generators that a block draws from; they are put back."""
    python, numbers, torch_state = random.getstate(), _numbers(), torch.get_rng_state()
    try:
        yield
        if random.getstate() != python:
            touched.append("random")
        now = _numbers()
        if now[2:] != numbers[2:] or not np.array_equal(now[1], numbers[1]):
            touched.append("numpy.random")
        if not torch.equal(torch.get_rng_state(), torch_state):
            touched.append("torch")
    finally:
        random.setstate(python)
        np.random.set_state(numbers)
        torch.set_rng_state(torch_state)


class _Purifying:
    """Asks a purifier itself, made anew for every question."""

    def __init__(self, row: ProbedRow) -> None:
        self.row, self.clips, self.ids, self.salt = row, row.clips, row.ids, row.salt

    def make(self) -> Purifier:
        purifier = self.row.make().purifier
        assert purifier is not None
        return purifier

    def _rng(self, key: object = 0) -> ClipRandom:
        return ClipRandom.for_clips(self.ids, "contract", self.salt, key)

    def output(self) -> Iterator[Breach]:
        """Shape, type, range, the global generators and what was handed over."""
        handed, touched = self.clips.clone(), list[str]()
        with torch.no_grad(), _watched(touched):
            found: Any = self.make().purify(handed, self._rng())
        if touched:
            names = " and ".join(touched)
            yield _refused("randomness", f"It draws from the global generator of {names}: draw from rng alone.")
        if not torch.equal(handed, self.clips):
            yield _noted("in place", "It changes the clips that it is handed: every caller hands over a copy.")
        shape = tuple(self.clips.shape)
        if not isinstance(found, Tensor) or found.ndim not in (5, 6) or found.shape[-5:-3] != shape[:2]:
            what = f"{tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            yield _refused(
                "shape", f"It turns clips {shape} into {what}: return (B, 3, T, H, W), or (V, B, 3, T, H, W)."
            )
            return
        if found.dtype != torch.float32:
            yield _refused("dtype", f"It returns {found.dtype}: return float32.")
        if not bool(torch.isfinite(found).all()):
            yield _refused("finite", "It returns values that are not finite: such clips count as wrong.")
        elif bool(((found < -_SLACK) | (found > 1 + _SLACK)).any()):
            low, high = float(found.min()), float(found.max())
            yield _noted("range", f"It returns values from {low:.3g} to {high:.3g}, beyond [0, 1]: clamp them.")
        purifier = self.make()
        if purifier.identity and not torch.equal(found, self.clips):
            yield _refused("identity", "It says identity = True and changes clips: remove that line.")

    def declared(self) -> Iterator[Breach]:
        """What it says of itself, where the probes cannot tell."""
        purifier = self.make()
        clips = self.clips.clone().requires_grad_(True)
        passes = isinstance(found := purifier.purify(clips * 1, self._rng()), Tensor) and found.requires_grad
        if purifier.differentiable and not passes:
            yield _refused(
                "gradient", "It says differentiable = True and its output carries no gradient: say False, or let it."
            )
        if passes and not purifier.differentiable:
            yield _noted("gradient", "Its output carries a gradient although it says differentiable = False.")
        if purifier.stochastic:
            with torch.no_grad():
                answers = [self.make().purify(self.clips.clone(), self._rng(key)) for key in range(3)]
            if all(torch.equal(answers[0], other) for other in answers[1:]):
                yield _noted("randomness", "It says stochastic = True and gives the same for every seed.")

    def derivative(self) -> Iterator[Breach]:
        """Its exact gradient against central differences along the gradient's own signs."""
        if not self.make().differentiable or self.make().identity:
            return
        # Off the kinks of medians and clamps, which lie where neighbours are equal and at the ends of [0, 1].
        noise = torch.rand(self.clips.shape, generator=torch.Generator().manual_seed(1)).to(self.clips)
        clips = (0.8 * self.clips + 0.2 * noise).clamp(2 * _STEP, 1 - 2 * _STEP).requires_grad_(True)
        value = self.make().purify(clips * 1, self._rng())
        if not value.requires_grad:
            return
        weights = torch.randn(value.shape, generator=torch.Generator().manual_seed(0)).to(value)
        (gradient,) = torch.autograd.grad((weights * value).sum(), clips)
        direction = torch.nan_to_num(gradient).sign()
        promised = (direction * gradient).double().flatten(1).sum(1)
        ends = []
        with torch.no_grad():
            for side in (1, -1):
                moved = self.make().purify((clips + side * _STEP * direction).detach(), self._rng())
                of_clip = (weights * moved).double()
                if of_clip.ndim == self.clips.ndim + 1:
                    of_clip = of_clip.sum(0)
                ends.append(of_clip.flatten(1).sum(1))
        gained = (ends[0] - ends[1]) / (2 * _STEP)
        wrong = ~((gained - promised).abs() <= _MISS * torch.maximum(gained.abs(), promised.abs()) + 1e-6)
        if 2 * int(wrong.sum()) > len(wrong):
            told, seen = float(promised.mean()), float(gained.mean())
            yield _refused(
                "exact gradient",
                f"Along its exact gradient a weighted sum of its output should rise by {told:.3g} per unit, and rises "
                f"by {seen:.3g} (central differences of {_STEP:g}): it is not the gradient of what answers.",
            )


# Probes that look for a broken promise; the others for a weak defence, or for a weak attack.
_PROBES = (
    probes.randomness_is_declared,
    probes.memory_is_empty,
    probes.clips_are_independent,
    probes.outputs_are_logits,
    probes.nothing_is_optimised,
    probes.gradients_lead_uphill,
)


def inspect(plan: Plan, label: str, device: torch.device, salt: str = "contract") -> Inspection:
    """A dry run of one row of a plan, on all its clips.

    Args:
        plan: with a clean cell of the row and, for the moves, one of the attack ``adaptive``; of two clips at least, so
            that a batch can be told from a clip.
        label: of the defence.
        salt: seeds all random numbers.
    """
    cells = [c for c in plan.cells if c.defense.label == label]
    cell = next(c for c in cells if c.knowledge == "clean")
    row = _row(plan, cell, device, salt)
    guard = Guard({c.model.label: c.model.instance for c in plan.cells})
    guard.begin([cell.defended])
    found = Inspection(moves=[move for c in cells for move in _moves(c)])
    before = _megabytes(device)
    with computing("fp32", device):
        for check in _checks(row):
            found.breaches += _answered(check)
        found.seconds = _seconds(row)
    found.megabytes = max(0.0, _megabytes(device) - before)
    what = guard.complaint([cell.defended])
    if what is not None:
        found.breaches.append(_refused("meddling", f"While it was asked it changed {what}: leave that alone."))
    found.breaches = sorted(dict.fromkeys(found.breaches), key=lambda b: b.verdict != "refused")
    return found


def _row(plan: Plan, cell: Cell, device: torch.device, salt: str) -> ProbedRow:
    return ProbedRow(
        make=maker(cell.defended, device),
        clips=torch.stack([plan.dataset.load(r) for r in plan.refs]).to(device),
        ids=[r.id for r in plan.refs],
        labels=torch.tensor([r.label for r in plan.refs], device=device),
        gradient=automatic(cell.defense.instance),
        budget=Budget.parse(plan.grid.budgets[0]),
        salt=salt,
    )


def _checks(row: ProbedRow) -> Iterator[Callable[[], Iterable[Breach]]]:
    if row.make().purifier is not None:
        purifying = _Purifying(row)
        yield from (purifying.output, purifying.declared, purifying.derivative)
    for probe in _PROBES:
        yield partial(_probed, probe, row)


def _probed(probe: Callable[[ProbedRow], Finding | list[Finding] | None], row: ProbedRow) -> Iterator[Breach]:
    found = probe(row)
    for finding in found if isinstance(found, list) else [found] if found is not None else []:
        yield Breach(finding.check, "refused" if finding.severity == "fault" else "noted", finding.message)


def _answered(check: Callable[[], Iterable[Breach]]) -> list[Breach]:
    """What a check finds; what raises while it is asked is refused with what it says."""
    found: list[Breach] = []
    try:
        found.extend(check())
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the defence raises here, it raises in a run
        charge_no_machine(error, "The defence could not be asked")
        reason = (str(error).strip() or "no message").splitlines()[0]
        said = reason if isinstance(error, BenchError) else f"{type(error).__name__}: {reason}"
        found.append(_refused("asking", f"It raises {said}"))
    return found


def _moves(cell: Cell) -> list[tuple[str, int, int]]:
    attack = cell.unit.attack.instance if cell.unit is not None else None
    if cell.unit is None or not isinstance(attack, Moves):
        return []
    costs = [ATTACKS.create(move.attack).passes(move.effort(cell.unit.budget)) for move in attack.moves]
    return [(str(move), *passes) for move, passes in zip(attack.moves, costs, strict=True)]


def _seconds(row: ProbedRow) -> float:
    """Of one clip, nothing if it cannot be asked."""
    try:
        return seconds_of_a_pass(row)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the checks have told it
        charge_no_machine(error, "The defence could not be asked")
        return 0.0


def _megabytes(device: torch.device) -> float:
    """The most that the process has taken so far: of the GPU, or of this machine where that can be told."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)
