"""Whoever does the batches, and in whatever order they are done: the outcomes are the same, and none is begun before
what it depends on is there."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from kit.running import run_plan

from bench.errors import BenchError
from bench.grids.grid import read_grid
from bench.plan.cells import Plan
from bench.plan.expand import make_plan
from bench.records.results import CellResult
from bench.run.crew import Report
from bench.run.engine import LocalEngine
from bench.run.export import collect
from bench.run.runner import Runner
from bench.run.store import Store
from bench.run.work import Task, Worker

Write = Callable[..., Path]
ALL = "[clean, noise, PGD, PGD+BPDA, PGD+exact]"
MANY = "[noise, PGD, PGD+BPDA, {attack: 'kit.moves:Decided(by=0.15)', gradient: query, label: Decided}]"


class Several:
    """As many workers as wanted, all in this process, that end in an order of chance.

    Attributes:
        begun: kind, work, cell and clips of all tasks, and how many had ended before.
        ended: kind, work and clip of all that was done.
        most: of them that were out at once.
    """

    device = name = hardware = "cpu"
    computed_by = None

    def __init__(self, plan: Plan, workers: int, seed: int) -> None:
        engine = LocalEngine(torch.device("cpu"))
        self._idle = deque(Worker(plan, engine) for _ in range(workers))
        self._out: list[tuple[Worker, Task]] = []
        self._random = random.Random(seed)
        self.begun: list[tuple[Task, int]] = []
        self.ended: list[tuple[str, str, str]] = []
        self.most = 0

    def ask(self, what: str, argument: Any) -> Any:
        return getattr(self._idle[0], what)(argument)

    def rest(self) -> None:
        """Nothing is done ahead."""

    def free(self) -> bool:
        return bool(self._idle)

    def busy(self) -> bool:
        return bool(self._out)

    def start(self, task: Task) -> None:
        self._out.append((self._idle.popleft(), task))
        self.begun.append((task, len(self.ended)))
        self.most = max(self.most, len(self._out))

    def reports(self, seconds: float | None) -> Iterator[Report]:
        worker, task = self._out.pop(self._random.randrange(len(self._out)))
        self._idle.append(worker)
        try:
            for part in worker.parts(task):
                yield Report(task, part)
        except BenchError as error:
            yield Report(task, error=error)
        else:
            self.ended += [(task.kind, task.work, clip) for clip in task.clips]
            yield Report(task)


def without_time(results: list[CellResult]) -> list[dict[str, Any]]:
    return [
        {**r.model_dump(exclude={"outcomes"}), "outcomes": [o.model_dump(exclude={"seconds"}) for o in r.outcomes]}
        for r in results
    ]


@pytest.mark.parametrize("seed", range(2))
def test_several_workers_give_what_one_gives_in_whatever_order_they_end(
    seed: int, gray_grid: Write, tmp_path: Path
) -> None:
    grid = gray_grid(
        ("length: 6", "length: 6, absent: 2"),
        ('"kit.gray:Identity"', "kit.gray:Lighten, kit.gray:Coin, kit.gray:FailsOnBright"),
        (ALL, MANY),
    )
    alone, plan = make_plan(read_grid(grid)), make_plan(read_grid(grid))
    expected = run_plan(alone, tmp_path / "one", batch_size=2, control=2)
    crew = Several(plan, 3, seed)
    with Store(tmp_path / "many") as store:
        runner = Runner(plan, store, crew, batch_size=2, control=2)
        runner.run()
        assert without_time(collect(plan, store)) == without_time(expected)
        assert plan.skipped == alone.skipped
        assert [s.attack for s in plan.skipped] == ["Decided"]
        assert runner.computed >= len(plan.cells) * 6
        begun = len(crew.begun)
        Runner(plan, store, crew, batch_size=2, control=2).run()
        assert len(crew.begun) == begun  # nothing was left to do
    assert crew.most == 3
    assert len(crew.ended) == len(set(crew.ended))


def test_what_is_shown_is_made_first_and_mistakes_are_known_first(gray_grid: Write, tmp_path: Path) -> None:
    grid = gray_grid(('"kit.gray:Identity"', "kit.gray:Lighten"), (ALL, "[PGD, PGD+BPDA]"))
    plan = make_plan(read_grid(grid))
    crew = Several(plan, 4, seed=0)
    with Store(tmp_path / "s") as store:
        Runner(plan, store, crew, batch_size=2, control=0).run()
    cells = {c.id: c for c in plan.cells}
    clean = {(c.model.label, c.defense.label): c.id for c in plan.cells if c.unit is None}
    needed = 0
    for task, ended in crew.begun:
        cell = cells[task.cell]
        if task.kind != "run" or cell.unit is None:
            continue
        kind, work = "make", cell.unit.id
        if not cell.unit.shared:
            kind, work = "run", clean[cell.model.label, cell.defense.label]
        assert {(kind, work, clip) for clip in task.clips} <= set(crew.ended[:ended])
        needed += 1
    assert needed == 4 * 3  # none and Lighten, PGD and PGD+BPDA, three batches each


def test_an_attack_that_exists_for_no_row_is_told_whoever_finds_out(gray_grid: Write, tmp_path: Path) -> None:
    attack = "{attack: {name: one_frame, frame: 9}, budget: {norm: one-frame}, gradient: bpda, label: Nine}"
    plan = make_plan(read_grid(gray_grid((ALL, f"[{attack}, PGD]"))))
    with Store(tmp_path / "s") as store:
        with pytest.raises(BenchError, match="There is no frame 9"):
            Runner(plan, store, Several(plan, 3, seed=1), batch_size=2, control=0).run()
        assert {c.attack_label for c in plan.cells if len(store.done(c.id)) == 6} == {"clean", "PGD"}
