"""Workers in processes of their own: what one process gives, whatever becomes of them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kit.commands import Answer
from kit.running import files
from kit.together import NOTES, PROCESSES, by_process, notes

from bench import BenchError
from bench.faults import MachineFault
from bench.grids.grid import read_grid
from bench.plan.cells import Plan
from bench.plan.expand import make_plan
from bench.records.outcome import Outcome
from bench.run.cluster import RayCrew, Recipe, _check_address, _shares
from bench.run.runner import Runner
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
    assert "a worker ended abruptly" in many.err
    # A third process has come in the place of the killed one, whose batch was begun twice, and no other.
    assert len(by_process(noted)) == 3
    begun = len(notes(noted))
    alone = notes_of_one(noted, lambda: bench(*arguments, tmp_path / "one"))
    assert begun == alone + 1
    assert len(files(tmp_path / "one" / "gray")) == 3 * 6 - 1 + 1  # a cell that does not exist, the description
    assert files(tmp_path / "many" / "gray") == files(tmp_path / "one" / "gray")
    kept = [stored(grid, tmp_path / name / ".store") for name in ("many", "one")]
    for found in kept:
        found.pop(("kit.gray:Coin", "Decided"))  # does not exist, and may have begun elsewhere before that was known
    assert kept[0] == kept[1]
    assert any(outcome["traceback"] for outcomes in kept[0].values() for outcome in outcomes)


def notes_of_one(file: Path, run: Callable[[], Answer]) -> int:
    """How many batches a run in this process begins."""
    file.unlink()
    file.with_suffix(".fatal").write_text("nobody")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(NOTES, str(file))
        patched.setenv(PROCESSES, "1")
        assert run().code == 1
    return len(notes(file))


@pytest.fixture(scope="module")
def crew(ray: Path) -> Iterator[RayCrew]:
    """One worker, which can be given one plan after the other."""
    with RayCrew(1, device="cpu") as crew:
        yield crew


def run(crew: RayCrew, grid: Path, folder: Path, *, other: Path | None = None, fail_fast: bool = False) -> Plan:
    """Runs a grid, of which the crew is told another one, maybe."""
    plan = make_plan(read_grid(grid))
    crew.give(Recipe.of(read_grid(other or grid), folder, None, None, fail_fast=fail_fast), plan)
    with Store(folder) as store:
        Runner(plan, store, crew, batch_size=3, control=0).run()
    return plan


def test_a_worker_that_plans_something_else_is_refused(gray_grid: Write, tmp_path: Path, crew: RayCrew) -> None:
    grid, other = gray_grid((ALL, "[noise]")), gray_grid((ALL, "[noise]"), ("0.15", "0.14"), name="other")
    with pytest.raises(BenchError, match="A worker plans other cells or clips than this process"):
        run(crew, grid, tmp_path / "s", other=other)
    assert not any(stored(grid, tmp_path / "s").values())


def test_the_first_failure_stops_a_run_where_it_is_to(gray_grid: Write, tmp_path: Path, crew: RayCrew) -> None:
    grid = gray_grid((ALL, "[noise]"), ('"kit.gray:Identity"', "kit.gray:FailsOnBright"))
    with pytest.raises(BenchError, match="ZeroDivisionError: too bright") as caught:
        run(crew, grid, tmp_path / "s", fail_fast=True)
    assert "in purify" in str(caught.value)


def test_a_fault_of_a_workers_machine_stops_the_run_and_charges_nobody(
    gray_grid: Write, tmp_path: Path, crew: RayCrew
) -> None:
    grid = gray_grid((ALL, '[noise, {attack: "kit.together:Broken"}]'))
    with pytest.raises(MachineFault, match=r"The device failed \(CUDA error"):
        run(crew, grid, tmp_path / "s")
    assert {o["status"] for outcomes in stored(grid, tmp_path / "s").values() for o in outcomes} == {"ok"}


def test_a_batch_that_kills_every_worker_stops_the_run(gray_grid: Write, tmp_path: Path, crew: RayCrew) -> None:
    crew.most_deaths = 1
    grid = gray_grid((ALL, '[{attack: "kit.together:Last"}]'))
    with pytest.raises(MachineFault, match="1 workers ended abruptly when they were to work on gray/0, gray/1"):
        run(crew, grid, tmp_path / "s")


def nodes(*resources: dict[str, float]) -> Any:
    alive = [{"Alive": True, "Resources": r} for r in resources]
    return SimpleNamespace(nodes=lambda: [*alive, {"Alive": False, "Resources": {"CPU": 99.0, "GPU": 99.0}}])


def test_every_worker_has_a_gpu_or_its_share_of_the_cores() -> None:
    box, plain = {"CPU": 32.0, "GPU": 8.0}, {"CPU": 8.0}
    assert _shares(nodes(box), None, "auto") == ("cuda", 8, 4)
    assert _shares(nodes(box, box), 4, "cuda") == ("cuda", 4, 16)
    assert _shares(nodes(box), None, "cpu") == ("cpu", 32, 1)
    assert _shares(nodes(plain), 3, "auto") == ("cpu", 3, 2)
    assert _shares(nodes(plain, plain), 3, "auto") == ("cpu", 3, 4)  # five cores for each are nowhere but twice
    with pytest.raises(BenchError, match="9 workers need as many GPUs, and the Ray cluster has 8"):
        _shares(nodes(box), 9, "auto")
    with pytest.raises(BenchError, match="9 workers need as many cores, and the Ray cluster has 8"):
        _shares(nodes(plain), 9, "auto")
    with pytest.raises(BenchError, match="the Ray cluster has no GPU"):
        _shares(nodes(plain), None, "cuda")


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("127.0.0.1:1", "There is no Ray cluster at 127.0.0.1:1 "),  # a port that nobody listens on
        ("ray://head", "HOST:PORT of a Ray cluster's head, or auto, not 'ray://head'"),
        ("head", "HOST:PORT of a Ray cluster's head, or auto, not 'head'"),
    ],
)
def test_an_address_that_leads_nowhere_is_one_sentence(address: str, says: str) -> None:
    with pytest.raises(BenchError, match=re.escape(says)):
        _check_address(address)


def test_what_cannot_be_is_one_sentence(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    for options, says in (
        (["--engine", "ray"], "pip install 'videorobustbench[ray]'"),
        (["--engine", "dask"], "Unknown engine 'dask': choose local or ray."),
        (["--workers", "2"], "--workers and --address are for --engine ray"),
        (["--engine", "ray", "--device", "cuda:1"], "--device is auto, cpu or cuda"),
    ):
        answer = bench("run", "--results", tmp_path, *options)
        assert answer.code == 2
        assert says in answer.err.replace("\n", " ")
        assert answer.err.count("Error:") == 1
