"""The zero-budget control: an attack that may change nothing must leave the answers alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from kit.running import run

from bench import Budget
from bench.records.outcome import Outcome
from bench.registry import ATTACKS
from bench.report.tables import make_tables, to_pandas
from bench.run.control import compare

Write = Callable[..., Path]


def outcome(prediction: int, draws: list[int] | None = None, label: int = 1) -> Outcome:
    return Outcome(clip="c", label=label, prediction=prediction, correct=prediction == label, draws=draws or [])


def test_an_attack_that_may_change_nothing_leaves_the_answers_alone(gray_grid: Write, tmp_path: Path) -> None:
    found = run(gray_grid(("[clean, noise, PGD, PGD+BPDA, PGD+exact]", "[PGD+BPDA]")), tmp_path / "s", control=3)
    control = found["kit.gray:Identity", "PGD+BPDA"].control
    assert control is not None
    assert control.passed
    assert control.clips == 3
    assert found["none", "clean"].control is None


def test_the_control_asks_little_of_an_attack_that_counts_queries() -> None:
    assert ATTACKS.create("square").lighter().passes(Budget()) == (20, 0)
    assert ATTACKS.create("square(queries=7)").lighter().passes(Budget()) == (7, 0)
    whole = ATTACKS.create("autoattack")
    light = whole.lighter()
    assert light.passes(Budget())[0] < whole.passes(Budget())[0] - 4900
    assert whole.passes(Budget())[0] > 5000  # the attack itself is left alone
    pgd = ATTACKS.create("pgd")
    assert pgd.lighter() is pgd


def test_a_defence_that_answers_differently_when_asked_again_is_void(gray_grid: Write, tmp_path: Path) -> None:
    path = gray_grid(
        ('"kit.gray:Identity"', '"kit.gray:Tiring"'), ("[clean, noise, PGD, PGD+BPDA, PGD+exact]", "[PGD+BPDA]")
    )
    results = list(run(path, tmp_path / "s", control=4).values())
    (table,) = make_tables(results)
    row = next(r for r in table.rows if r.defense != "none")
    assert "PGD+BPDA" in row.void
    assert "although nothing was changed" in row.void["PGD+BPDA"]
    assert row.union is None
    assert table.blank(row, "PGD+BPDA") == "void"
    assert "PGD+BPDA" not in row.scores
    healthy = next(r for r in table.rows if r.defense == "none")
    assert not healthy.void
    assert healthy.union is not None
    assert "Union" not in set(to_pandas([table]).query("defense != 'none'")["column"])


@pytest.mark.parametrize(
    ("attacked", "clean", "passed"),
    [
        ([outcome(1), outcome(0)], [outcome(1), outcome(0)], True),
        ([outcome(1), outcome(1)], [outcome(1), outcome(0)], False),
        ([outcome(1, [1] * 8 + [0] * 2)], [outcome(1, [1] * 9 + [0])], True),
        ([outcome(0, [0] * 10)], [outcome(1, [1] * 10)], False),
        ([Outcome(clip="c", label=1, status="failed", error="boom")], [outcome(1)], False),
    ],
)
def test_verdict_of_the_control(attacked: list[Outcome], clean: list[Outcome], passed: bool) -> None:
    found = compare(attacked, clean)
    assert found.passed is passed
    assert found.clips == len(attacked)
