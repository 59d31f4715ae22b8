"""Killed while it touches the disk, whatever the touch: the same command ends with the same files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# One touch in so many, of which each run of the suite tries others of the same kinds; all of them with BENCH_FUZZ.
STEP = 1 if "BENCH_FUZZ" in os.environ else 4
HERE = Path(__file__).parents[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
def test_no_kill_changes_what_the_same_command_ends_with(gray_grid: Callable[..., Path], tmp_path: Path) -> None:
    grid = gray_grid(("length: 6", "length: 3"), ("steps: 4", "steps: 2"), ("clean, noise, PGD, ", "clean, PGD, "))
    commands = [
        ["run", "--grid", str(grid), "--results", "{}/results", "--batch-size", "2"],
        ["leaderboard", "--results", "{}/results", "--output", "{}/leaderboard.md"],
    ]
    killed = subprocess.run(
        [sys.executable, "-m", "kit.kills", str(tmp_path / "k"), "0", str(STEP), *map(json.dumps, commands)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent / "benchmarks")])},
        stdout=subprocess.PIPE,
        check=True,
        timeout=300,
    )
    seen = json.loads(killed.stdout)
    assert seen["faults"] == []
    names = " ".join(seen["touches"])
    for file in ("_grid.json", "_run.json", "leaderboard.md", "PGD+exact", ".adv"):
        assert file in names
    assert seen["touches"].count("COMMIT") > 10
    # A file that is opened under its own name is torn by a kill, even if nobody notices.
    assert [n for n in seen["touches"] if n.startswith("open") and not n.endswith(".part")] == []
