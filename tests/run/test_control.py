"""The zero-budget control, randomised verdicts, transfer and computed columns: what keeps a table honest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from kit.running import run

from bench import BenchError, Budget, ClipRandom
from bench.grids.grid import read_grid
from bench.plan.expand import make_plan
from bench.records.outcome import Outcome
from bench.records.results import Score
from bench.registry import ATTACKS
from bench.report.tables import make_tables, to_pandas
from bench.run.control import compare
from bench.run.export import collect
from bench.run.runner import Runner
from bench.run.store import Store

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


def test_an_attack_that_wants_final_answers_gets_them_from_the_bare_classifier(gray_grid: Write) -> None:
    """Clips for transfer would do for PGD; FAB refuses to make them, and AutoAttack would leave FAB out."""
    path = gray_grid(
        ("[clean, noise, PGD, PGD+BPDA, PGD+exact]", "[PGD+exact, FAB+exact, FAB]"),
        ("size: 0.15", "size: 0.12"),
    )
    plan = make_plan(read_grid(path))
    shared = {c.attack_label: c.unit.shared for c in plan.cells if c.unit and c.defense.label == "none"}
    assert shared == {"PGD+exact": True, "FAB+exact": False}
    assert {(s.defense, s.attack) for s in plan.skipped} == {("none", "FAB"), ("kit.gray:Identity", "FAB")}


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
    assert row.blank("PGD+BPDA") == "void"
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


def test_the_number_of_queries_identifies_only_cells_of_randomised_defences(gray_grid: Write) -> None:
    path = gray_grid(('"kit.gray:Identity"', '"kit.gray:Coin"'))
    few, many = make_plan(read_grid(path)), make_plan(read_grid(path).model_copy(update={"queries": 30}))
    same = {c.defense.label for c, d in zip(few.cells, many.cells, strict=True) if c.id == d.id}
    assert same == {"none"}


def test_scores_of_draws() -> None:
    found = Score.of([outcome(1, [1, 1, 0, 1]), outcome(0, [0, 0, 1, 1]), outcome(1, [1, 1, 1, 1])])
    assert found.correct == 0.75 + 0.5 + 1
    assert (found.one_shot, found.always, found.clips) == (2, 1, 3)
    flawed = Score.of([Outcome(clip="c", label=1, status="failed", error="boom"), outcome(1, [1, 1])])
    assert flawed.correct == 1.0
    assert Score.model_validate_json(found.model_dump_json()) == found


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


def test_clips_of_the_evaluated_classifier_itself_are_no_transfer(gray_grid: Write) -> None:
    path = gray_grid(
        ("[clean, noise, PGD, PGD+BPDA, PGD+exact]", '[{attack: pgd, source: "kit.gray:level_classifier", label: T}]')
    )
    plan = make_plan(read_grid(path))
    assert all(c.knowledge == "clean" for c in plan.cells)
    assert "gray-box attack" in plan.skipped[0].reason


def test_a_source_and_a_gradient_exclude_each_other(gray_grid: Write) -> None:
    entry = '[{attack: pgd, source: "kit.gray:louder_classifier", gradient: bpda}]'
    with pytest.raises(BenchError, match=r"has a source, .* and a gradient, bpda"):
        read_grid(gray_grid(("[clean, noise, PGD, PGD+BPDA, PGD+exact]", entry)))


WORST = "[PGD, noise, {worst: [PGD, noise], label: Both}]"


def test_the_worst_of_some_attacks_is_computed_from_their_outcomes(gray_grid: Write, tmp_path: Path) -> None:
    path = gray_grid(("[clean, noise, PGD, PGD+BPDA, PGD+exact]", WORST))
    grid = read_grid(path)
    assert [s.label for s in grid.attack_sections] == ["clean", "PGD", "noise"]  # nothing more is run
    plan = make_plan(grid)
    store = Store(tmp_path / "s")
    from bench.run.engine import LocalEngine

    Runner(plan, store, LocalEngine(torch.device("cpu"))).run()
    results = collect(plan, store)
    store.close()
    (table,) = make_tables(results, worst=grid.worst)
    assert table.columns["Both"] == "Worst"
    for row in table.rows:
        assert row.scores["Both"].correct == row.scores["PGD"].correct == 0
        assert row.scores["noise"].correct == 6


def test_a_union_of_draws_is_never_above_a_column() -> None:
    """Chosen by draws, the worst attack of a clip may be the wrong one; all of them together bound the union."""
    from bench.report.tables import _together

    weak, strong = [True, True, False, True, True], [False, True, False, True, False]
    found = _together({"weak": {"c": weak}, "strong": {"c": strong}})
    assert found.correct == pytest.approx(0.4)
    assert _together({"weak": {"c": weak}}).correct == pytest.approx(0.8)


def test_a_worst_of_attacks_that_are_not_there_is_refused(gray_grid: Write) -> None:
    entry = "[PGD, {worst: [PDG], label: Both}]"
    with pytest.raises(BenchError, match=r"Column 'Both' is the worst of 'PDG' .*did you mean 'PGD'"):
        read_grid(gray_grid(("[clean, noise, PGD, PGD+BPDA, PGD+exact]", entry)))
    with pytest.raises(BenchError, match="takes labels of attacks and a label, not steps"):
        read_grid(gray_grid(("[clean, noise, PGD, PGD+BPDA, PGD+exact]", "[PGD, {worst: [PGD], steps: 3}]")))


def test_what_an_attack_cannot_face_is_left_out_with_the_reason(gray_grid: Write) -> None:
    path = gray_grid(
        ('"kit.gray:Identity"', '"kit.gray:Identity", "kit.gray:Coin"'),
        ("[clean, noise, PGD, PGD+BPDA, PGD+exact]", "[FAB+BPDA, {attack: \"eot(attack='fab')\", label: EOT}]"),
    )
    plan = make_plan(read_grid(path))
    attacked = [(c.defense.label, c.attack_label) for c in plan.cells if c.unit]
    assert attacked == [("none", "FAB+BPDA"), ("kit.gray:Identity", "FAB+BPDA")]
    reasons = {(s.defense, s.attack): s.reason for s in plan.skipped}
    assert "randomised defence" in reasons["kit.gray:Coin", "FAB+BPDA"]
    # Gray-box clips are meant for other pipelines.
    assert "barely fool" in reasons["none", "EOT"]


def test_parts_of_an_attack_belong_to_its_identity(gray_grid: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.registry import ATTACKS, Entry

    path = gray_grid(("[clean, noise, PGD, PGD+BPDA, PGD+exact]", "[{attack: \"eot(attack='mi_fgsm')\", label: E}]"))
    before = make_plan(read_grid(path)).units[0]
    assert before.attack.identity.parts[0].name == "mi_fgsm"
    entry = ATTACKS.get("mi_fgsm")
    edited = Entry(entry.name, entry.factory, entry.kind, entry.source, entry.origin)
    edited.__dict__["code"] = "edited"
    monkeypatch.setitem(ATTACKS._entries, "mi_fgsm", edited)
    after = make_plan(read_grid(path)).units[0]
    assert after.id != before.id


def test_many_attacks_stand_below_one_another() -> None:
    from rich.console import Console

    from bench.report.render import render
    from bench.report.tables import Row, Table

    columns = {"clean": "Standard"} | {f"attack-{i}+BPDA": "Robust" for i in range(12)} | {"W": "Worst"}
    scores = {label: Score(correct=i, clips=20) for i, label in enumerate(columns)}
    rows = [
        Row("jpeg", scores, Score(correct=1, clips=20), 12.5, reported={"attack-3+BPDA": 61.4}),
        Row("mine", {"clean": scores["clean"]}, None, float("nan"), void={"attack-1+BPDA": "2 of 4 changed"}),
    ]
    console = Console(width=80)
    with console.capture() as seen:
        console.print(render(Table("set", "net", "linf", columns, rows, 20)))
    lines = seen.get().splitlines()
    (heading,) = [line for line in lines if line.lstrip().startswith("Attack ")]
    assert heading.split() == ["Attack", "jpeg", "mine"]
    (line,) = [line for line in lines if "attack-3+BPDA" in line]
    assert line.split() == ["attack-3+BPDA", "20.0", "void"]
    assert "reported 61.4" in seen.get()
    assert [line.split() for line in lines if line.lstrip().startswith(("Union", "Mean"))] == [
        ["Union", "5.0", "void"],
        ["Mean", "12.5", "-"],
    ]
    assert "…" not in seen.get()
