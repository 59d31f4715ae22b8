"""Kept clips in pairs, and the networks that were asked about them, made again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from kit.running import exported
from torch import Tensor

from bench import BenchError
from bench.grids.grid import read_grid
from bench.plan.expand import make_plan
from bench.records.results import CellResult, read_results
from bench.run.pairs import KeptPairs, Pair, difference
from bench.run.remade import judge_stream, purified, remade, remade_classifier

Write = Callable[..., Path]
ALL = "[clean, noise, PGD, PGD+BPDA, PGD+exact]"
TRANSFER = '[clean, noise, PGD, PGD+BPDA, {attack: pgd, source: "kit.gray:louder_classifier", label: Transfer}]'


def gray(level: float) -> Tensor:
    return torch.full((3, 4, 8, 8), level)


def cells(results: Path, name: str = "gray") -> dict[tuple[str, str], CellResult]:
    return {(cell.defense, cell.attack): cell for cell in read_results(results / name)}


def test_the_difference_is_enlarged_around_middle_gray() -> None:
    found = difference(Pair(torch.tensor([0.5, 0.5, 0.5, 0.0]), torch.tensor([0.5, 0.52, 0.47, 1.0])), 10)
    assert found.tolist() == pytest.approx([0.5, 0.7, 0.2, 1.0])


def test_pairs_are_the_gray_clip_and_what_was_added(gray_grid: Write, tmp_path: Path) -> None:
    beyond = """[clean, {attack: "kit.gray:Cheater(how='budget')", gradient: exact, label: Beyond}]"""
    exported(gray_grid((ALL, beyond)), tmp_path, control=0, keep="all")
    found = cells(tmp_path)
    with KeptPairs(tmp_path) as kept:
        for defense in ("none", "kit.gray:Identity"):
            cell = found[defense, "Beyond"]
            for clip, level in (("gray/0", 0.3), ("gray/4", 0.5)):
                assert kept.has(cell, clip)
                pair = kept.pair(cell, clip)
                assert torch.equal(pair.clean, gray(level))
                assert torch.equal(pair.adversarial, gray(level) + 0.25)
            assert kept.classes(cell) == ("dark", "medium", "bright")
            assert not kept.has(cell, "gray/6")
        for cell, clip in ((found["none", "clean"], "gray/0"), (found["none", "Beyond"], "gray/6")):
            with pytest.raises(BenchError, match="run the grid with --keep all"):
                kept.pair(cell, clip)


def test_what_is_lost_or_has_another_shape_is_said(gray_grid: Write, tmp_path: Path) -> None:
    cut = """[clean, {attack: "kit.gray:Cheater(how='shape')", gradient: exact, label: Cut}]"""
    exported(gray_grid((ALL, cut)), tmp_path, control=0, keep="all")
    cell = cells(tmp_path)["none", "Cut"]
    with KeptPairs(tmp_path) as kept:
        with pytest.raises(BenchError, match=r"shape \(3, 2, 8, 8\)"):
            kept.pair(cell, "gray/0")
        for file in (tmp_path / ".store" / "bank").rglob("*.adv"):
            file.write_bytes(b"torn")
        with pytest.raises(BenchError, match="gone or torn"):
            kept.pair(cell, "gray/0")
    with KeptPairs(tmp_path / "nowhere") as kept, pytest.raises(BenchError, match="--keep all"):
        kept.pair(cell, "gray/0")


def test_names_of_classes_are_left_out_where_labels_are_others(gray_grid: Write, tmp_path: Path) -> None:
    exported(gray_grid(), tmp_path, keep="all")
    cell = cells(tmp_path)["none", "PGD"]
    cell.outcomes[2].label = 1
    with KeptPairs(tmp_path) as kept:
        assert kept.classes(cell) == ()
        assert kept.classes(cell.model_copy(update={"cell": "of nobody"})) == ()


def test_streams_follow_from_what_is_stored(gray_grid: Write, tmp_path: Path) -> None:
    """Of every kind of cell: clean, noise, gray-box, adaptive, and from another classifier."""
    grid = gray_grid((ALL, TRANSFER))
    plan = make_plan(read_grid(grid))
    assert {cell.knowledge for cell in plan.cells} == {"clean", "noise", "gray-box", "adaptive", "black-box"}
    assert [judge_stream(cell.identity) for cell in plan.cells] == [cell.judge_stream for cell in plan.cells]
    assert len({cell.judge_stream for cell in plan.cells}) == len(plan.cells)


def test_a_randomised_defence_answers_as_it_did_when_it_was_judged(gray_grid: Write, tmp_path: Path) -> None:
    """The coin keeps a clip or blackens it, and what it did can be seen in the stored answer."""
    exported(gray_grid(("kit.gray:Identity", "kit.gray:Coin"), ("length: 6", "length: 12")), tmp_path, keep="all")
    kept_or_black = set()
    with KeptPairs(tmp_path) as kept:
        for (defense, attack), cell in cells(tmp_path).items():
            if defense != "kit.gray:Coin" or attack == "clean":
                continue
            for outcome in cell.outcomes:
                shown = kept.pair(cell, outcome.clip).adversarial
                made = purified(remade(cell.settings), cell.settings, outcome.clip, shown)
                assert made.answers == (outcome.prediction,)
                assert made.remark == ""
                same = torch.equal(made.candidates[0], shown)
                assert same or not made.candidates.any()
                kept_or_black.add(same)
    assert kept_or_black == {True, False}


def test_what_changes_no_clip_has_no_candidates_and_other_networks_are_refused(
    gray_grid: Write, tmp_path: Path
) -> None:
    exported(gray_grid(("kit.gray:Identity", "kit.gray:Doubled")), tmp_path)
    found = cells(tmp_path)
    for defense in ("none", "kit.gray:Doubled"):
        settings = found[defense, "clean"].settings
        assert purified(remade(settings), settings, "gray/0", gray(0.3)).answers == ()
    settings = found["none", "clean"].settings
    assert torch.equal(remade_classifier(settings).instance(gray(0.3)[None]).argmax(-1), torch.tensor([0]))
    other = settings.model.model_copy(update={"weights": "others"})
    with pytest.raises(BenchError, match="not those that were measured"):
        remade_classifier(settings.model_copy(update={"model": other}))
    gone = settings.model.model_copy(update={"name": "kit.gray:nothing"})
    with pytest.raises(BenchError, match="nothing"):
        remade_classifier(settings.model_copy(update={"model": gone}))


def test_a_defence_that_was_changed_is_remarked_on(gray_grid: Write, tmp_path: Path) -> None:
    exported(gray_grid(("kit.gray:Identity", "kit.gray:Lighten")), tmp_path)
    settings = cells(tmp_path)["kit.gray:Lighten", "clean"].settings
    changed = settings.defense.model_copy(update={"code": "older"})
    settings = settings.model_copy(update={"defense": changed})
    made = purified(remade(settings), settings, "gray/0", gray(0.3))
    assert made.remark.startswith("The defence was changed since it was measured")
    assert torch.equal(made.candidates, gray(0.3)[None] + 0.2)
    assert made.answers == (1,)
