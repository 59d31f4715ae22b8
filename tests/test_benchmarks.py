"""What the scripts in ``benchmarks/`` print and draw, on figures that are known."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from kit.cells import cell, identified
from torch import Tensor, nn

from bench import ATTACKS, Budget, ClipRandom, DefendedClassifier, Purifier, origins
from bench.defense.defended import why_not
from bench.defenses.none import NoDefense
from bench.grids.grid import read_grid
from bench.plan.expand import make_plan
from bench.records.identity import ComponentIdentity, Knowledge
from bench.records.metrics import wilson
from bench.records.results import CellResult, Score, read_result, result_files
from bench.registry import DEFENSES
from bench.report.reported import shipped_folder

FOLDER = Path(__file__).parents[1] / "benchmarks"


def script(name: str) -> ModuleType:
    """A script as a module, its ``main`` not called."""
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_zoo_table_pools_seeds_and_counts_clips_once() -> None:
    pooled = script("zoo").pooled
    one, two = Score(correct=40, clips=50), Score(correct=20, clips=50)
    low, high = (round(100 * v) for v in wilson(30, 50))
    assert pooled([one, two]) == f"60.0\n{low} to {high}\nseeds 40.0 to 80.0"
    low, high = (round(100 * v) for v in wilson(40, 50))
    assert pooled([one]) == f"80.0\n{low} to {high}"


def test_the_strength_of_purifiers_is_counted_over_fresh_draws() -> None:
    """A classifier that says 1 of bright clips, behind a purifier that paints every second draw of a stream white."""

    class Bright(nn.Module):
        def forward(self, clips: Tensor) -> Tensor:
            level = clips.mean(dim=(1, 2, 3, 4))
            return torch.stack([0.5 - level, level - 0.5], 1)

    class Sometimes(Purifier):
        stochastic = True

        def __init__(self) -> None:
            super().__init__()
            self.asked = 0

        def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
            self.asked += 1
            return torch.ones_like(clips) if self.asked % 2 else clips

    left = script("strength_purifiers").left
    clips, labels = torch.full((3, 3, 1, 2, 2), 0.1), torch.tensor([0, 0, 1])
    # White: only the last is right. As it is: the first two.
    assert left(DefendedClassifier(Bright(), Sometimes()), clips, labels, 4) == 1.5
    assert left(DefendedClassifier(Bright(), NoDefense()), clips, labels, 4) == 2


def test_every_row_of_the_strength_of_purifiers_can_be_run() -> None:
    for text, attacks in script("strength_purifiers").ROWS:
        defense = DEFENSES.create(text)
        assert [why_not(defense, gradient) for _, gradient in attacks] == [None] * len(attacks)
        assert all(ATTACKS.create(attack).check(Budget("linf", 4 / 255)) is None for attack, _ in attacks)


def of_sweep(
    label: str, attack: str, right: str, loss: Sequence[float], knowledge: Knowledge = "gray-box"
) -> CellResult:
    """The cell of an attack like ``motion_i ce 300``; ``loss`` is what the defence measures of its clips."""
    name, *rest = attack.split() or [""]
    params: dict[str, Any] = {"loss": rest[0]} if rest else {}
    params |= {"lambdas": [float(w) for w in rest[1:]]} if rest[1:] else {}
    result = cell("Defended", label, knowledge, right)
    for outcome, value in zip(result.outcomes, loss, strict=True):
        outcome.measured, outcome.attacked = [value, value], True
    identity = ComponentIdentity(name=name, params=params) if name else None
    return result.model_copy(update={"settings": identified(attack=identity)})


def test_sweep_curves_are_sorted_by_weight_and_take_nothing_else() -> None:
    cells = [
        of_sweep("clean", "", "1111", [1, 2, 3, 4], "clean"),
        of_sweep("I 300", "motion_i ce 300", "1110", [1, 2, 3, 4]),
        of_sweep("PGD", "pgd ce", "1000", [5, 6, 7, 8]),
        of_sweep("I 1", "motion_i ce 1", "1100", [0, 0, 5, 5]),
        of_sweep("I", "motion_i ce 1 10", "0000", [0, 0, 0, 0]),
        of_sweep("I margin 1", "motion_i margin 1", "0000", [0, 0, 0, 0]),
        of_sweep("II 1", "motion_ii ce 1", "0000", [0, 0, 0, 0]),
        of_sweep("PGD+BPDA", "pgd ce", "0000", [5, 6, 7, 8], "adaptive"),
    ]
    module = script("sweep")
    curves = module.sweep(cells, module.areas_of(cells), "motion_i", "ce")
    assert list(curves) == ["Defended"]
    points = [(p.weight, p.score.accuracy, p.area) for p in curves["Defended"]]
    assert points == [(0, 25, 1.0), (1, 50, 0.5), (300, 75, 0.5)]
    with pytest.raises(SystemExit, match="one table of results, not 0"):
        module.areas_of([])


def test_sweep_curves_are_drawn_of_committed_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER.parent)
    monkeypatch.setattr(sys, "argv", ["sweep.py", "--out", str(tmp_path / "sweep.png")])
    script("sweep").main()
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_restamping_renews_what_was_current_and_marks_the_rest(
    results: Path, gray_grid: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restamp = script("restamp")
    grid = read_grid(gray_grid(("kit.gray:Identity", "kit.gray:Lighten")))
    monkeypatch.setattr(restamp, "find_grid", lambda name: grid)
    shutil.copytree(shipped_folder(), results / "reported")  # no grid's folder
    restamp.note(results, tmp_path / "before.json")
    files = result_files(results / "gray")
    other = next(path for path in files if "Lighten--PGD+BPDA" in path.name)
    result = read_result(other)
    settings = result.settings.model_copy(update={"engine": "long gone"})
    other.write_text(result.model_copy(update={"settings": settings, "cell": settings.id}).to_text())
    before = {path: read_result(path) for path in files}

    monkeypatch.setattr(origins, "engine", lambda: "edited")
    assert restamp.restamp(results, tmp_path / "before.json") == (len(files) - 1, 1)
    plan = {cell.id for cell in make_plan(grid).cells}
    for path, was in before.items():
        now = read_result(path)
        assert [o.model_dump() for o in now.outcomes] == [o.model_dump() for o in was.outcomes]
        assert bool(now.stale) == (path == other)
        assert (now.cell in plan) == (path != other)
        assert now.cell != was.cell or path == other
    # Once more, from identities that no result has: all are stale.
    assert restamp.restamp(results, tmp_path / "before.json") == (0, len(files))


def test_what_other_code_has_measured_is_marked_and_nothing_else_of_it_changes(
    results: Path, gray_grid: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    restamp = script("restamp")
    grid = read_grid(gray_grid(("kit.gray:Identity", "kit.gray:Lighten")))
    monkeypatch.setattr(restamp, "find_grid", lambda name: grid)
    before = {path: read_result(path) for path in result_files(results / "gray")}
    assert restamp.mark(results) == (len(before), 0)
    monkeypatch.setattr(origins, "engine", lambda: "edited")
    assert restamp.mark(results) == (0, len(before))
    for path, was in before.items():
        now = read_result(path)
        assert now.stale
        assert now.model_copy(update={"stale": ""}) == was
    monkeypatch.undo()
    monkeypatch.setattr(restamp, "find_grid", lambda name: grid)
    assert restamp.mark(results) == (len(before), 0)
    assert not any(read_result(path).stale for path in before)


def test_the_table_of_the_training_family_counts_clips_that_nothing_breaks() -> None:
    made = script("strength_training")
    cells = {(d, "ROA"): cell(d, "ROA", "adaptive", "1101") for d in made.DEFENSES}
    cells["MultiBN", "ROA branches"] = cell("MultiBN", "ROA branches", "adaptive", "0111")
    header, _, *rows = made.table(cells, ["ROA", "ROA branches"])
    assert header == "| Defence | ROA | ROA branches | all |"
    assert [row.split(" | ") for row in rows[:-1]] == [[f"| {d}", "3", "", "3 |"] for d in made.DEFENSES[:-1]]
    assert rows[-1] == "| MultiBN | 3 | 3 | 2 |"


def test_the_attacks_on_the_training_family_fit_their_budgets() -> None:
    made = script("strength_training")
    listed = [attack for family in made.FAMILIES.values() for attack in family]
    grid = made.grid_of("trial", 2, ["MultiBN"], listed)
    grid.check()
    plan = make_plan(grid)
    assert {c.attack_label for c in plan.cells if c.defense.label == "MultiBN"} == {
        "clean",
        *(a["label"] for a in listed),
    }
    assert not plan.skipped


class Bright(nn.Module):
    """Class 1 where a clip is brighter than middle gray."""

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        score = 20 * (clips.mean((1, 2, 3, 4)) - 0.5)
        return torch.stack([-score, score], 1)


def test_the_strength_of_stand_ins_is_counted_in_clips_left() -> None:
    """Clips .01, .03 and .2 above the threshold, in a ball of .05: the last one is left."""
    module = script("strength_transforms")
    clips = torch.tensor([0.51, 0.53, 0.7]).reshape(3, 1, 1, 1, 1).expand(3, 3, 2, 8, 8)
    given, budget = module.Clips(clips, torch.tensor([1, 1, 1])), Budget("linf", 0.05, steps=4)
    defended = DefendedClassifier(Bright(), DEFENSES.create("mean"))
    for at_once in (2, 8):
        assert module.left(defended, given, "pgd", budget, at_once) == 1
    halftone = module.Row("halftone", 2, 1, ("identity", "exact"))
    name, size, *left, count = module.measured(Bright(), halftone, 1)
    assert (name, size, count) == ("halftone", "linf 2/255", "1")
    assert left[0] in ("0", "1")
    assert module.Row("equalize", 0.7, 1, norm="l2").budget(3) == Budget("l2", 0.7, steps=3)
    assert left[1:] == ["-", "-", "-", "-"]  # not asked for, or without such a gradient
