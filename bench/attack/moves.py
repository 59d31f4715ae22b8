"""A list of attacks, each with its own way to differentiate the defence, that run in turn on the clips still left."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, cast, get_args

import torch
from torch import Tensor

from bench.attack.base import Attack, AttackResult
from bench.attack.best import Best
from bench.attack.survivors import Survivors
from bench.attack.target import Target
from bench.attack.turns import Looks, Part, Turn, in_turn
from bench.errors import BenchError, Impossible, nearest
from bench.records.identity import Gradient
from bench.registry import ATTACKS, Spec
from bench.seeds import ClipRandom
from bench.threat.budgets import Budget


@dataclass(frozen=True)
class Move:
    """One attack of a list.

    Attributes:
        attack: as a grid names it.
        gradient: how it differentiates the defence; ``none`` for clips made on the bare classifier.
        steps: how many times the budget's steps it takes.
        restarts: starts; the budget's if not given.
        when: ``flat`` runs it only where clips are left whose loss never moved under the moves before: where the
            network hides its gradient, and only asking helps.
    """

    attack: str
    gradient: Gradient = "exact"
    steps: int = 1
    restarts: int | None = None
    when: Literal["always", "flat"] = "always"

    @classmethod
    def parse(cls, text: str) -> Move:
        """Reads ``ATTACK+GRADIENT``, as the columns of grids are written.

        Raises:
            BenchError: no attack, or no gradient of that name.
        """
        attack, _, gradient = text.rpartition("+")
        known = [g for g in get_args(Gradient) if g != "strongest"]
        if not attack or gradient not in known:
            raise BenchError(
                f"Cannot read the move {text!r}{nearest(gradient, known)}: write ATTACK+GRADIENT, with a gradient of "
                f"{', '.join(known)}."
            )
        return cls(str(Spec.parse(attack)), cast(Gradient, gradient))

    def __str__(self) -> str:
        effort = [f"{self.steps} x steps"] if self.steps > 1 else []
        effort += [f"{self.restarts} starts"] if self.restarts else []
        effort += ["where the loss is flat"] if self.when == "flat" else []
        return f"{self.attack}+{self.gradient}" + (f" ({', '.join(effort)})" if effort else "")

    def effort(self, budget: Budget) -> Budget:
        """The budget, with this move's steps and starts. A step length that the budget names stays as it is."""
        return replace(budget, steps=budget.steps * self.steps, restarts=self.restarts or budget.restarts)


class Moves(Attack):
    """Runs moves one after another, each on the clips that those before it have left, and keeps the worst of all.

    A clip of a deterministic defence leaves with its first success. One of a randomised defence is asked about several
    times after every move: it leaves when it was wrong every time, and otherwise the move is kept after which it was
    wrong most often.

    Args:
        moves: what to run.
        looks: how often a randomised defence is asked about each move's clip.

    Attributes:
        draws: of a randomised defence, that the moves of a list average over.
        extra: moves that are added to a list.
    """

    draws: int = 5
    extra: Sequence[Move] = ()
    norms: ClassVar[tuple[str, ...]] = (
        *("linf", "l2", "rectangle", "border", "pixels"),
        *("flicker", "one-frame", "mult-linf", "mult-l2", "framing"),
    )
    decisive_only = True

    def __init__(self, moves: Sequence[Move] = (), looks: int = 5) -> None:
        self.looks = looks
        self._arm(moves)

    def _arm(self, moves: Sequence[Move]) -> None:
        self.moves = tuple(moves)
        self.parts = [move.attack for move in moves]
        self._attacks: list[Attack] = [ATTACKS.create(move.attack) for move in moves]

    def armed(self, moves: Sequence[Move]) -> Moves:
        """The same attack with other moves."""
        other = copy.copy(self)
        other._arm(moves)
        return other

    def lighter(self) -> Attack:
        """One plain move for each way to differentiate the defence: enough to see whether asking changes an answer."""
        ways = {move.gradient: move for move in reversed(self.moves) if move.when == "always"}
        light = self.armed([replace(move, steps=1, restarts=None) for move in ways.values()])
        light._attacks = [attack.lighter() for attack in light._attacks]
        return light

    def check(self, budget: Budget) -> None:
        super().check(budget)
        for move, attack in zip(self.moves, self._attacks, strict=True):
            attack.check(move.effort(budget))

    def passes(self, budget: Budget) -> tuple[int, int]:
        costs = [a.passes(m.effort(budget)) for m, a in zip(self.moves, self._attacks, strict=True)]
        return 1 + sum(f + self.looks for f, _ in costs), sum(b for _, b in costs)

    def refuses(self, *, stochastic: bool, transfer: bool) -> str | None:
        if transfer:
            return f"{type(self).__name__} asks the defence after every move: it makes no clips for transfer."
        return None

    def run(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> AttackResult:
        with torch.no_grad():
            answer = target.ask(clips)
        right = (answer.decision.cpu() == labels.cpu()).nonzero()[:, 0]
        left = Survivors(clips, labels, budget, rng, rows=right if target.decisive else None)
        looks = Looks(target, self.looks if target.stochastic else 1)
        result = in_turn(left, self._turns(target, left), looks, Best(clips, of_equals="earlier"))
        return AttackResult(result.clips)  # no trace: the moves climb different losses

    def _turns(self, target: Target, left: Survivors) -> Iterator[Turn]:
        flat = torch.ones(len(target.forwards), dtype=torch.bool)
        for move, attack in zip(self.moves, self._attacks, strict=True):
            if move.when == "flat" and not bool(flat[left.rows].any()):
                continue
            yield self._turn(target.through(move.gradient), move, attack, flat)

    @staticmethod
    def _turn(way: Target, move: Move, attack: Attack, flat: Tensor) -> Turn:
        """One move, on the clips that are left; takes out of ``flat (B,)`` those whose loss it moved."""

        def turn(left: Survivors) -> AttackResult:
            rows = left.rows
            try:
                result = attack(Part(way, rows), left.clips, left.labels, move.effort(left.budget), left.rng)
            except Impossible:  # the identity cannot stand for what changes the shape of clips: other moves can
                return AttackResult(left.clips)
            if result.trace is not None:
                flat[rows] &= _spread(result.trace) == 0
            return result

        return turn


def _spread(trace: Tensor) -> Tensor:
    """By how much each clip's loss moved, ``(steps, b)`` to ``(b,)``; 0 where nothing was recorded twice."""
    high = trace.nan_to_num(nan=float("-inf")).amax(0)
    low = trace.nan_to_num(nan=float("inf")).amin(0)
    return (high - low).clamp_min(0).nan_to_num(nan=0.0, neginf=0.0)


def moves_of(settings: Sequence[str | Move]) -> list[Move]:
    """Moves as a defence's author or a grid writes them.

    Raises:
        BenchError: one cannot be read.
    """
    return [move if isinstance(move, Move) else Move.parse(move) for move in settings]


def described(moves: Sequence[Move]) -> dict[str, Any]:
    """What identifies a list of moves beside the code of its attacks."""
    return {"moves": [str(move) for move in moves]}
