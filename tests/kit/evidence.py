"""Evidence for an audit, made by hand."""

from __future__ import annotations

from typing import Any

from bench.audit.outcomes import Evidence, rows_of
from bench.records.identity import BudgetIdentity, ComponentIdentity, Gradient, Knowledge
from bench.records.outcome import Control, Outcome
from bench.records.results import CellResult, Score
from kit.cells import identified


def outcome(clip: str, right: bool, **more: Any) -> Outcome:
    """The outcome of an attacked clip of class 1."""
    return Outcome(clip=clip, label=1, prediction=int(right), correct=right, attacked=True, **more)


def cell(
    attack: str,
    right: str,
    knowledge: Knowledge = "adaptive",
    *,
    budget: str = "linf 4/255",
    size: float = 4 / 255,
    name: str = "pgd",
    control: Control | None = None,
    gradient: Gradient = "bpda",
    defense: str = "d",
    traces: dict[str, list[float]] | None = None,
    draws: dict[str, list[int]] | None = None,
    norm: str = "linf",
    backwards: int = 10,
    params: dict[str, Any] | None = None,
    parts: tuple[ComponentIdentity, ...] = (),
    clips: str = "abcd",
) -> CellResult:
    """A cell on clips of one letter each, of which those in ``right`` are right."""
    spent = {} if knowledge in ("clean", "noise") else {"forwards": 10, "backwards": backwards}
    outcomes = [
        outcome(c, c in right, trace=(traces or {}).get(c, []), draws=(draws or {}).get(c, []), **spent) for c in clips
    ]
    clean = knowledge == "clean"
    return CellResult(
        cell=f"{defense}-{attack}-{budget}",
        dataset="s",
        model="m",
        defense=defense,
        attack=attack,
        knowledge=knowledge,
        gradient="none" if clean else gradient,
        budget="" if clean else budget,
        settings=identified(
            defense,
            knowledge,
            attack=ComponentIdentity(name=name, params=params or {}, parts=parts),
            budget=BudgetIdentity(norm=norm, size=size, steps=10, restarts=1),
        ),
        score=Score.of(outcomes),
        control=control,
        outcomes=outcomes,
    )


PASSED = Control(clips=4, passed=True, message="")
CLEAN = cell("clean", "abcd", "clean")


def row_of(*cells: CellResult) -> Evidence:
    """What is known of the row of the defence ``d``, whose clean clips are all right."""
    return next(r for r in rows_of([CLEAN, *cells]) if r.defense == "d")
