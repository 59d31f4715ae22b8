"""How much of the training family's robustness to painted regions is the attack's fault: clips left by the former
attack and by stronger ones.

Run: ``python benchmarks/strength_training.py``; with ``--clips 4`` a look in minutes. The stronger ones choose the
pixels by the gradient, climb the margin, start five times, and attack the branches of MultiBN one by one. Each attack
meets the same clips, the first of the grid ``embedded_multibn``, with its budgets and ten steps; "all" counts the clips
that none of them breaks. Outcomes are kept in ``--store``, so that a run that was stopped goes on; ``--attacks`` names
those to run, by their headings, if not all.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.api import run_plan
from bench.grids.grid import Grid, find_grid
from bench.plan.expand import make_plan
from bench.records.results import CellResult
from bench.report.leaderboard import markdown_table

DEFENSES = ("AT-ROA", "AVG", "AVG, 200 steps", "MultiBN")
BRANCHING = ("MultiBN",)
ROA = {"norm": "rectangle", "size": 12}
SPA = {"norm": "pixels", "size": 100}


def _attack(label: str, attack: str, budget: dict[str, Any]) -> dict[str, Any]:
    return {"attack": attack, "gradient": "exact", "label": label, "budget": budget}


LOCATED = "spa(location='gradient', loss='margin')"
# Under each threat, the former attack first.
FAMILIES = {
    "ROA": [
        _attack("ROA", "roa", ROA),
        _attack("margin, 5 restarts", "roa(loss='margin')", {**ROA, "restarts": 5}),
        _attack("ROA branches", "branches(attack='roa')", ROA),
    ],
    "SPA": [
        _attack("SPA", "spa", SPA),
        _attack("located", "spa(location='gradient')", SPA),
        _attack("located, margin", LOCATED, SPA),
        _attack("SPA branches", f"branches(attack={LOCATED!r})", SPA),
    ],
}


def grid_of(name: str, clips: int, defenses: Sequence[str], attacks: Sequence[dict[str, Any]]) -> Grid:
    """The grid ``embedded_multibn`` with some of its defences, and other attacks."""
    grid = find_grid("embedded_multibn")
    return grid.model_copy(
        update={
            "name": name,
            "dataset": grid.dataset.model_copy(update={"clips": clips}),
            "defenses": [d for d in grid.defenses if isinstance(d, dict) and d.get("label") in defenses],
            "attacks": ["clean", *attacks],
        }
    )


def table(cells: dict[tuple[str, str], CellResult], labels: Sequence[str]) -> list[str]:
    """Clips left, defence by attack, and by all attacks together."""
    rows = []
    for defense in DEFENSES:
        mine = [cells.get((defense, label)) for label in labels]
        outcomes = zip(*(cell.outcomes for cell in mine if cell), strict=True)
        together = sum(all(o.correct for o in of_clip) for of_clip in outcomes)
        rows.append([defense, *(str(cell.score.correct) if cell else "" for cell in mine), str(together)])
    return markdown_table(["Defence", *labels, "all"], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=str(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--store", type=Path, default=Path("build/strength_training"))
    parser.add_argument("--attacks", nargs="+")
    chosen = parser.parse_args(arguments)
    wanted = chosen.attacks or [attack["label"] for family in FAMILIES.values() for attack in family]
    listed = [attack for family in FAMILIES.values() for attack in family if attack["label"] in wanted]
    branching = [attack for attack in listed if attack["attack"].startswith("branches")]
    everywhere = [attack for attack in listed if attack not in branching]
    cells: dict[tuple[str, str], CellResult] = {}
    for name, defenses, attacks in (("everywhere", DEFENSES, everywhere), ("branching", BRANCHING, branching)):
        plan = make_plan(grid_of(name, chosen.clips, defenses, attacks))
        measured = run_plan(plan, chosen.store, device=torch.device("cpu"), control=0)
        cells |= {(r.defense, r.attack): r for r in measured.results}
    for family in FAMILIES.values():
        labels = [attack["label"] for attack in family if attack["label"] in wanted]
        if labels:
            print(f"\nOf {chosen.clips} clips, left:\n")
            print("\n".join(table(cells, labels)))


if __name__ == "__main__":
    main()
