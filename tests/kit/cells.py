"""Cells of results with given outcomes."""

from __future__ import annotations

from bench.records.identity import BudgetIdentity, CellIdentity, ComponentIdentity, Gradient, Knowledge
from bench.records.outcome import Outcome
from bench.records.provenance import Provenance
from bench.records.results import CellResult, Score

BUDGET = BudgetIdentity(norm="linf", size=4 / 255, steps=10, restarts=1)


SOMEBODY = Provenance(
    bench="0.1",
    commit="abc",
    python="3.11.7",
    torch="2.9.0",
    device="cpu",
    machine="arm64",
    threads=8,
    date="2025-02-03",
)


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
    outcomes = [_outcome(str(i), r == "1", knowledge) for i, r in enumerate(right)]
    for outcome in (o for o, status in zip(outcomes, statuses, strict=False) if status == "x"):
        outcome.status, outcome.error, outcome.correct = "invalid", "too far", False
        outcome.prediction, outcome.clean_prediction, outcome.votes = None, outcome.clean_prediction, []
    gradient: Gradient = "exact" if knowledge == "adaptive" else "none"
    attacked = knowledge != "clean"
    settings = identified(
        defense,
        knowledge,
        gradient,
        ComponentIdentity(name="noise" if knowledge == "noise" else "pgd") if attacked else None,
        BUDGET if attacked else None,
    )
    if knowledge == "black-box":
        settings = settings.model_copy(update={"source": ComponentIdentity(name="other")})
    return CellResult(
        cell=settings.id,
        dataset="d",
        model="m",
        defense=defense,
        attack=attack,
        knowledge=knowledge,
        gradient=gradient,
        budget="linf 4/255" if attacked else "",
        settings=settings,
        score=Score.of(outcomes),
        provenance=[SOMEBODY],
        outcomes=outcomes,
    )


def _outcome(clip: str, right: bool, knowledge: Knowledge) -> Outcome:
    """Of a clip that is right without an attack, or of a clean one."""
    prediction = 0 if right else 1
    outcome = Outcome(clip=clip, label=0, correct=right, prediction=prediction, votes=[prediction])
    outcome.clean_prediction = prediction if knowledge == "clean" else 0
    outcome.attacked = knowledge != "clean"
    return outcome
