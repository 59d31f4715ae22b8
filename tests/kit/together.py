"""Attacks that leave notes on the disk, named as ``kit.together:Thing`` in the tests' grids: for runs of several
processes."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path

from torch import Tensor

from bench import Attack, AttackResult, Budget, ClipRandom, Target

NOTES, PROCESSES = "KIT_NOTES", "KIT_PROCESSES"
"""Variables of the environment: the file of the notes, and how many processes wait for one another."""


def notes(file: Path) -> list[tuple[str, int]]:
    """Process and number of clips of every batch that was begun."""
    lines = [line.split() for line in file.read_text().splitlines()] if file.is_file() else []
    return [(process, int(clips)) for process, clips in lines]


def by_process(file: Path) -> Counter[str]:
    """Clips that each process has begun."""
    found: Counter[str] = Counter()
    for process, clips in notes(file):
        found[process] += clips
    return found


def killed(file: Path) -> int:
    """How many processes :class:`Fatal` has ended; given other text, that file keeps it from ending any."""
    fatal = file.with_suffix(".fatal")
    return int(fatal.is_file() and fatal.read_text() == "killed")


class Noting(Attack):
    """Darkens, and writes down who does it to how many clips; each process waits for as many to have begun as there
    are to be, and one more in the place of each that was killed."""

    by = 0.05

    def run(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> AttackResult:
        file = Path(os.environ[NOTES])
        with file.open("a") as opened:
            opened.write(f"{os.getpid()} {len(clips)}\n")
        deadline = time.monotonic() + 240
        while len(by_process(file)) < int(os.environ[PROCESSES]) + killed(file):
            if time.monotonic() > deadline:
                raise TimeoutError("nobody else has begun anything")
            time.sleep(0.01)
        return AttackResult((clips - self.by).clamp(0, 1))

    def passes(self, budget: Budget) -> tuple[int, int]:
        return 1, 0


class Fatal(Noting):
    """Ends a process abruptly, once, with the second batch that it is asked for."""

    def run(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> AttackResult:
        result = super().run(target, clips, labels, budget, rng)
        file = Path(os.environ[NOTES])
        mine = [process for process, _ in notes(file) if process == str(os.getpid())]
        if len(mine) > 1:
            try:
                with file.with_suffix(".fatal").open("x") as opened:
                    opened.write("killed")
            except FileExistsError:
                return result
            os.kill(os.getpid(), signal.SIGKILL)
        return result


class Broken(Attack):
    """Fails as a GPU does that is lost."""

    def run(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> AttackResult:
        raise RuntimeError("CUDA error: unspecified launch failure")

    def passes(self, budget: Budget) -> tuple[int, int]:
        return 1, 0


class Last(Broken):
    """Ends its process abruptly, always."""

    def run(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> AttackResult:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError
