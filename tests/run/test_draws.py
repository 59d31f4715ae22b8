"""Randomised defences are asked several times, transferred clips are made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from kit.running import run

from bench import ClipRandom
from bench.grids.grid import read_grid
from bench.plan.expand import make_plan

Write = Callable[..., Path]


def test_queries_need_no_gradient_of_the_defence(gray_grid: Write, tmp_path: Path) -> None:
    """Neither a purifier without an exact gradient nor a network, of which nothing can be approximated, is left out."""
    attack = "{attack: {name: square, queries: 30}, gradient: query, label: Square}"
    path = gray_grid(
        ('"kit.gray:Identity"', 'jpeg, "kit.gray:Doubled"'), ("[clean, noise, PGD, PGD+BPDA, PGD+exact]", f"[{attack}]")
    )
    plan = make_plan(read_grid(path))
    assert not plan.skipped
    found = run(path, tmp_path / "s", control=2)
    for defense in ("jpeg", "kit.gray:Doubled"):
        result = found[defense, "Square"]
        assert (result.knowledge, result.gradient) == ("adaptive", "query")
        assert all(o.forwards and not o.backwards for o in result.outcomes)
        assert result.control is not None
        assert result.control.passed


def test_a_randomised_defence_is_asked_several_times_and_a_deterministic_one_once(
    gray_grid: Write, tmp_path: Path
) -> None:
    path = gray_grid(
        ('"kit.gray:Identity"', '"kit.gray:Coin"'),
        ("[clean, noise, PGD, PGD+BPDA, PGD+exact]", "[clean]"),
        ("length: 6", "length: 9, only: 1, label: 1"),
        ("title: Gray clips", "queries: 40"),
    )
    found = run(path, tmp_path / "s")
    plain, coin = found["none", "clean"], found["kit.gray:Coin", "clean"]
    assert all(o.draws == [] for o in plain.outcomes)
    assert plain.score.one_shot is None
    # A blackened clip is taken for the darkest class; the coin is fair.
    assert {d for o in coin.outcomes for d in o.draws} == {0, 1}
    assert all(len(o.draws) == 40 and o.draws[0] == o.prediction for o in coin.outcomes)
    share = sum(d == 1 for o in coin.outcomes for d in o.draws) / 360
    assert coin.score.correct == pytest.approx(9 * share)
    assert abs(share - 0.5) < 4 * 0.5 / 360**0.5
    assert coin.score.one_shot == sum(o.prediction == 1 for o in coin.outcomes)
    assert coin.score.always == 0
    assert len({tuple(o.draws) for o in coin.outcomes}) == 9  # every clip has draws of its own


def test_streams_that_are_there_twice_are_replayed_in_the_same_order() -> None:
    rng = ClipRandom([3, 4]).select([0, 0, 1])
    replay = rng.clone()
    first = [rng.uniform(2), rng.normal(1)]
    again = [replay.uniform(2), replay.normal(1)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0][0], first[0][1])


TRANSFER = '[{attack: pgd, source: "kit.gray:louder_classifier", label: Transfer}]'


def test_transferred_clips_are_made_once_on_the_other_classifier(gray_grid: Write, tmp_path: Path) -> None:
    path = gray_grid(("[clean, noise, PGD, PGD+BPDA, PGD+exact]", TRANSFER), ("size: 0.15", "size: 0.12"))
    plan = make_plan(read_grid(path))
    (unit,) = plan.units
    assert unit.shared
    assert unit.model is not None
    assert unit.model.label == "kit.gray:louder_classifier"
    assert {c.knowledge for c in plan.cells} == {"clean", "black-box"}
    found = run(path, tmp_path / "s")
    assert found["none", "Transfer"].knowledge == "black-box"
    source = found["none", "Transfer"].settings.source
    assert source is not None
    assert source.name == "kit.gray:louder_classifier"
    # The same decision boundary: what fools one fools the other.
    assert found["none", "Transfer"].score.correct == found["kit.gray:Identity", "Transfer"].score.correct == 0
