"""Grids, the audit's probes and ``bench.evaluate`` on a GPU come to what they come to on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kit.gray import LEVELS, level_classifier
from kit.pretend import DEVICE, PretendDevice

import bench
from bench import Budget
from bench.audit import probes
from bench.grids.grid import read_grid
from bench.plan.expand import make_plan
from bench.run.engine import LocalEngine
from bench.run.export import collect, export
from bench.run.runner import Runner
from bench.run.store import Store

Write = Callable[..., Path]
ATTACKS = "[clean, noise, PGD, PGD+BPDA, Adaptive]"
DEFENSES = ("kit.gray:Coin", "kit.gray:Measured", "jpeg")


def outcomes(path: Path, folder: Path, device: torch.device) -> list[dict[str, Any]]:
    """All that a grid's cells come to, but for the time they took."""
    plan, store = make_plan(read_grid(path)), Store(folder / ".store")
    try:
        Runner(plan, store, LocalEngine(device), control=2).run()
        results = collect(plan, store)
        export(plan, store, folder)
    finally:
        store.close()
    found = []
    for result in results:
        for outcome in result.outcomes:
            found.append({"cell": result.cell, **outcome.model_dump(exclude={"seconds", "attack_seconds"})})
    return found


@pytest.mark.parametrize("defense", DEFENSES)
def test_a_grid_comes_to_the_same(gray_grid: Write, tmp_path: Path, defense: str) -> None:
    path = gray_grid(
        ('"kit.gray:Identity"', f'"{defense}"'), ("[clean, noise, PGD, PGD+BPDA, PGD+exact]", ATTACKS), ("6", "3")
    )
    plain = outcomes(path, tmp_path / "cpu", torch.device("cpu"))
    with PretendDevice():
        found = outcomes(path, tmp_path / "cuda", DEVICE)
    assert plain
    assert found == plain


def test_clips_go_to_the_device_without_waiting(gray_grid: Write) -> None:
    """From memory that stays in its place: attacked ones, and the clean ones that they are compared with."""

    def judged(device: torch.device) -> tuple[list[int | None], list[Any]]:
        plan, engine = make_plan(read_grid(gray_grid())), LocalEngine(device)
        cell = next(c for c in plan.cells if c.unit is not None and c.unit.shared)
        assert cell.unit is not None
        batch = engine.stacked([plan.dataset.load(r) for r in plan.refs])
        assert torch.equal(batch, torch.stack([plan.dataset.load(r) for r in plan.refs]))
        attacked = engine.attack(cell.unit, plan.refs, batch, [False] * len(batch))
        outcomes = engine.judge(cell, plan.refs, batch, attacked)
        return [o.prediction for o in outcomes], [o.linf for o in outcomes]

    with PretendDevice() as gpu:
        found = judged(DEVICE)
    clips = [place for place in gpu.transfers.unwaited if "bench/run/engine.py" in place]
    assert sum(gpu.transfers.unwaited[place] for place in clips) == 2
    assert found == judged(torch.device("cpu"))


def test_the_probes_of_an_audit_find_the_same(gray_grid: Write) -> None:
    def found(device: torch.device) -> list[Any]:
        plan = make_plan(read_grid(gray_grid(('"kit.gray:Identity"', '"planted:Rounding"'))))
        cell = next(c for c in plan.cells if c.defense.label == "planted:Rounding")
        probed = probes.ProbedRow(
            lambda: cell.defended.to(device),
            torch.stack([plan.dataset.load(r) for r in plan.refs]).to(device),
            [r.id for r in plan.refs],
            torch.tensor([r.label for r in plan.refs], device=device),
            "exact",
            Budget("linf", 0.12, steps=4),
        )
        return [finding.model_dump() for finding in probes.probe(probed)]

    plain = found(torch.device("cpu"))
    with PretendDevice():
        assert found(DEVICE) == plain
    assert plain


def test_evaluate_comes_to_the_same() -> None:
    clips = torch.stack([torch.full((3, 4, 8, 8), level) for level in LEVELS])

    def frame(device: str) -> Any:
        found = bench.evaluate(
            level_classifier(), clips, [0, 1, 2], defense="jpeg", budget={"size": 0.15}, device=device, verbose=False
        )
        return found.drop(columns=[name for name in found.columns if "seconds" in name])

    plain = frame("cpu")
    with PretendDevice():
        assert frame("cuda").equals(plain)
