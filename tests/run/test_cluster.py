"""Workers in processes of their own: what one process gives, whatever becomes of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kit.commands import Answer
from kit.together import NOTES, PROCESSES, by_process, notes

from bench.grids.grid import read_grid
from bench.plan.expand import make_plan
from bench.records.outcome import Outcome
from bench.run.store import Store

Write = Callable[..., Path]
Bench = Callable[..., Answer]
ALL = "[clean, noise, PGD, PGD+BPDA, PGD+exact]"


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cluster of two cores, whose workers write their notes to a file."""
    import ray

    file = tmp_path_factory.mktemp("notes") / "notes.txt"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(NOTES, str(file))
        patched.setenv(PROCESSES, "2")
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        here = Path(__file__).parents[1]
        patched.setenv("PYTHONPATH", os.pathsep.join([str(here), str(here.parent / "benchmarks")]))
        ray.init(
            "local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=100 << 20,
            _node_ip_address="127.0.0.1",
        )
        try:
            yield file
        finally:
            ray.shutdown()


@pytest.fixture
def noted(ray: Path) -> Path:
    ray.unlink(missing_ok=True)
    return ray


def texts(folder: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in folder.glob("*.json") if p.name != "_run.json"}


def stored(grid: Path, folder: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """All that the store holds of a grid, tracebacks of what failed too, but no times."""
    plan = make_plan(read_grid(grid))
    with Store(folder, writable=False) as store:
        outcomes = {(c.defense.label, c.attack_label): store.outcomes(c.id) for c in plan.cells}
    return {key: [without_time(found[clip]) for clip in sorted(found)] for key, found in outcomes.items()}


def without_time(outcome: Outcome) -> dict[str, Any]:
    return outcome.model_dump(exclude={"seconds"})


def test_workers_give_what_one_process_gives_to_the_byte(
    gray_grid: Write, tmp_path: Path, noted: Path, bench: Bench
) -> None:
    """Failures with their tracebacks, refused cells and controls among it; one worker is killed on the way."""
    grid = gray_grid(
        ("length: 6", "length: 10, absent: 3"),
        ('"kit.gray:Identity"', '"kit.gray:FailsOnBright", "kit.gray:Coin"'),
        (
            ALL,
            "[noise, PGD, PGD+BPDA, {attack: 'kit.moves:Decided(by=0.15)', gradient: query, label: Decided},"
            " {attack: 'kit.together:Fatal', gradient: bpda, label: Fatal}]",
        ),
    )
    arguments = ["run", "--grid", grid, "--batch-size", "2", "--control", "2", "--results"]
    many = bench(*arguments, tmp_path / "many", "--engine", "ray", "--workers", "2")
    assert many.code == 1, many.err  # clips that failed
    assert "1 workers ended abruptly" in many.err
    # A third process has come in the place of the killed one, whose batch was begun twice, and no other.
    assert len(by_process(noted)) == 3
    begun = len(notes(noted))
    alone = notes_of_one(noted, lambda: bench(*arguments, tmp_path / "one"))
    assert begun == alone + 1
    assert len(texts(tmp_path / "one" / "gray")) == 16
    assert texts(tmp_path / "many" / "gray") == texts(tmp_path / "one" / "gray")
    assert stored(grid, tmp_path / "many" / ".store") == stored(grid, tmp_path / "one" / ".store")
    again = bench(*arguments, tmp_path / "many", "--engine", "ray", "--workers", "2")
    assert "nothing was left to do" in again.out


def notes_of_one(file: Path, run: Callable[[], Answer]) -> int:
    """How many batches a run in this process begins."""
    file.unlink()
    file.with_suffix(".fatal").write_text("nobody")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(NOTES, str(file))
        patched.setenv(PROCESSES, "1")
        assert run().code == 1
    return len(notes(file))
