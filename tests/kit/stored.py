"""Result files written by hand, and what a figure of them shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from bench.records.identity import BudgetIdentity, CellIdentity, ComponentIdentity
from bench.records.outcome import Outcome
from bench.records.results import CellResult, Score
from kit.cells import SOMEBODY

Answers = Sequence[tuple[int, int]]  # (label, answer) of every clip


def put(
    folder: Path,
    answers: Answers,
    *,
    attack: str = "PGD",
    budget: BudgetIdentity | None = None,
    params: dict[str, Any] | None = None,
    defense: tuple[str, dict[str, Any]] = ("blur", {}),
    traces: Sequence[list[float | None]] = (),
    stale: str = "",
    measured: Sequence[list[float]] = (),
    failed: int = 0,
    spared: int = 0,
) -> None:
    """Writes a result file of the classifier ``m`` on ``cifar10``; the last few clips have no answer, or were wrong
    without the attack and spared it."""
    clean = attack == "clean"
    budget = None if clean else budget or linf(4)
    outcomes = []
    for i, (label, answer) in enumerate(answers):
        o = Outcome(clip=f"c{i}", label=label, prediction=answer, correct=label == answer, votes=[answer])
        o.attacked = not clean and i < len(answers) - spared
        o.clean_prediction = label if o.attacked else answer
        if traces:
            o.trace, o.forwards, o.backwards = traces[i], len(traces[i]), len(traces[i])
        if measured:
            o.measured = measured[i]
        if i >= len(answers) - failed:
            o = Outcome(clip=f"c{i}", label=label, status="failed", error="RuntimeError: no", attacked=not clean)
        outcomes.append(o)
    name, arguments = defense
    said = ", ".join(f"{k}={v}" for k, v in arguments.items())
    settings = CellIdentity(
        engine="e",
        dataset=ComponentIdentity(name="cifar10"),
        model=ComponentIdentity(name="m"),
        defense=ComponentIdentity(name=name, params=arguments),
        attack=None if clean else ComponentIdentity(name=attack.split()[0].lower(), params=params or {}),
        budget=budget,
        knowledge="clean" if clean else "noise" if attack == "noise" else "adaptive",
        gradient="none" if attack in ("clean", "noise") else "exact",
        seed=0,
    )
    cell = CellResult(
        cell=settings.id,
        dataset="cifar10",
        model="m",
        defense=f"{name}({said})" if said else name,
        attack=attack,
        knowledge=settings.knowledge,
        gradient=settings.gradient,
        budget="" if budget is None else f"{budget.norm} {255 * budget.size:g}/255, {budget.steps} steps",
        settings=settings,
        score=Score.of(outcomes),
        stale=stale,
        provenance=[SOMEBODY],
        outcomes=outcomes,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / cell.file_name).write_text(cell.to_text(), encoding="utf-8")


def linf(size: float, steps: int = 10, norm: str = "linf") -> BudgetIdentity:
    return BudgetIdentity(norm=norm, size=size / 255, steps=steps, restarts=1)


def right(hits: int, of: int = 8) -> Answers:
    """Clips of class 3, of which so many are answered rightly."""
    return [(3, 3 if i < hits else 5) for i in range(of)]


def drawn(figure: Figure) -> dict[str, tuple[list[float], list[float]]]:
    """Lines of the legend, by their label."""
    lines = [line for axis in figure.axes for line in axis.get_lines() if not str(line.get_label()).startswith("_")]
    return {str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata())) for line in lines}
