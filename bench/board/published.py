"""What papers print: their rows, by the shipped grids of their tables, and their figures beside those measured here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from bench.board.entries import Entry, Figure
from bench.errors import BenchError
from bench.files import slug
from bench.grids.grid import AttackSection, Grid, shipped_grids
from bench.records.identity import Knowledge
from bench.records.strict_yaml import read_yaml
from bench.registry import ATTACKS
from bench.report.reported import Reported, shipped_folder
from bench.threat.budgets import Budget


@lru_cache(maxsize=1)
def reported() -> tuple[Entry, ...]:
    """An entry for every row of a shipped grid beside which a paper prints figures, whether it was run or not. Papers
    print some rows in several tables: those are one."""
    rows: dict[tuple[object, ...], list[Entry]] = {}
    for path in shipped_grids().values():
        grid = read_shipped(path)
        if grid.reported is not None:
            for e in _rows(grid, Reported(grid.reported, shipped_folder())):
                rows.setdefault((e.dataset, e.model, e.defense, e.threat, e.worst, *e.figures.values()), []).append(e)
    return tuple(replace(first, beside=tuple(e.grid for e in others)) for first, *others in rows.values())


def _rows(grid: Grid, figures: Reported) -> Iterator[Entry]:
    """The least that a paper prints is the worst: it has no clips, so that nobody knows what survives all attacks."""
    assert grid.reported is not None
    columns = {section.label: _knowledge(section) for section in grid.attack_sections if not section.worst}
    model = grid.reported.model or str(grid.model_specs[0])
    for budget in (str(Budget.parse(b)) for b in grid.budgets):
        for defense in [*map(str, grid.defense_specs), *grid.oracles]:
            labels = [*columns, *grid.worst, "Union", "Mean", "Seconds"]
            try:
                found = figures.row(defense, labels, budget)
            except BenchError:  # several rows fit: the grid's own table chooses by model, and says so
                continue
            of_kind = {
                kind: {label: value for label, value in found.items() if columns.get(label) == kind}
                for kind in ("clean", "gray-box", "adaptive")
            }
            if not any(of_kind.values()):
                continue
            adaptive = of_kind["adaptive"]
            yield Entry(
                key=slug(f"reported--{grid.name}--{defense}--{budget}").lower(),
                kind="reported",
                grid=grid.name,
                dataset=grid.dataset.name,
                model=model,
                defense=defense,
                threat=budget,
                standard=_printed(min(of_kind["clean"].values(), default=None)),
                gray=_printed(min(of_kind["gray-box"].values(), default=None)),
                adaptive=_printed(min(adaptive.values(), default=None)),
                union=_printed(found.get("Union")),
                worst=min(adaptive, key=lambda label: adaptive[label], default=""),
                seconds=found.get("Seconds"),
                source=grid.reported.file,
            )


def _printed(value: float | None) -> Figure | None:
    """A paper has no interval."""
    return None if value is None else Figure(value)


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


@dataclass(frozen=True)
class Claim:
    """A figure that a paper prints beside one that was measured here.

    Attributes:
        column: label, or Union.
        table: the shipped grid of the paper's table.
        reported: in percent.
        measured: here.
        same: whether on the paper's clips and network; otherwise on the embedded ones that stand for them.
        remark: what is to be known of the printed figure.
    """

    entry: Entry
    column: str
    table: str
    reported: float
    measured: Figure
    same: bool = True
    remark: str = ""

    @property
    def difference(self) -> float:
        return self.measured.value - self.reported

    @property
    def inside(self) -> bool:
        """Whether what is printed lies in the interval that was measured."""
        low, high = self.measured.low, self.measured.high
        return low is not None and high is not None and low <= self.reported <= high


def claims(entries: Iterable[Entry]) -> list[Claim]:
    """Every printed figure that has a measured one beside it, or that an embedded grid stands for."""
    found = []
    for entry in entries:
        if entry.row is None or entry.void:
            continue
        table, printed, remarks = _beside(entry)
        scores = dict(entry.row.scores) | ({"Union": entry.row.union} if entry.row.union is not None else {})
        for label, value in printed.items():
            if (figure := Figure.of(scores.get(label))) is not None:
                same, words = table == entry.grid, remarks.get(label, "")
                found.append(Claim(entry, label, table, value, figure, same, words))
    return found


def _beside(entry: Entry) -> tuple[str, Mapping[str, float], Mapping[str, str]]:
    """The grid of a paper's table, and what that prints and remarks of a row, by its columns."""
    assert entry.row is not None
    if entry.row.reported:
        return entry.grid, entry.row.reported, entry.row.remarks
    grids = shipped_grids()
    other = read_shipped(grids[entry.grid]).stands_for if entry.grid in grids else ""
    described = read_shipped(grids[other]).reported if other else None
    if described is None:
        return "", {}, {}
    figures, columns = Reported(described, shipped_folder()), [*entry.row.scores, "Union"]
    try:
        printed = figures.row(entry.defense, columns, entry.threat)
    except BenchError:  # several figures fit, as of other networks: there is none to compare with
        return "", {}, {}
    return other, printed, figures.remarks(entry.defense, columns, entry.threat)
