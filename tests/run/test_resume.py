"""A run that is killed at any moment loses nothing, repeats nothing, and ends with the same files."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kit.running import files

ARGUMENTS = [
    *("run", "--clips", "10", "--steps", "3", "--batch-size", "2"),
    *("--defense", "temporal_shuffle(window=2)", "--attack", "PGD", "--attack", "PGD+exact"),
]


def start(results: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "bench.cli", *ARGUMENTS, "--results", str(results)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def outcomes(results: Path) -> dict[tuple[str, str], str]:
    """Everything stored so far, wall times included."""
    file = results / ".store" / "outcomes.sqlite"
    if not file.is_file():
        return {}
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=30) as db:
        try:
            return {(cell, clip): body for cell, clip, body in db.execute("SELECT cell, clip, body FROM outcomes")}
        except sqlite3.OperationalError:  # the tables are not made yet
            return {}


@pytest.mark.slow
def test_kill_9_loses_and_repeats_nothing(tmp_path: Path) -> None:
    undisturbed, disturbed = tmp_path / "a", tmp_path / "b"
    assert start(undisturbed).wait(timeout=300) == 0
    total = len(outcomes(undisturbed))
    assert total == 6 * 10  # {none, shuffle} x {clean, PGD, PGD+exact} x 10 clips

    kept: dict[tuple[str, str], str] = {}
    for threshold in (4, 44):  # among the clean cells, and among the adaptive ones
        process = start(disturbed)
        deadline = time.monotonic() + 240
        while len(outcomes(disturbed)) < threshold and process.poll() is None:
            assert time.monotonic() < deadline, "the run makes no progress"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=60) == -signal.SIGKILL, "the run ended before it could be killed"
        after = outcomes(disturbed)
        assert threshold <= len(after) < total
        # Nothing that was stored before is gone or was computed again (its wall time would differ).
        assert {key: after[key] for key in kept} == kept
        kept = after

    assert start(disturbed).wait(timeout=300) == 0
    final = outcomes(disturbed)
    assert {key: final[key] for key in kept} == kept
    assert len(final) == total
    name = "demo-clips10-steps3"
    assert files(disturbed / name) == files(undisturbed / name)
    assert len(files(disturbed / name)) == 7
