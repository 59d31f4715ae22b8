"""How far a run is, as somebody else sees it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from kit.commands import Answer
from kit.running import run_plan

from bench.cli.watch import _look
from bench.grids.grid import override, read_grid
from bench.plan.cells import Plan
from bench.plan.expand import make_plan
from bench.run.leases import Leases
from bench.run.store import Store
from bench.run.watching import Pace, snapshot

Write = Callable[..., Path]
Bench = Callable[..., Answer]


def half_run(grid: Path, store: Path) -> Plan:
    """Runs a grid on its first two clips; returns the plan for all six."""
    found = read_grid(grid)
    run_plan(make_plan(override(found, clips=2)), store)
    return make_plan(found)


def test_what_is_stored_is_counted_by_cell(gray_grid: Write, tmp_path: Path) -> None:
    assert snapshot(make_plan(read_grid(gray_grid())), tmp_path / "nothing").done == 0
    seen = snapshot(half_run(gray_grid(), tmp_path / "store"), tmp_path / "store")
    # Two defences: clean, noise, PGD, PGD+BPDA and PGD+exact; PGD+BPDA of none is PGD+exact.
    assert {(c.done, c.clips) for c in seen.cells} == {(2, 6)}
    assert seen.clips == 3 * seen.done
    assert not seen.complete
    assert seen.working == []
    # A budget of 0.15 where 0.1 is enough: all clips are right, and wrong once attacked.
    assert {(c.attack, c.right) for c in seen.cells if c.attack in ("clean", "PGD", "PGD+exact")} == {
        ("clean", 2),
        ("PGD", 0),
        ("PGD+exact", 0),
    }
    # Noise and PGD are made once for both defences.
    assert (seen.units, seen.all_units) == (4, 12)
    assert seen.work / seen.all_work == pytest.approx(1 / 3)


def test_who_works_on_what(gray_grid: Write, tmp_path: Path) -> None:
    plan = half_run(gray_grid(), tmp_path)
    exact = next(c for c in plan.cells if c.attack_label == "PGD+exact" and c.defense.label != "none")
    with Store(tmp_path) as store, Leases(store) as leases:
        assert leases.take(exact.id, ["gray/2", "gray/3"])
        assert leases.take(f"control {exact.id}", ["gray/4"])
        assert leases.take("of another grid", ["gray/5"])
        seen = {(w.holder.pid, w.clips, w.what) for w in snapshot(plan, tmp_path).working}
    label = "kit.gray:Identity, PGD+exact"
    assert seen == {(str(os.getpid()), 2, label), (str(os.getpid()), 1, f"zero-budget control of {label}")}
    assert snapshot(plan, tmp_path).working == []


def test_clips_without_an_answer_are_told(gray_grid: Write, tmp_path: Path, bench: Bench) -> None:
    grid = gray_grid(("kit.gray:Identity", "kit.gray:FailsOnBright"))
    plan = half_run(grid, tmp_path / "results" / ".store")
    assert snapshot(plan, tmp_path / "results" / ".store").flaws == {}
    run_plan(plan, tmp_path / "results" / ".store")
    seen = snapshot(plan, tmp_path / "results" / ".store")
    assert seen.complete
    # Two of six clips are bright, and noise does not change that.
    flaws = {(c.defense, c.attack): c.flaws for c in seen.cells}
    assert flaws["kit.gray:FailsOnBright", "clean"] == flaws["kit.gray:FailsOnBright", "noise"] == {"failed": 2}
    assert not any(found for (defense, _), found in flaws.items() if defense == "none")
    answer = bench("watch", grid, "--results", tmp_path / "results")
    assert answer.code == 0
    said = " ".join(answer.out.split())
    total = seen.flaws["failed"]
    assert f"Without an answer: {total} failed; the first says: ZeroDivisionError: too bright" in said
    assert "Complete." in said


def test_time_is_told_by_the_pace_of_late() -> None:
    pace = Pace(window=100)
    assert pace.left(0, 50, 1000) is None  # what was there before says nothing
    assert pace.left(10, 50, 1000) is None
    assert pace.left(20, 150, 1000) == pytest.approx(850 / (100 / 20))
    for second in range(30, 201, 10):  # ten times as slow
        left = pace.left(second, 150 + (second - 20) * 0.5, 1000)
    assert left == pytest.approx((1000 - 240) / 0.5)


def test_the_command_changes_nothing_and_knows_runs_by_their_names(
    gray_grid: Write, tmp_path: Path, bench: Bench
) -> None:
    grid, results = gray_grid(), tmp_path / "results"
    half_run(grid, results / ".store")
    before = {p: p.read_bytes() for p in results.rglob("*") if p.is_file()}
    said = bench("watch", grid, "--results", results)
    assert (said.code, "20 of 60 outcomes, 4 of 12 shared" in said.out) == (0, True)
    assert "Nobody works on it now" in said.out
    assert "0.0 (2)" in said.out  # a figure of two clips
    assert "20 of 20 outcomes" in bench("watch", grid, "--clips", 2, "--results", results).out
    assert {p: p.read_bytes() for p in results.rglob("*") if p.is_file()} == before
    assert bench("watch", "no_such_grid", "--results", results).code == 2
    nothing = bench("watch", "demo", "--results", tmp_path / "elsewhere")
    assert nothing.code == 2
    assert "start 'bench run --grid demo'" in nothing.err


def test_watching_ends_with_the_run(results: Path, gray_grid: Write, capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_plan(read_grid(gray_grid(("kit.gray:Identity", "kit.gray:Lighten"))))
    _look(plan, results / ".store", 60.0, once=False)
    assert "The run is complete." in capsys.readouterr().err
