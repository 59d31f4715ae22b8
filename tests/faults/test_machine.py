"""Faults of the machine, put in: nobody is charged, nothing that was computed is lost, and the same command goes on."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from kit.commands import Answer
from kit.running import files, run

from bench import BenchError
from bench.faults import MachineFault
from bench.grids.grid import read_grid
from bench.plan.cells import Plan
from bench.plan.expand import make_plan
from bench.records.outcome import Outcome
from bench.records.results import CellResult, read_results
from bench.run.engine import LocalEngine
from bench.run.export import collect
from bench.run.runner import Runner
from bench.run.store import Store

Write = Callable[..., Path]
Bench = Callable[..., Answer]
CPU = torch.device("cpu")
DISK = 4096
GRAY_BOX = ("[clean, noise, PGD, PGD+BPDA, PGD+exact]", "[PGD, PGD+BPDA]")


def without_time(cells: dict[tuple[str, str], CellResult]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    return {key: [o.model_dump(exclude={"seconds"}) for o in cell.outcomes] for key, cell in cells.items()}


class Failing(LocalEngine):
    """Raises while batches are larger than there is room for, or every time from the ``first`` call on.

    Args:
        error: makes what is raised.
    """

    def __init__(self, error: Callable[[], BaseException], room: int = 0, first: int = 0) -> None:
        super().__init__(CPU)
        self.error, self.room, self.first = error, room, first
        self.sizes: list[int] = []

    def judge(self, cell: Any, refs: Any, clips: Any, adversarial: Any) -> list[Outcome]:
        self.sizes.append(len(refs))
        if len(self.sizes) > self.first and len(refs) > self.room:
            raise self.error()
        return super().judge(cell, refs, clips, adversarial)


def run_with(engine: LocalEngine, grid: Path, folder: Path, **options: Any) -> tuple[Plan, list[CellResult]]:
    plan = make_plan(read_grid(grid))
    with Store(folder) as store:
        Runner(plan, store, engine, **{"control": 0, **options}).run()
        return plan, collect(plan, store)


def memory() -> BaseException:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize(
    "error", [memory, MemoryError, lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: ...")]
)
def test_a_batch_for_which_memory_is_lacking_is_halved_and_stays_so(
    error: Callable[[], BaseException], gray_grid: Write, tmp_path: Path
) -> None:
    grid = gray_grid(GRAY_BOX)
    whole = run(grid, tmp_path / "whole")
    engine = Failing(error, room=2)
    _, results = run_with(engine, grid, tmp_path / "s", batch_size=6)
    assert without_time({(r.defense, r.attack): r for r in results}) == without_time(whole)
    assert engine.sizes == [6, 3, 1, 1, 1, 1, 1, 1] * 6  # six cells; what had no room is not tried again


def test_where_even_one_clip_has_no_room_the_run_stops_and_charges_nobody(gray_grid: Write, tmp_path: Path) -> None:
    grid = gray_grid(GRAY_BOX)
    with pytest.raises(MachineFault, match=r"not enough memory: defence none on .*, clean was at work on one clip"):
        run_with(Failing(memory), grid, tmp_path / "s")
    whole = run(grid, tmp_path / "whole")
    assert without_time(run(grid, tmp_path / "s")) == without_time(whole)


@pytest.mark.parametrize("text", ["CUDA error: unspecified launch failure", "CUDA error: device-side assert triggered"])
def test_a_lost_device_stops_the_run_and_charges_nobody(text: str, gray_grid: Write, tmp_path: Path) -> None:
    grid = gray_grid(GRAY_BOX)
    engine = Failing(lambda: RuntimeError(text), first=3)
    with pytest.raises(MachineFault, match=r"The device failed \(CUDA error"):
        run_with(engine, grid, tmp_path / "s", batch_size=2)
    plan = make_plan(read_grid(grid))
    with Store(tmp_path / "s") as store:
        stored = [o for cell in plan.cells for o in store.outcomes(cell.id).values()]
    assert len(stored) == 6  # three batches
    assert {o.status for o in stored} == {"ok"}
    assert without_time(run(grid, tmp_path / "s")) == without_time(run(grid, tmp_path / "whole"))


def test_a_lock_that_is_held_too_long_charges_nobody(gray_grid: Write, tmp_path: Path) -> None:
    plan = make_plan(read_grid(gray_grid(GRAY_BOX)))
    with Store(tmp_path / "s", patience=0.1) as store:
        other = sqlite3.connect(tmp_path / "s" / "outcomes.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        runner = Runner(plan, store, LocalEngine(CPU), batch_size=2, control=0)
        with pytest.raises(MachineFault, match=r"another process has held it for 0\.1 s"):
            runner.run()
        other.execute("ROLLBACK")
        other.close()
        runner.run()
        assert {o.status for r in collect(plan, store) for o in r.outcomes} == {"ok"}


def test_a_drive_that_is_gone_is_no_fault_of_its_clips(gray_grid: Write, tmp_path: Path) -> None:
    drive = tmp_path / "drive"
    drive.mkdir()
    plan = make_plan(read_grid(gray_grid(GRAY_BOX, ("length: 6", "length: 6, absent: 4"))))
    plan.dataset.root = drive  # type: ignore[attr-defined]
    with Store(tmp_path / "s") as store:
        drive.rmdir()
        with pytest.raises(MachineFault, match=r"The folder of the data set, .*drive, is gone"):
            Runner(plan, store, LocalEngine(CPU), batch_size=2, control=0).run()
        drive.mkdir()
        Runner(plan, store, LocalEngine(CPU), batch_size=2, control=0).run()
        statuses = [o.status for r in collect(plan, store) for o in r.outcomes]
    assert statuses.count("missing") == len(plan.cells)  # the one that is absent from a drive that is there
    assert statuses.count("ok") == 5 * len(plan.cells)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of ``DISK`` KiB, where one may be had."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={DISK}k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mounting, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("this user may mount no disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_charges_nobody_and_the_command_goes_on_once_there_is_room(
    gray_grid: Write, small_disk: Path, tmp_path: Path, bench: Bench
) -> None:
    grid, ballast = gray_grid(GRAY_BOX), small_disk / "ballast"
    arguments = ["run", "--grid", grid, "--batch-size", 1, "--results"]
    assert bench(*arguments, tmp_path / "whole").code == 0
    # First the store itself finds no room, then clips, outcomes and result files do not.
    stopped = 0
    for room in (16, 48, 80, 128, 192, 288, 432, 648, 972, 1458):
        ballast.write_bytes(b"x" * 1024 * max(0, DISK - room - _used(small_disk, ballast)))
        answer = bench(*arguments, small_disk)
        ballast.unlink()
        if answer.code == 0:
            break
        stopped += 1
        assert answer.code == 2, answer.err
        assert answer.err.count("Error:") == 1
        assert "No space left" in answer.err or "full" in answer.err or "disk I/O error" in answer.err, answer.err
        assert "Traceback" not in answer.err
        for file in (small_disk / "gray").glob("*.json"):
            json.loads(file.read_text())  # whole, or not there
    assert stopped > 2
    assert bench(*arguments, small_disk).code == 0
    assert files(small_disk / "gray") == files(tmp_path / "whole" / "gray")


def _used(folder: Path, ballast: Path) -> int:
    """KiB on the disk, without the ballast."""
    files = [p for p in folder.rglob("*") if p.is_file() and p != ballast]
    return sum(4 * (1 + p.stat().st_size // 4096) for p in files)


@pytest.mark.parametrize("damage", ["remove", "empty", "cut", "swap"])
def test_adversarial_clips_that_are_gone_or_torn_are_made_again(damage: str, gray_grid: Write, tmp_path: Path) -> None:
    """While the run is at work: they were there when it began."""
    grid = gray_grid(GRAY_BOX)
    whole = run(grid, tmp_path / "whole")
    other = sorted((tmp_path / "whole" / "bank").rglob("*.adv"))[0].read_bytes()

    class Careless(LocalEngine):
        spoiled = 0

        def attack(self, *arguments: Any) -> Any:
            made = super().attack(*arguments)
            for file in (tmp_path / "s" / "bank").rglob("*.adv"):
                self.spoiled += 1
                content = file.read_bytes()
                file.unlink()
                if damage == "empty":
                    file.write_bytes(b"")
                elif damage == "cut":
                    file.write_bytes(content[: len(content) // 2])
                elif damage == "swap":
                    file.write_bytes(other)
            return made

    engine = Careless(CPU)
    _, results = run_with(engine, grid, tmp_path / "s", batch_size=3)
    assert engine.spoiled
    assert without_time({(r.defense, r.attack): r for r in results}) == without_time(whole)


def test_a_torn_outcome_or_control_is_measured_again(gray_grid: Write, tmp_path: Path) -> None:
    grid = gray_grid(GRAY_BOX)
    first = run(grid, tmp_path / "s", control=2)
    with sqlite3.connect(tmp_path / "s" / "outcomes.sqlite") as db:
        db.execute("UPDATE outcomes SET body = substr(body, 1, 20) WHERE rowid % 3 = 0")
        db.execute("UPDATE outcomes SET body = '' WHERE rowid % 3 = 1")
        db.execute("UPDATE controls SET body = '{'")
        db.execute("UPDATE clips SET body = '[' WHERE rowid % 2 = 0")
        db.execute("UPDATE batch_sizes SET size = 0")
    again = run(grid, tmp_path / "s", control=2)
    assert without_time(again) == without_time(first)
    assert {key: cell.control for key, cell in again.items()} == {key: cell.control for key, cell in first.items()}


def test_torn_files_beside_the_results_are_written_anew(gray_grid: Write, tmp_path: Path, bench: Bench) -> None:
    grid, folder = gray_grid(), tmp_path / "r"
    arguments = ["run", "--grid", grid, "--results", folder]
    assert bench(*arguments).code == 0
    whole = files(folder / "gray")
    for name in [*whole, "_run.json"]:
        for torn in (b"", b'{"cell": "', b"\xff\xfe\x00"):
            (folder / "gray" / name).write_bytes(torn)
            answer = bench(*arguments)
            assert answer.code == 0, (name, torn, answer.err)
            assert files(folder / "gray") == whole
            assert "seconds_of_a_pass" in json.loads((folder / "gray" / "_run.json").read_text())


def test_looking_writes_nothing(gray_grid: Write, tmp_path: Path, bench: Bench) -> None:
    grid, folder = gray_grid(), tmp_path / "r"
    assert bench("run", "--grid", grid, "--results", folder, "--dry-run").code == 0
    assert not folder.exists()
    assert bench("run", "--grid", grid, "--results", folder).code == 0
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*")}
    answer = bench("run", "--grid", grid, "--results", folder, "--dry-run")
    assert "60 of 60 outcomes are stored" in answer.out
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*")} == before
    (folder / "gray" / "_audit.json").mkdir()  # nobody can write there
    answer = bench("audit", grid, "--results", folder, "--clips", 0)
    assert answer.code == 2
    assert "Cannot write the audit" in answer.err
    assert "kit.gray:Identity" in answer.out  # what was found is shown all the same
    (folder / "gray" / "_audit.json").rmdir()
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*") if p.name != "gray"} == {
        p: seen for p, seen in before.items() if p.name != "gray"
    }


def test_the_failure_of_a_component_is_told_with_its_line_and_kept_with_its_traceback(
    gray_grid: Write, tmp_path: Path, bench: Bench
) -> None:
    grid, folder = gray_grid(('"kit.gray:Identity"', "kit.gray:FailsOnBright")), tmp_path / "r"
    answer = bench("run", "--grid", grid, "--results", folder)
    assert answer.code == 1
    line = 'raise ZeroDivisionError("too bright")'
    assert line in answer.err
    assert 'File "kit/gray.py", line ' in answer.err
    assert "--traceback shows all of it" in answer.err
    assert "in run\n" not in answer.err
    whole = bench("run", "--grid", grid, "--results", folder, "--traceback").err
    assert "Traceback (most recent call last)" in whole
    assert "in purify" in whole
    failed = [o for r in read_results(folder / "gray") for o in r.outcomes if o.status == "failed"]
    assert failed
    assert all(o.error and "too bright (kit/gray.py:" in o.error and not o.traceback for o in failed)
    plan = make_plan(read_grid(grid))
    with Store(folder / ".store", writable=False) as store:
        kept = [o for c in plan.cells for o in store.outcomes(c.id).values() if o.status == "failed"]
    assert len(kept) == len(failed)
    assert all(line in o.traceback for o in kept)


def test_fail_fast_stops_at_the_first_failure_and_charges_nobody(
    gray_grid: Write, tmp_path: Path, bench: Bench
) -> None:
    grid, folder = gray_grid(('"kit.gray:Identity"', "kit.gray:FailsOnBright")), tmp_path / "r"
    answer = bench("run", "--grid", grid, "--results", folder, "--fail-fast")
    assert answer.code == 2
    assert "ZeroDivisionError: too bright (kit/gray.py:" in answer.err
    assert "from defence kit.gray:FailsOnBright" in answer.err
    assert "in purify" in answer.err
    plan = make_plan(read_grid(grid))
    with Store(folder / ".store", writable=False) as store:
        assert {o.status for c in plan.cells for o in store.outcomes(c.id).values()} == {"ok"}


def test_what_a_fault_of_the_machine_was_charged_with_by_an_older_version_is_mended(
    gray_grid: Write, tmp_path: Path
) -> None:
    grid = gray_grid(GRAY_BOX)
    whole = run(grid, tmp_path / "s")
    plan = make_plan(read_grid(grid))
    with Store(tmp_path / "s") as store:
        for cell in plan.cells:
            lost = [
                o.model_copy(update={"status": "failed", "correct": False, "error": "OSError: disk full"})
                for o in list(store.outcomes(cell.id).values())[:2]
            ]
            store.add(cell.id, "{}", lost)
    assert without_time(run(grid, tmp_path / "s")) != without_time(whole)
    assert without_time(run(grid, tmp_path / "s", retry=True)) == without_time(whole)


def test_a_store_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "outcomes.sqlite").write_text("this is no database, but it is long enough to be read as one" * 20)
    with pytest.raises(BenchError, match=r"Cannot open the store .* move .*outcomes\.sqlite away"):
        Store(tmp_path)


@pytest.mark.slow
def test_two_processes_at_once_and_one_that_is_told_to_end_give_what_one_gives(
    gray_grid: Write, tmp_path: Path, bench: Bench
) -> None:
    grid = gray_grid(("length: 6", "length: 16"))
    assert bench("run", "--grid", grid, "--results", tmp_path / "whole").code == 0

    arguments = ["run", "--grid", str(grid), "--results", str(tmp_path / "r"), "--batch-size", "1"]

    def start() -> subprocess.Popen[bytes]:
        here = Path(__file__).parents[1]
        return subprocess.Popen(
            [sys.executable, "-m", "bench.cli", *arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent / "benchmarks")])},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    both = [start(), start()]
    file = tmp_path / "r" / ".store" / "outcomes.sqlite"
    deadline = time.monotonic() + 240
    while not _some(file) and time.monotonic() < deadline:
        time.sleep(0.01)
    both[0].send_signal(signal.SIGTERM)
    assert both[0].wait(timeout=60) != 0
    assert both[1].wait(timeout=300) == 0
    assert bench(*arguments).code == 0
    assert files(tmp_path / "r" / "gray") == files(tmp_path / "whole" / "gray")


def _some(file: Path) -> bool:
    """Whether outcomes are stored, but few."""
    if not file.is_file():
        return False
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=30) as db:
        try:
            return bool(db.execute("SELECT count(*) FROM outcomes").fetchone()[0] > 10)
        except sqlite3.OperationalError:
            return False
