"""Cells of results with given outcomes."""

from __future__ import annotations

from bench.records.identity import BudgetIdentity, CellIdentity, ComponentIdentity, Gradient, Knowledge
from bench.records.outcome import Outcome
from bench.records.results import CellResult, Score


def identified(
    defense: str = "d",
    knowledge: Knowledge = "adaptive",
    gradient: Gradient = "none",
    attack: ComponentIdentity | None = None,
    budget: BudgetIdentity | None = None,
) -> CellIdentity:
    """A cell's identity that no plan made."""
    return CellIdentity(
        engine="e",
        dataset=ComponentIdentity(name="d"),
        model=ComponentIdentity(name="m"),
        defense=ComponentIdentity(name=defense),
        attack=attack,
        budget=budget,
        knowledge=knowledge,
        gradient=gradient,
        seed=0,
    )


def cell(defense: str, attack: str, knowledge: Knowledge, right: str, statuses: str = "") -> CellResult:
    """A cell of clips of class 0.

    Args:
        right: a ``1`` for each clip that is right, a ``0`` for each that is not.
        statuses: an ``x`` for each clip whose outcome is invalid; anything else, or nothing, for the others.
    """
    outcomes = [
        Outcome(
            clip=str(i),
            label=0,
            correct=r == "1",
            prediction=0 if r == "1" else 1,
            status="invalid" if statuses[i : i + 1] == "x" else "ok",
        )
        for i, r in enumerate(right)
    ]
    return CellResult(
        cell=f"{defense}{attack}",
        dataset="d",
        model="m",
        defense=defense,
        attack=attack,
        knowledge=knowledge,
        gradient="none",
        budget="" if knowledge == "clean" else "linf 4/255",
        settings=identified(defense, knowledge),
        score=Score.of(outcomes),
        outcomes=outcomes,
    )
