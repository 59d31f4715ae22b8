"""Several processes on one store share the work, and take over what a dead one has left."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kit.running import exported, files
from kit.together import NOTES, PROCESSES, by_process

from bench.files import here
from bench.run.leases import Leases
from bench.run.store import Store

Write = Callable[..., Path]
HERE = Path(__file__).parents[1]


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[tuple[Store, Store]]:
    """A store, as two processes have it open."""
    with Store(tmp_path / "s") as one, Store(tmp_path / "s") as other:
        yield one, other


def write(store: Store, owner: str, host: str, pid: int, until: float) -> None:
    with store.leasing() as db:
        db.execute("INSERT OR REPLACE INTO leases VALUES ('w', 'a', ?, ?, ?, ?)", (owner, host, pid, until))


def test_what_one_holds_nobody_else_takes_until_it_is_given_back(stores: tuple[Store, Store]) -> None:
    with Leases(stores[0]) as mine, Leases(stores[1]) as theirs:
        assert mine.take("w", ["a", "b"])
        assert mine.take("w", ["a"])  # one's own
        assert not theirs.take("w", ["b", "c"])
        assert theirs.held() == {("w", "a"), ("w", "b")}
        assert theirs.take("w", ["c"])  # of the refused ones, none was kept
        assert theirs.take("other", ["a"])
        mine.give_back("w", ["a", "b"])
        assert not theirs.take("w", ["b"])
        mine.flush()
        assert theirs.take("w", ["b"])
        assert mine.held() == {("w", "b"), ("w", "c"), ("other", "a")}
    with Leases(stores[0]) as again:
        assert again.held() == set()


def test_leases_of_dead_processes_and_old_ones_count_for_nothing(stores: tuple[Store, Store]) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    soon, long_ago, alive = time.time() + 60, time.time() - 1, os.getppid()
    for host, pid, until, counts in (
        (here(), alive, soon, True),
        (here(), alive, long_ago, False),
        (here(), ended.pid, soon, False),
        ("elsewhere", ended.pid, soon, True),  # that number means nothing here
        ("elsewhere", ended.pid, long_ago, False),
    ):
        write(stores[0], "somebody", host, pid, until)
        with Leases(stores[1]) as mine:
            assert mine.held() == ({("w", "a")} if counts else set()), (host, pid, until)
            assert mine.take("w", ["a"]) is not counts


def test_leases_are_renewed_while_their_owner_runs(stores: tuple[Store, Store]) -> None:
    def until() -> float:
        return float(stores[1].leases()[0][-1])

    with Leases(stores[0], lasts=1000.0, renewed=0.01) as mine:
        mine.take("w", ["a"])
        first, deadline = until(), time.monotonic() + 60
        while until() <= first and time.monotonic() < deadline:
            time.sleep(0.01)
        assert until() > first


def test_the_same_command_started_twice_shares_the_work(
    gray_grid: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attacks = "[{attack: 'kit.together:Noting'}, {attack: 'kit.together:Noting', gradient: bpda}]"
    grid = gray_grid(("length: 6", "length: 10"), ("[clean, noise, PGD, PGD+BPDA, PGD+exact]", attacks))
    arguments = ["run", "--grid", str(grid), "--batch-size", "1", "--control", "0", "--results", str(tmp_path / "r")]
    file = tmp_path / "notes.txt"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent / "benchmarks")]),
        NOTES: str(file),
        PROCESSES: "2",
    }
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.cli", *arguments], env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    printed = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    # The clips of the undefended classifier once, and those against the defence: every batch by one of the two.
    assert sum(by_process(file).values()) == 2 * 10
    assert len(by_process(file)) == 2
    tables = [text.partition("\n\n")[0] for text in printed]
    assert tables[0] == tables[1]
    monkeypatch.setenv(NOTES, str(tmp_path / "alone.txt"))
    monkeypatch.setenv(PROCESSES, "1")
    exported(grid, tmp_path / "alone", control=0)
    assert files(tmp_path / "r" / "gray") == files(tmp_path / "alone" / "gray")
