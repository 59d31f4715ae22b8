"""Rows that papers print, by the shipped grids of their tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from bench.errors import BenchError
from bench.grids.grid import AttackSection, Grid, shipped_grids
from bench.records.identity import Knowledge
from bench.records.strict_yaml import read_yaml
from bench.registry import ATTACKS
from bench.report.reported import Reported, shipped_folder
from bench.threat.budgets import Budget


@dataclass(frozen=True)
class PrintedRow:
    """A defence before a classifier, on a data set, under a threat, as a paper prints it; in percent.

    Attributes:
        file, grid: the table of figures, and the shipped grid that reads it.
        dataset, model: as the grid calls them.
        standard: clean clips.
        gray, robust: the least under gray-box and under adaptive attacks: a paper has no clips, so that nobody knows
            what survives all of them.
        union: if the paper has it.
        hardest: the adaptive attack that leaves least.
        seconds: of a clip.
        beside: other grids that read the same row.
        remarks: on its figures, by column.
    """

    file: str
    grid: str
    dataset: str
    model: str
    defense: str
    threat: str
    standard: float | None = None
    gray: float | None = None
    robust: float | None = None
    union: float | None = None
    hardest: str = ""
    seconds: float | None = None
    beside: tuple[str, ...] = ()
    remarks: tuple[tuple[str, str], ...] = ()


@lru_cache(maxsize=1)
def printed_rows() -> tuple[PrintedRow, ...]:
    """Every row of a shipped grid beside which a paper prints figures. Papers print some rows in several tables: those
    are one."""
    rows: dict[PrintedRow, list[PrintedRow]] = {}
    for path in shipped_grids().values():
        grid = read_shipped(path)
        if grid.reported is not None:
            for row in _rows(grid, Reported(grid.reported, shipped_folder())):
                same = replace(row, file="", grid="", seconds=None, remarks=())
                rows.setdefault(same, []).append(row)
    return tuple(replace(first, beside=tuple(row.grid for row in others)) for first, *others in rows.values())


def _rows(grid: Grid, figures: Reported) -> Iterator[PrintedRow]:
    assert grid.reported is not None
    columns = {section.label: _knowledge(section) for section in grid.attack_sections if not section.worst}
    model = grid.reported.model or str(grid.model_specs[0])
    for budget in (str(Budget.parse(b)) for b in grid.budgets):
        for defense in [*map(str, grid.defense_specs), *grid.oracles]:
            labels = [*columns, *grid.worst, "Union", "Mean", "Seconds"]
            try:
                found = figures.row(defense, labels, budget)
                remarks = figures.remarks(defense, labels, budget)
            except BenchError:  # several rows fit: the grid's own table chooses by model, and says so
                continue
            of_kind = {
                kind: {label: value for label, value in found.items() if columns.get(label) == kind}
                for kind in ("clean", "gray-box", "adaptive")
            }
            if not any(of_kind.values()):
                continue
            adaptive = of_kind["adaptive"]
            yield PrintedRow(
                file=grid.reported.file,
                grid=grid.name,
                dataset=grid.dataset.name,
                model=model,
                defense=defense,
                threat=budget,
                standard=min(of_kind["clean"].values(), default=None),
                gray=min(of_kind["gray-box"].values(), default=None),
                robust=min(adaptive.values(), default=None),
                union=found.get("Union"),
                hardest=min(adaptive, key=lambda label: adaptive[label], default=""),
                seconds=found.get("Seconds"),
                remarks=tuple(remarks.items()),
            )


def _knowledge(section: AttackSection) -> Knowledge:
    """What the attacker of a column knows, as :mod:`bench.plan.expand` decides it."""
    if section.attack is None:
        return "clean"
    if section.source is not None:
        return "black-box"
    attack = ATTACKS.get(section.attack.name).factory
    if not getattr(attack, "uses_model", True):
        return "universal" if getattr(attack, "learned", False) else "noise"
    return "gray-box" if section.gradient in (None, "none") else "adaptive"


@lru_cache(maxsize=256)
def read_shipped(path: Path) -> Grid:
    """A shipped grid, not checked: that would make all of its components, and tests do so of what is shipped."""
    return Grid(**{"name": path.stem, **read_yaml(path.read_text(encoding="utf-8"), f"Grid file {path}")})
