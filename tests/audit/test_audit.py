"""The audit: planted frauds are exposed, honest defences are not accused, and each check knows what it looks for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kit.cells import identified
from kit.commands import Answer
from kit.gray import level_classifier
from kit.running import run_plan
from planted import Remembering

from bench import BenchError, Budget
from bench.audit import probes
from bench.audit.outcomes import Evidence, examine, rows_of
from bench.audit.rows import audit
from bench.grids.grid import read_grid
from bench.plan.expand import make_plan
from bench.records.audits import AuditedRow, Finding, grade, read_audit, write_audit
from bench.records.identity import BudgetIdentity, ComponentIdentity, Gradient, Knowledge
from bench.records.outcome import Control, Outcome
from bench.records.results import CellResult, Score

Write = Callable[..., Path]
ATTACKS = "[clean, noise, PGD, PGD+BPDA, PGD+exact]"


def audited(path: Path, folder: Path, clips: int = 6) -> dict[str, AuditedRow]:
    """Runs a grid with its controls, audits it; rows by defence."""
    plan = make_plan(read_grid(path))
    results = run_plan(plan, folder, control=4)
    # What is audited was never asked anything: a plan of its own.
    return {row.defense: row for row in audit(make_plan(read_grid(path)), results, clips=clips)}


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
        ("RandomElsewhere", "hidden randomness"),
        ("Remembering", "memory"),
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


def suspect(gray_grid: Write, norm: str = "linf", defense: str = "kit.gray:Identity") -> probes.Suspect:
    path = gray_grid(('"kit.gray:Identity"', f'"{defense}"'), ("norm: linf", f"norm: {norm}"))
    plan = make_plan(read_grid(path))
    cell = next(c for c in plan.cells if c.defense.label == defense)
    refs = plan.refs
    return probes.Suspect(
        lambda: cell.defended,
        torch.stack([plan.dataset.load(r) for r in refs]),
        [r.id for r in refs],
        torch.tensor([r.label for r in refs]),
        "exact",
        Budget(norm, 0.12, steps=4),
    )


def test_a_benchmark_that_masks_something_by_itself(gray_grid: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = suspect(gray_grid)
    assert probes.an_empty_defence_changes_nothing(asked) is None
    # What does nothing is taken for something that dims the clip.
    monkeypatch.setattr(probes._Wrapper, "purify", lambda self, clips, rng: 0.9 * clips)
    finding = probes.an_empty_defence_changes_nothing(asked)
    assert finding is not None
    assert (finding.severity, finding.check) == ("fault", "empty defence")
    assert finding.clips


@pytest.mark.parametrize(
    ("half", "whole", "twice", "under_noise", "checks"),
    [
        ([0, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1], [1.0] * 6, set()),
        ([1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0], [1.0] * 6, {"budget"}),
        ([0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0], [1.0] * 6, {"budget"}),
        ([0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0.0, 1.0, 0.4, 1.0, 1.0, 1.0], {"noise"}),
    ],
)
def test_size_and_noise_asked_again(
    gray_grid: Write,
    monkeypatch: pytest.MonkeyPatch,
    half: list[int],
    whole: list[int],
    twice: list[int],
    under_noise: list[float],
    checks: set[str],
) -> None:
    by_size = {0.06: half, 0.12: whole, 0.24: twice}

    def broken_by(self: probes.Suspect, attack: str, budget: Budget, gradient: str | None = None) -> torch.Tensor:
        return torch.tensor(by_size[round(float(budget.size), 6)], dtype=torch.bool)

    monkeypatch.setattr(probes.Suspect, "broken_by", broken_by)
    monkeypatch.setattr(probes.Suspect, "shares", lambda *_: torch.tensor(under_noise))
    findings = probes.size_and_noise_are_what_they_seem(suspect(gray_grid))
    assert {f.check for f in findings} == checks
    if checks == {"noise"}:
        assert findings[0].clips == ["gray/2"]  # the first is broken by the attack, too


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_whatever_the_norm_everything_must_fall_to_a_large_budget(gray_grid: Write, norm: str) -> None:
    finding = probes.everything_falls_to_a_large_budget(suspect(gray_grid, norm, "planted:Rounding"))
    assert finding is not None
    assert "6 of 6 clips are right at 64/255" in finding.message
    assert probes.everything_falls_to_a_large_budget(suspect(gray_grid, norm)) is None


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


def outcome(clip: str, right: bool, **more: Any) -> Outcome:
    return Outcome(clip=clip, label=1, prediction=int(right), correct=right, attacked=True, **more)


def cell(
    attack: str,
    right: str,
    knowledge: Knowledge = "adaptive",
    *,
    budget: str = "linf 4/255",
    size: float = 4 / 255,
    name: str = "pgd",
    control: Control | None = None,
    gradient: Gradient = "bpda",
    defense: str = "d",
    traces: dict[str, list[float]] | None = None,
    draws: dict[str, list[int]] | None = None,
    norm: str = "linf",
    backwards: int = 10,
    params: dict[str, Any] | None = None,
    clips: str = "abcd",
) -> CellResult:
    """A cell on clips of one letter each, of which those in ``right`` are right."""
    spent = {} if knowledge in ("clean", "noise") else {"forwards": 10, "backwards": backwards}
    outcomes = [
        outcome(c, c in right, trace=(traces or {}).get(c, []), draws=(draws or {}).get(c, []), **spent) for c in clips
    ]
    clean = knowledge == "clean"
    return CellResult(
        cell=f"{defense}-{attack}-{budget}",
        dataset="s",
        model="m",
        defense=defense,
        attack=attack,
        knowledge=knowledge,
        gradient="none" if clean else gradient,
        budget="" if clean else budget,
        settings=identified(
            defense,
            knowledge,
            attack=ComponentIdentity(name=name, params=params or {}),
            budget=BudgetIdentity(norm=norm, size=size, steps=10, restarts=1),
        ),
        score=Score.of(outcomes),
        control=control,
        outcomes=outcomes,
    )


PASSED = Control(clips=4, passed=True, message="")
CLEAN = cell("clean", "abcd", "clean")


def row_of(*cells: CellResult) -> Evidence:
    return next(r for r in rows_of([CLEAN, *cells]) if r.defense == "d")


def found(*cells: CellResult) -> dict[str, Finding]:
    return {f.check: f for f in examine(row_of(*cells)).findings}


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    row = examine(row_of(cell("PGD", "abc", "gray-box"), cell("PGD+BPDA", "a", control=PASSED)))
    assert (row.grade, row.findings) == ("A", [])


def test_a_row_without_an_adaptive_attack_has_no_grade() -> None:
    row = examine(row_of(cell("PGD", "ab", "gray-box")))
    assert row.grade == "F"
    assert [f.check for f in row.findings] == ["adaptive"]


def test_transfer_that_beats_the_adaptive_attack_names_its_clips() -> None:
    finding = found(cell("PGD", "a", "gray-box"), cell("PGD+BPDA", "abc", control=PASSED))["knowing more"]
    assert (finding.severity, finding.clips) == ("fault", ["b", "c"])
    weaker = found(cell("PGD", "abd", "gray-box"), cell("PGD+BPDA", "c", control=PASSED))["knowing more"]
    assert (weaker.severity, weaker.clips) == ("warning", ["c"])


def test_attackers_are_compared_who_may_do_the_same() -> None:
    """Transfer at 16/255 may beat PGD at 4/255; and colours of frames that break all clips excuse no masked PGD."""
    adaptive = cell("PGD+BPDA", "abc", control=PASSED)
    far = cell("Transfer", "a", "black-box", size=16 / 255)
    assert "knowing more" not in found(far, adaptive)
    flicker = cell("Flicker+BPDA", "", norm="flicker", size=40 / 255, control=PASSED)
    finding = found(cell("PGD", "a", "gray-box"), adaptive, flicker)["knowing more"]
    assert (finding.cells, finding.clips) == (["PGD"], ["b", "c"])
    assert "noise" in found(cell("noise", "ab", "noise"), adaptive, flicker)


def test_a_derivative_that_is_beaten_by_a_stand_in_is_masked() -> None:
    def of_eight(stand_in: str, derivative: str, **how: Any) -> dict[str, Finding]:
        bpda = cell("PGD+BPDA", stand_in, control=PASSED, clips="abcdefgh")
        exact = cell("PGD+exact", derivative, gradient="exact", control=PASSED, clips="abcdefgh", **how)
        clean = cell("clean", "abcdefgh", "clean", clips="abcdefgh")
        return {f.check: f for f in examine(next(iter(rows_of([clean, bpda, exact])))).findings}

    finding = of_eight("fgh", "abcdefgh")["derivative"]
    assert (finding.severity, finding.cells, finding.clips) == ("note", ["PGD+exact"], list("abcde"))
    # Four in a row are luck once in sixteen; five against one, seven times in sixty-four.
    assert "derivative" not in of_eight("efgh", "abcdefgh")
    assert "derivative" not in of_eight("fgh", "abcdegh")
    assert "derivative" not in of_eight("abcdefgh", "")
    assert "derivative" not in of_eight("fgh", "abcdefgh", params={"loss": "margin"})


def test_a_classifier_of_other_clips_is_noticed() -> None:
    def of_bare(right: str) -> dict[str, Finding]:
        bare = cell("clean", right, "clean", defense="none")
        return found(bare, cell("PGD+BPDA", "", defense="none"), cell("PGD+BPDA", "a", control=PASSED))

    assert (of_bare("d")["clean"].severity, of_bare("d")["clean"].cells) == ("warning", ["clean"])
    assert "clean" not in of_bare("ad")


def test_queries_that_beat_gradients() -> None:
    square = cell("Square", "a", backwards=0, control=PASSED, gradient="query")
    finding = found(square, cell("PGD+BPDA", "abc", control=PASSED))["queries"]
    assert (finding.severity, finding.cells, finding.clips) == ("fault", ["Square"], ["b", "c"])
    assert "queries" not in found(square, cell("PGD+BPDA", "a", control=PASSED))
    # A step is compared with steps, not with queries.
    step = cell("FGSM+BPDA", "a", name="fgsm", control=PASSED)
    assert "single step" not in found(step, cell("Square", "abcd", backwards=0, control=PASSED))


def test_the_undefended_row_is_known_by_its_defence_and_not_by_its_label() -> None:
    bare = cell("PGD", "a", "gray-box", defense="No defence")
    bare.settings = identified("none", "gray-box")
    clean = CLEAN.model_copy(update={"defense": "No defence", "settings": bare.settings})
    (row,) = rows_of([clean, bare])
    assert row.undefended
    assert examine(row).grade == "A"


def test_noise_that_beats_the_attacks() -> None:
    finding = found(cell("noise", "ab", "noise"), cell("PGD+BPDA", "abcd", control=PASSED))["noise"]
    assert (finding.severity, finding.clips) == ("fault", ["c", "d"])


def test_controls_that_failed_or_were_not_run() -> None:
    failed = Control(clips=4, passed=False, message="2 of 4 clips are answered differently")
    assert found(cell("PGD+BPDA", "a", control=failed))["control"].severity == "fault"
    assert examine(row_of(cell("PGD+BPDA", "a", control=failed))).grade == "F"
    assert found(cell("PGD+BPDA", "a"))["control"].severity == "warning"


def test_an_attack_that_fails_on_the_bare_classifier() -> None:
    finding = found(cell("PGD+BPDA", "abcd", control=PASSED), cell("PGD+BPDA", "abc", defense="none"))[
        "bare classifier"
    ]
    assert "75 %" in finding.message


def test_losses_that_do_not_rise() -> None:
    flat, rising = [-3.0, -3.1, -2.9, -3.0], [-3.0, -2.0, -1.5, -1.0]
    stuck = cell("PGD+BPDA", "abc", control=PASSED, traces={"a": flat, "b": flat, "c": rising, "d": flat})
    assert found(stuck)["loss"].clips == ["a", "b"]
    climbing = cell("PGD+BPDA", "abc", control=PASSED, traces={"a": rising, "b": rising, "c": flat})
    assert "loss" not in found(climbing)
    # Another gradient that climbs is enough.
    assert "loss" not in found(stuck, cell("PGD+exact", "abc", control=PASSED, traces=dict.fromkeys("abc", rising)))


def test_a_larger_budget_that_breaks_fewer_clips() -> None:
    small = cell("PGD+BPDA", "a", control=PASSED)
    large = cell("PGD+BPDA", "abc", budget="linf 8/255", size=8 / 255, control=PASSED)
    finding = found(small, large)["budget"]
    assert (finding.severity, finding.clips) == ("fault", ["b", "c"])
    assert "budget" not in found(
        cell("PGD+BPDA", "abc", control=PASSED),
        cell("PGD+BPDA", "a", budget="linf 8/255", size=8 / 255, control=PASSED),
    )


def test_a_single_step_that_beats_many() -> None:
    finding = found(cell("PGD+BPDA", "abc", control=PASSED), cell("FGSM+BPDA", "ad", name="fgsm", control=PASSED))
    assert finding["single step"].clips == ["b", "c"]


def test_randomness_wants_an_average() -> None:
    drawn = {c: [1, 0, 1, 1] for c in "abcd"}
    assert "randomness" in found(cell("PGD+BPDA", "abcd", control=PASSED, draws=drawn))
    for name, params, enough in (
        ("eot", {"draws": 20}, True),
        ("eot", {"draws": 1}, False),
        ("autoattack", {"version": "rand", "draws": 20}, True),
        ("autoattack", {"version": "standard", "draws": 20}, False),
    ):
        tried = cell("EOT+BPDA", "abcd", control=PASSED, draws=drawn, name=name, params=params)
        assert ("randomness" in found(tried)) is not enough


@pytest.mark.parametrize(
    ("severities", "mark"),
    [([], "A"), (["note"], "A"), (["note", "warning"], "B"), (["warning", "fault"], "C")],
)
def test_grades(severities: list[Any], mark: str) -> None:
    assert grade([Finding(check="x", severity=s, message="") for s in severities]) == mark


def test_audits_are_kept_row_by_row(tmp_path: Path) -> None:
    one, two = examine(row_of(cell("PGD+BPDA", "a", control=PASSED))), examine(row_of(cell("PGD", "a", "gray-box")))
    other = two.model_copy(update={"defense": "e"})
    write_audit(tmp_path, [one, other])
    write_audit(tmp_path, [two])
    assert [(r.defense, r.grade) for r in read_audit(tmp_path)] == [("e", "F"), ("d", "F")]
    (tmp_path / "_audit.json").write_text("[{}]")
    with pytest.raises(BenchError, match=r"_audit\.json is not a valid audit"):
        read_audit(tmp_path)


def test_the_command_writes_grades_that_the_leaderboard_shows(
    bench: Callable[..., Answer], gray_grid: Write, tmp_path: Path
) -> None:
    path = with_defense(gray_grid, "planted:ReversedGradient", "[PGD, PGD+exact]")
    missing = bench("audit", path, "--results", tmp_path / "r")
    assert missing.code == 2
    assert "run 'bench run --grid" in missing.err
    assert bench("run", "--grid", path, "--results", tmp_path / "r").code == 0
    told = bench("audit", path, "--results", tmp_path / "r", "--clips", 4)
    assert told.code == 0, told.err
    assert "fault, slope: The loss falls along the exact gradient" in told.out
    rows = json.loads(bench("audit", path, "--results", tmp_path / "r", "--clips", 0, "--json").out)
    assert {r["defense"] for r in rows} == {"none", "planted:ReversedGradient"}
    bench("audit", path, "--results", tmp_path / "r", "--clips", 4)
    board = bench("leaderboard", "--results", tmp_path / "r", "--output", tmp_path / "board.md")
    assert board.code == 0, board.err
    text = (tmp_path / "board.md").read_text()
    assert "| Audit |" in text
    (line,) = [ln for ln in text.splitlines() if ln.startswith("| planted:ReversedGradient")]
    assert line.endswith("| C |")


def test_the_suspect_is_fresh_and_shares_its_weights() -> None:
    from bench.audit.rows import _maker
    from bench.defense.defended import DefendedClassifier

    defended = DefendedClassifier(level_classifier(), Remembering())
    make = _maker(defended, torch.device("cpu"))
    one, two = make(), make()
    one.defense.seen.append(torch.zeros(1))
    assert defended.defense.seen == two.defense.seen == []
    assert next(one.parameters()) is next(defended.parameters())
