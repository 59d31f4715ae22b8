"""Audited rows: planted frauds are exposed, and honest defences are not accused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from kit.commands import Answer
from kit.gray import level_classifier
from kit.running import run_plan
from planted import Remembering

from bench import BenchError
from bench.audit.rows import audit
from bench.grids.grid import read_grid
from bench.plan.expand import make_plan
from bench.records.audits import AuditedRow, read_audit

Write = Callable[..., Path]
ATTACKS = "[clean, noise, PGD, PGD+BPDA, PGD+exact]"


def audited(path: Path, folder: Path, clips: int = 6) -> dict[str, AuditedRow]:
    """Runs a grid with its controls, audits it without a process of its own; rows by defence."""
    plan = make_plan(read_grid(path))
    results = run_plan(plan, folder, control=4)
    # What is audited was never asked anything: a plan of its own.
    rows = audit(make_plan(read_grid(path)), results, clips=clips, alone=False, salt="salt")
    return {row.defense: row for row in rows}


def named(row: AuditedRow, severity: str = "fault") -> set[str]:
    return {f.check for f in row.findings if f.severity == severity}


def with_defense(gray_grid: Write, name: str, attacks: str = ATTACKS) -> Path:
    return gray_grid(('"kit.gray:Identity"', f'"{name}"'), (ATTACKS, attacks), ("size: 0.15", "size: 0.12"))


@pytest.mark.parametrize(
    ("fraud", "check"),
    [
        ("DetachedGradient", "gradient"),
        ("Rounding", "gradient"),
        ("Saturated", "gradient"),
        ("ReversedGradient", "slope"),
        ("ExplodingGradient", "gradient"),
        ("SecretlyRandom", "hidden randomness"),
        ("RandomElsewhere", "outcomes"),  # the run does not take it
        pytest.param("Remembering", "memory", marks=pytest.mark.slow),
        ("Leaking", "batch"),
    ],
)
def test_planted_frauds_are_exposed(gray_grid: Write, tmp_path: Path, fraud: str, check: str) -> None:
    attacks = "[PGD, PGD+exact]" if fraud == "Saturated" else ATTACKS
    row = audited(with_defense(gray_grid, f"planted:{fraud}", attacks), tmp_path)[f"planted:{fraud}"]
    assert check in named(row), row.findings
    assert row.grade in ("C", "F")


@pytest.mark.parametrize("fraud", ["Rounding", "ReversedGradient", "ExplodingGradient", "DetachedGradient"])
def test_the_default_adaptive_set_breaks_masked_gradients(gray_grid: Write, tmp_path: Path, fraud: str) -> None:
    """The exact gradient alone leaves them standing or fails; BPDA, which is in every shipped grid, does not."""
    plan = make_plan(read_grid(with_defense(gray_grid, f"planted:{fraud}")))
    found = {(r.defense, r.attack): r for r in run_plan(plan, tmp_path)}
    assert found[f"planted:{fraud}", "clean"].score.correct == 6
    assert found[f"planted:{fraud}", "PGD+BPDA"].score.correct == 0
    if fraud == "DetachedGradient":  # left out: there is no such gradient
        assert (f"planted:{fraud}", "PGD+exact") not in found
        return
    exact = found[f"planted:{fraud}", "PGD+exact"].score
    assert exact.correct + exact.flawed == 6 or exact.correct < 6


def test_saturated_probabilities_are_noticed(gray_grid: Write, tmp_path: Path) -> None:
    row = audited(with_defense(gray_grid, "planted:Saturated", "[PGD, PGD+exact]"), tmp_path)["planted:Saturated"]
    assert "softmax" in named(row, "warning")


@pytest.mark.parametrize("fraud", ["Adapting", "AdaptingNetwork"])
def test_a_defence_that_optimises_while_it_answers_is_noted(gray_grid: Write, tmp_path: Path, fraud: str) -> None:
    row = audited(with_defense(gray_grid, f"planted:{fraud}", "[PGD, PGD+exact]"), tmp_path)[f"planted:{fraud}"]
    (note,) = (f for f in row.findings if f.check == "dynamic")
    assert note.severity == "note"
    # What concerns the row as a whole names its adaptive cells and the clips that were asked.
    assert note.cells == ["PGD+exact"]
    assert note.clips == [f"gray/{i}" for i in range(6)]


def test_whatever_a_defence_raises_is_a_finding(gray_grid: Write, tmp_path: Path) -> None:
    row = audited(with_defense(gray_grid, "planted:Forgetful"), tmp_path)["planted:Forgetful"]
    assert any("list index out of range" in f.message for f in row.findings if f.severity == "fault")


def test_outcomes_of_other_code_are_stale(gray_grid: Write, tmp_path: Path) -> None:
    path = with_defense(gray_grid, "kit.gray:Identity")
    plan = make_plan(read_grid(path))
    results = run_plan(plan, tmp_path, control=4)
    assert not any("stale" in named(row) for row in audit(plan, results, clips=0))
    other = [r.model_copy(update={"cell": "0" * 16}) if r.attack == "PGD+BPDA" else r for r in results]
    rows = {row.defense: row for row in audit(plan, other, clips=0)}
    (finding,) = (f for f in rows["kit.gray:Identity"].findings if f.check == "stale")
    assert (finding.severity, finding.cells) == ("fault", ["PGD+BPDA"])


def test_another_seed_is_not_other_code(gray_grid: Write, tmp_path: Path) -> None:
    results = run_plan(make_plan(read_grid(gray_grid(("title", "seed: 3\ntitle")))), tmp_path, control=4)
    assert not any("stale" in named(row) for row in audit(make_plan(read_grid(gray_grid())), results, clips=0))


def test_the_probes_need_a_gradient(gray_grid: Write, tmp_path: Path) -> None:
    plan = make_plan(read_grid(gray_grid()))
    with pytest.raises(BenchError, match="choose exact, bpda or auto"):
        audit(plan, [], gradient="query")


@pytest.mark.parametrize("honest", ["kit.gray:Identity", "kit.gray:Doubled", "gaussian_noise(sigma=0.02)"])
def test_honest_defences_are_not_accused(gray_grid: Write, tmp_path: Path, honest: str) -> None:
    attacks = "[noise, PGD, PGD+exact]"
    if honest.startswith("gauss"):
        attacks = "[noise, PGD, {attack: {name: eot, draws: 4}, gradient: exact, label: EOT+exact}]"
    rows = audited(with_defense(gray_grid, honest, attacks), tmp_path)
    for row in rows.values():
        assert row.grade == "A", row.findings
        assert row.probed == 6


def test_an_exact_gradient_that_nobody_took_is_a_warning(gray_grid: Write, tmp_path: Path) -> None:
    rows = audited(with_defense(gray_grid, "kit.gray:Identity", "[PGD, PGD+BPDA]"), tmp_path / "a", clips=0)
    assert named(rows["kit.gray:Identity"], "warning") == {"exact gradient"}
    assert rows["kit.gray:Identity"].grade == "B"
    assert rows["none"].grade == "A"
    jpeg = audited(with_defense(gray_grid, "jpeg", "[PGD, PGD+BPDA]"), tmp_path / "b", clips=0)["jpeg"]
    assert "exact gradient" not in named(jpeg, "warning")  # it has none


def test_a_row_of_another_threat_model_is_probed_in_linf(gray_grid: Write, tmp_path: Path) -> None:
    """Four pixels of eight by eight, wholly free, fool the level classifier; the probes cannot take such a budget."""
    attacks = "[{attack: spa, gradient: exact, label: SPA}]"
    path = gray_grid(
        ('"kit.gray:Identity"', '"kit.gray:Doubled"'),
        (ATTACKS, attacks),
        ("norm: linf, size: 0.15", "norm: pixels, size: 40"),
    )
    row = audited(path, tmp_path)["kit.gray:Doubled"]
    assert row.probed == 6
    assert not named(row), row.findings


def test_the_command_writes_grades_that_the_leaderboard_shows(
    bench: Callable[..., Answer], gray_grid: Write, tmp_path: Path
) -> None:
    path = with_defense(gray_grid, "planted:ReversedGradient", "[PGD, PGD+exact]")
    missing = bench("audit", path, "--results", tmp_path / "r")
    assert missing.code == 2
    assert "run 'bench run --grid" in missing.err
    assert bench("run", "--grid", path, "--results", tmp_path / "r").code == 0
    told = bench("audit", path, "--results", tmp_path / "r", "--clips", 4, "--salt", "salt")
    assert told.code == 0, told.err
    assert "4 clips probed, 4 clips asked in a process of its own" in told.out
    assert "fault, slope: The loss falls along the exact gradient" in told.out
    rows = json.loads(bench("audit", path, "--results", tmp_path / "r", "--clips", 0, "--json").out)
    assert {r["defense"] for r in rows} == {"none", "planted:ReversedGradient"}
    hasty = bench("audit", path, "--results", tmp_path / "r", "--clips", 4, "--minutes", 0)
    assert "stored outcomes only" in hasty.out
    assert "not asked: probing a clip takes about" in hasty.out
    bench("leaderboard", "--results", tmp_path / "r", "--output", tmp_path / "hasty.md")
    lines = (tmp_path / "hasty.md").read_text().splitlines()
    told = [ln for ln in lines if ln.startswith("| planted:ReversedGradient")]  # in short, and whole
    assert [ln.endswith("(outcomes; the rest is too dear) |") for ln in told] == [True, True]
    bench("audit", path, "--results", tmp_path / "r", "--clips", 4, "--salt", "salt")
    board = bench("leaderboard", "--results", tmp_path / "r", "--output", tmp_path / "board.md")
    assert board.code == 0, board.err
    text = (tmp_path / "board.md").read_text()
    assert "| Audit |" in text
    graded = [ln for ln in text.splitlines() if ln.startswith("| planted:ReversedGradient")]
    assert [ln.endswith("| C |") for ln in graded] == [True, True]


def test_the_suspect_is_fresh_and_shares_its_weights() -> None:
    from bench.audit.rows import maker
    from bench.defense.defended import DefendedClassifier

    defended = DefendedClassifier(level_classifier(), Remembering())
    make = maker(defended, torch.device("cpu"))
    one, two = make(), make()
    one.defense.seen.append(torch.zeros(1))
    assert defended.defense.seen == two.defense.seen == []
    assert next(one.parameters()) is next(defended.parameters())


def test_an_attack_that_runs_the_exact_gradient_among_others_has_taken_it(gray_grid: Write, tmp_path: Path) -> None:
    """Also of a randomised defence, whose average it takes among others."""
    for attacks, missing in (("[PGD, PGD+BPDA]", True), ("[PGD, {attack: adaptive, budget: {steps: 2}}]", False)):
        rows = audited(with_defense(gray_grid, "kit.gray:Coin", attacks), tmp_path / str(missing), clips=0)
        found = named(rows["kit.gray:Coin"], "warning")
        assert ("exact gradient" in found) is missing
        assert ("randomness" in found) is missing


def test_a_run_of_some_clips_is_audited(gray_grid: Write, tmp_path: Path, bench: Callable[..., Answer]) -> None:
    grid = gray_grid()
    options = ("--attack", "PGD", "--clips", 3, "--steps", 2, "--seed", 4)
    assert bench("run", "--grid", grid, "--results", tmp_path / "r", *options).code == 0
    answer = bench("audit", grid, "--clips", 0, "--results", tmp_path / "r")
    assert answer.code == 0, answer.err
    folder = tmp_path / "r" / "gray-clips3-steps2-seed4"
    rows = read_audit(folder)
    assert {row.defense for row in rows} == {"none", "kit.gray:Identity"}
    # Planned as it was run: the installed code would give the same.
    assert not [f for row in rows for f in row.findings if f.check == "stale"]
    assert bench("audit", grid, "--run", folder.name, "--clips", 0, "--results", tmp_path / "r").code == 0
    assert "There are no results of 'gray'" in bench("audit", grid, "--run", "gray", "--results", tmp_path / "r").err
