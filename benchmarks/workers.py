"""Measures what a second worker brings: the same part of a grid with one worker and with two, one after the other.

    OMP_NUM_THREADS=1 python benchmarks/workers.py                     # 1 and 2 workers, a minute or two each
    OMP_NUM_THREADS=1 python benchmarks/workers.py --workers 0 1 2 4 --rounds 3 -- --grid demo --attack PGD

What stands after ``--`` goes to ``bench run``; 0 workers are the engine of one process. Each round runs every number of
workers once, each in a folder of its own that is removed, and ratios are taken within a round, so that what else the
machine does falls on both. Columns: seconds of the whole command; seconds from the first stored batch to the end, which
leaves out loading; and the seconds of processor time of each worker from its first batch on (Linux). The last ratio is
that of the processor time of the first number of workers to that of the busiest worker: how much sooner the work would
be done by cores that do nothing else.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

PART = [
    *("--grid", "demo", "--clips", "48", "--steps", "10", "--batch-size", "4", "--control", "0"),
    *("--defense", "temporal_shuffle(window=2)", "--defense", "jpeg", "--attack", "PGD", "--attack", "PGD+bpda"),
]
_WORKER = b"ray::Hands"


@dataclass(frozen=True)
class Measured:
    """Seconds of one run: of the whole command, of the work, and of processors by worker."""

    whole: float
    work: float
    processor: list[float]

    def __str__(self) -> str:
        each = " + ".join(f"{seconds:.1f}" for seconds in self.processor) or "?"
        return f"{self.whole:7.1f} s whole  {self.work:7.1f} s work  processor {each} s"


def run(workers: int, options: list[str]) -> Measured:
    """Runs a part of a grid once."""
    engine = ["--engine", "ray", "--workers", str(workers)] if workers else ["--engine", "local"]
    with tempfile.TemporaryDirectory(prefix="bench-workers-") as folder:
        command = [sys.executable, "-m", "bench.cli", "run", *options, *engine, "--results", folder]
        begun, first = time.monotonic(), 0.0
        started: set[int] = set()
        before: dict[int, float] = {}
        now: dict[int, float] = {}
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while process.poll() is None:
            for pid, (seconds, works) in _processor_seconds(process.pid, workers, first > 0).items():
                now[pid] = seconds
                if pid not in started and not works:
                    before[pid] = seconds
                started |= {pid} if works else set()
            if not first and _any_outcome(Path(folder) / ".store" / "outcomes.sqlite"):
                first = time.monotonic()
            time.sleep(0.5)
        ended = time.monotonic()
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    spent = sorted((seconds - before.get(pid, 0.0) for pid, seconds in now.items()), reverse=True)
    return Measured(ended - begun, ended - first, spent)


def _any_outcome(file: Path) -> bool:
    if not file.is_file():
        return False
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=30) as db:
        try:
            return bool(db.execute("SELECT count(*) FROM outcomes").fetchone()[0])
        except sqlite3.OperationalError:  # the tables are not made yet
            return False


def _processor_seconds(root: int, workers: int, begun: bool) -> dict[int, tuple[float, bool]]:
    """Of each worker under a process, or of that process: seconds that processors gave to it, and whether it is at a
    batch just now; empty where nobody tells.

    Args:
        begun: whether a batch has been stored.
    """
    ticks, found, parents = os.sysconf("SC_CLK_TCK"), {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            name = (entry / "cmdline").read_bytes()
        except OSError:  # it has ended
            continue
        pid, parents[int(entry.name)] = int(entry.name), int(fields[1])
        if name.startswith(_WORKER) if workers else pid == root:
            works = b".work" in name if workers else begun
            found[pid] = (int(fields[11]) + int(fields[12])) / ticks, works
    return {pid: seen for pid, seen in found.items() if root in _ancestors(pid, parents)}


def _ancestors(pid: int, parents: dict[int, int]) -> set[int]:
    found = {pid}
    while (pid := parents.get(pid, 0)) > 1:
        found.add(pid)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("options", nargs="*", default=PART, help="of bench run, after --")
    chosen = parser.parse_args()
    ratios: dict[int, list[tuple[float, float, float]]] = {count: [] for count in chosen.workers[1:]}
    print(f"{os.cpu_count()} cores, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')}")
    for number in range(1, chosen.rounds + 1):
        least: Measured | None = None
        for count in chosen.workers:
            measured = run(count, chosen.options)
            print(f"round {number}, {count} workers: {measured}", flush=True)
            if least is None:
                least = measured
                continue
            busiest = max(measured.processor, default=0.0)
            ideal = sum(least.processor) / busiest if busiest else float("nan")
            ratios[count].append((least.whole / measured.whole, least.work / measured.work, ideal))
    for count, found in ratios.items():
        whole, work, ideal = (median(column) for column in zip(*found, strict=True))
        print(
            f"{count} workers against {chosen.workers[0]}: {whole:.2f} times as fast as a whole, {work:.2f} at the "
            f"work, {ideal:.2f} by processor time"
        )


if __name__ == "__main__":
    main()
