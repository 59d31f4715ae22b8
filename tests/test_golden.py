"""Golden outcomes: an edit that changes a number without changing an identity does not go unnoticed.

The stored outcomes were computed by the code as it was before bench/ was cut into rooms, and by a script of its own.
Where a test here fails after an edit that was meant to change numbers, see first that the identities of the cells
changed too (they do if the edited file is one that ``bench/code.py`` follows or counts as engine), then write the new
outcomes with ``python tests/test_golden.py``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from bench.grids.grid import Grid
from bench.plan.expand import make_plan
from bench.records.outcome import Outcome
from bench.registry import ATTACKS, Spec
from bench.run.engine import LocalEngine
from bench.run.export import collect
from bench.run.runner import Runner
from bench.run.store import Store

FOLDER = Path(__file__).with_name("golden")
STORED = FOLDER / "outcomes.json"
GRIDS: list[dict[str, Any]] = [yaml.safe_load(p.read_text()) for p in sorted(FOLDER.glob("*.yaml"))]
EXACT = {"clip", "label", "status", "correct", "attacked", "clean_prediction", "prediction", "votes", "draws"}
COUNTS = {"forwards", "backwards", "error"}


def losses(outcome: dict[str, Any]) -> list[float]:
    """The trace; after the clip has left the batch, -1."""
    return [-1.0 if value is None else value for value in outcome["trace"]]


def measured(grid: dict[str, Any], folder: Path) -> dict[str, list[Outcome]]:
    plan = make_plan(Grid.model_validate(grid))
    store = Store(folder)
    try:
        Runner(plan, store, LocalEngine(torch.device("cpu")), batch_size=3, control=0).run()
        return {f"{grid['name']} | {r.defense} | {r.attack}": r.outcomes for r in collect(plan, store)}
    finally:
        store.close()


@pytest.mark.slow
@pytest.mark.parametrize("grid", GRIDS, ids=[grid["name"] for grid in GRIDS])
def test_outcomes_are_those_that_are_stored(grid: dict[str, Any], tmp_path: Path) -> None:
    stored = {k: v for k, v in json.loads(STORED.read_text()).items() if k.startswith(f"{grid['name']} |")}
    found = measured(grid, tmp_path)
    assert found.keys() == stored.keys()
    pairs: list[tuple[str, str, float, float]] = []
    for cell, outcomes in found.items():
        for outcome, old in zip(outcomes, stored[cell], strict=True):
            was, now = Outcome.model_validate(old).model_dump(), outcome.model_dump()
            for key in (*EXACT, *COUNTS):
                assert now[key] == was[key], (cell, outcome.clip, key)
            # Sums of float32 differ in the last digits from machine to machine.
            for key in ("linf", "l2", "changed"):
                assert now[key] == pytest.approx(was[key], rel=1e-2, abs=1e-6), (cell, outcome.clip, key)
            pairs += [(cell, outcome.clip, a, b) for a, b in zip(losses(now), losses(was), strict=True)]
    # Where a gradient is 0 but for rounding, its sign is another one on another machine, and the next loss with it.
    assert [pair for pair in pairs if pair[2] != pytest.approx(pair[3], rel=0.2, abs=0.05)] == []
    other = [pair for pair in pairs if pair[2] != pytest.approx(pair[3], rel=2e-2, abs=1e-3)]
    assert len(other) <= len(pairs) / 100, other


def test_every_attack_is_among_them() -> None:
    attacks = [a if isinstance(a, str) else a["attack"] for grid in GRIDS for a in grid["attacks"]]
    names = {Spec.parse(a).name.lower() if not isinstance(a, str) or "(" in a else a.partition("+")[0] for a in attacks}
    # Another library's numbers are that library's.
    assert {name.lower().replace("-", "_") for name in names} >= set(ATTACKS.names()) - {"torchattacks"}


def write() -> None:
    """Replaces the stored outcomes by those of the present code."""
    import tempfile

    cells: list[str] = []
    for grid in GRIDS:
        with tempfile.TemporaryDirectory() as folder:
            for cell, outcomes in measured(grid, Path(folder)).items():
                lines = [json.dumps(o.model_dump(exclude={"seconds"}, exclude_defaults=True)) for o in outcomes]
                cells.append(f"{json.dumps(cell)}: [\n " + ",\n ".join(lines) + "\n]")
    STORED.write_text("{\n" + ",\n".join(cells) + "\n}\n")


if __name__ == "__main__":
    sys.exit(write())
