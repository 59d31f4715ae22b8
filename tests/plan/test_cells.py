"""Cells of transfer, of the worst of attacks, and of randomised defences: what is planned and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from kit.gray import Identity

from bench import BenchError
from bench.grids.grid import read_grid
from bench.plan.expand import make_plan
from bench.registry import ATTACKS

Write = Callable[..., Path]


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


def test_the_number_of_queries_identifies_only_cells_of_randomised_defences(gray_grid: Write) -> None:
    path = gray_grid(('"kit.gray:Identity"', '"kit.gray:Coin"'))
    few, many = make_plan(read_grid(path)), make_plan(read_grid(path).model_copy(update={"queries": 30}))
    same = {c.defense.label for c, d in zip(few.cells, many.cells, strict=True) if c.id == d.id}
    assert same == {"none"}


def test_how_candidates_vote_is_part_of_what_identifies_a_cell(
    gray_grid: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads a result without the defence's code can tell whether its predictions follow from the votes."""
    path = gray_grid()
    plain = {c.defense.label: c.identity for c in make_plan(read_grid(path)).cells if c.knowledge == "clean"}
    monkeypatch.setattr(Identity, "vote", "mean")
    mean = {c.defense.label: c.identity for c in make_plan(read_grid(path)).cells if c.knowledge == "clean"}
    assert mean["none"] == plain["none"]
    assert (plain["kit.gray:Identity"].vote, mean["kit.gray:Identity"].vote) == ("plurality", "mean")
    assert mean["kit.gray:Identity"].id != plain["kit.gray:Identity"].id


def test_what_was_learned_on_other_clips_is_no_noise(gray_grid: Write) -> None:
    borders = ", ".join(
        f"{{attack: {{name: af_universal, framing: {f}}}, label: {f}}}" for f in ("random", "resnet3d_tiny")
    )
    path = gray_grid(
        ("[clean, noise, PGD, PGD+BPDA, PGD+exact]", f"[{borders}]"),
        ("norm: linf, size: 0.15", "norm: framing, size: 1"),
    )
    known = {c.attack_label: c.knowledge for c in make_plan(read_grid(path)).cells}
    assert known == {"clean": "clean", "random": "noise", "resnet3d_tiny": "universal"}


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
    assert {s.kind for s in plan.skipped} == {"refused"}


def test_parts_of_an_attack_belong_to_its_identity(gray_grid: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.registry import Entry

    path = gray_grid(("[clean, noise, PGD, PGD+BPDA, PGD+exact]", "[{attack: \"eot(attack='mi_fgsm')\", label: E}]"))
    before = make_plan(read_grid(path)).units[0]
    assert before.attack.identity.parts[0].name == "mi_fgsm"
    entry = ATTACKS.get("mi_fgsm")
    edited = Entry(entry.name, entry.factory, entry.kind, entry.source, entry.origin)
    edited.__dict__["code"] = "edited"
    monkeypatch.setitem(ATTACKS._entries, "mi_fgsm", edited)
    after = make_plan(read_grid(path)).units[0]
    assert after.id != before.id
