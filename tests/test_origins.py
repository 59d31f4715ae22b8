"""What judges is what ships, or nothing is measured."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kit.commands import Answer
from kit.gray import Identity
from kit.running import run

from bench import BenchError, ClipRandom, origins
from bench.defense.defended import DefendedClassifier
from bench.grids.grid import read_grid
from bench.plan.expand import make_plan
from bench.records.outcome import Outcome
from bench.registry import DEFENSES, Entry
from bench.run import engine, judge
from bench.run.engine import LocalEngine
from bench.run.runner import Runner
from bench.run.store import Store

Write = Callable[..., Path]


def lenient(*_: Any) -> None:
    return None


@functools.wraps(judge.violation)
def wrapped(*_: Any) -> None:
    return None


def as_ever(self: LocalEngine, *arguments: Any) -> list[Outcome]:
    return JUDGE(self, *arguments)


JUDGE = LocalEngine.judge
OTHERS: dict[str, tuple[Any, str, Any]] = {
    "bench.run.judge.violation": (judge, "violation", lenient),
    "bench.run.judge.distances": (judge, "distances", functools.partial(judge.distances)),
    "bench.run.engine.violation": (engine, "violation", wrapped),
    "bench.run.judge.LINF_SLACK": (judge, "LINF_SLACK", 1.0),
    "bench.run.engine.LocalEngine.judge": (LocalEngine, "judge", as_ever),
    "bench.defense.defended.DefendedClassifier.decide": (DefendedClassifier, "decide", lenient),
    "bench.records.outcome.Outcome.verdicts": (Outcome, "verdicts", property(lambda self: [True])),
    "bench.run.engine.LocalEngine": (engine, "LocalEngine", type("LocalEngine", (LocalEngine,), {})),
}


def test_all_is_as_it_ships() -> None:
    for registry in (DEFENSES,):
        registry.discover()
    assert origins.altered() == []


@pytest.mark.parametrize("name", OTHERS)
def test_what_stands_in_the_judges_place_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*OTHERS[name])
    assert any(what.startswith(f"{name} is") for what in origins.altered()), origins.altered()


def test_whoever_looks_is_looked_at_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origins, "check_origins", lenient)
    assert any("bench.origins.check_origins" in what for what in origins.altered())


def test_an_entry_that_another_class_took_the_place_of_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    DEFENSES.discover()
    other = Entry(name="jpeg", factory=Identity, kind="defense", source="", origin="mine.py:1")
    monkeypatch.setitem(DEFENSES._entries, "jpeg", other)
    (what,) = origins.altered()
    assert what.startswith("defense 'jpeg' is not the one that bench ships (in its place: Identity, kit.gray")


def test_a_run_is_refused_in_one_sentence_before_anything_is_computed(
    gray_grid: Write, tmp_path: Path, bench: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "violation", lenient)
    answer = bench("run", "--grid", gray_grid(), "--results", tmp_path / "r")
    assert answer.code == 2
    assert "bench.run.engine.violation is not the one that bench ships" in answer.err
    assert "test_origins.py" in answer.err
    assert not list((tmp_path / "r").glob("gray/*"))


def test_a_defence_that_does_so_when_it_is_asked_ends_the_run_and_its_batch_is_not_kept(
    gray_grid: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "violation", judge.violation)  # put back afterwards
    real = Identity.purify

    def patching(self: Identity, clips: torch.Tensor, rng: ClipRandom) -> torch.Tensor:
        judge.violation = lenient  # type: ignore[assignment]
        return real(self, clips, rng)

    monkeypatch.setattr(Identity, "purify", patching)
    plan = make_plan(read_grid(gray_grid()))
    with Store(tmp_path / "s") as store:
        with pytest.raises(BenchError, match=r"bench\.run\.judge\.violation is not the one that bench ships"):
            Runner(plan, store, LocalEngine(torch.device("cpu")), control=0).run()
        assert {c.defense.label for c in plan.cells if store.done(c.id)} == {"none"}


def test_a_subclass_that_a_caller_hands_over_is_the_callers_business(gray_grid: Write, tmp_path: Path) -> None:
    class Watching(LocalEngine):
        seen = 0

        def judge(self, *arguments: Any) -> list[Outcome]:
            self.seen += 1
            return super().judge(*arguments)

    plan = make_plan(read_grid(gray_grid()))
    watching = Watching(torch.device("cpu"))
    with Store(tmp_path / "s") as store:
        Runner(plan, store, watching, control=0).run()
    assert watching.seen
    assert run(gray_grid(), tmp_path / "t")


def test_outcomes_of_an_altered_program_have_another_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    origins.engine.cache_clear()
    own = origins.engine()
    origins.engine.cache_clear()
    monkeypatch.setattr(judge, "violation", lenient)
    other = origins.engine()
    origins.engine.cache_clear()
    assert other != own
    monkeypatch.undo()
    assert origins.engine() == own
