"""What identifies the components of a plan: of data sets, their files, and settings that seed nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kit.commands import Answer
from kit.own import write_stills

from bench.grids.grid import Grid, read_grid
from bench.plan.cells import Cell
from bench.plan.components import _dataset
from bench.plan.expand import make_plan
from bench.records.identity import ComponentIdentity

DATASET = '{name: "kit.gray:GrayClips", length: 6}'


def cells(gray_grid: Callable[..., Path], root: Path, dataset: str) -> list[Cell]:
    return make_plan(read_grid(gray_grid((DATASET, dataset))), data_root=root).cells


def test_other_clips_under_the_same_names_are_measured_again(
    bench: Callable[..., Answer], gray_grid: Callable[..., Path], tmp_path: Path
) -> None:
    root = write_stills(tmp_path / "data")
    grid = gray_grid((DATASET, '{name: "kit.own:Stills"}'), ("[clean, noise, PGD, PGD+BPDA, PGD+exact]", "[clean]"))
    command: tuple[Any, ...] = ("run", "--grid", grid, "--data-root", root, "--results", tmp_path / "r")
    assert "100.0" in bench(*command).out
    assert "nothing was left to do" in bench(*command).out
    write_stills(root, {"dark": 179})
    again = bench(*command).out
    assert "nothing was left to do" not in again
    assert "66.7" in again


def test_a_setting_that_seeds_nothing_is_part_of_the_identity(gray_grid: Callable[..., Path], tmp_path: Path) -> None:
    root = write_stills(tmp_path / "data")
    one = cells(gray_grid, root, '{name: "kit.own:Stills"}')
    other = cells(gray_grid, root, '{name: "kit.own:Stills", reading: lenient}')
    longer = cells(gray_grid, root, '{name: "kit.own:Stills", frames: 5}')
    assert {c.id for c in one}.isdisjoint(c.id for c in other)
    assert [c.judge_stream for c in one] == [c.judge_stream for c in other]
    assert [c.unit.attack_stream for c in one if c.unit] == [c.unit.attack_stream for c in other if c.unit]
    assert {c.judge_stream for c in one}.isdisjoint(c.judge_stream for c in longer)
    assert other[0].dataset.identity.files["reading"] == "lenient"
    assert other[0].dataset.identity.params == {"frames": 4}


@pytest.mark.parametrize("name", ["ucf101", "hmdb51", "kinetics400"])
def test_what_becomes_of_damaged_clips_seeds_nothing(name: str) -> None:
    """Clips that are intact meet the random numbers that they met before there was the choice."""

    def identity(**settings: str) -> ComponentIdentity:
        grid = {"dataset": {"name": name, **settings}, "models": ["m"], "defenses": ["none"], "attacks": ["clean"]}
        return _dataset(Grid.model_validate({"name": "g", **grid}), None).identity

    assert identity().stream() == identity(on_damage="pad").stream()
    assert "on_damage" not in identity().params
    assert (identity().files, identity(on_damage="pad").files) == ({"on_damage": "refuse"}, {"on_damage": "pad"})


def test_a_file_that_is_a_parameter_counts_by_what_it_holds(gray_grid: Callable[..., Path], tmp_path: Path) -> None:
    root = write_stills(tmp_path / "data")

    def ids(path: Path, text: str) -> set[str]:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return {c.id for c in cells(gray_grid, root, f'{{name: "kit.own:Listed", list: "{path}"}}')}

    first = ids(tmp_path / "a" / "list.txt", "one")
    assert ids(tmp_path / "b" / "list.txt", "one") == first
    assert ids(tmp_path / "a" / "list.txt", "two").isdisjoint(first)


def test_a_run_whose_first_clip_is_absent_counts_it(
    bench: Callable[..., Answer], gray_grid: Callable[..., Path], tmp_path: Path
) -> None:
    dataset = '{name: "kit.gray:GrayClips", length: 6, absent: 0}'
    grid = gray_grid((DATASET, dataset), ("[clean, noise, PGD, PGD+BPDA, PGD+exact]", "[clean]"))
    answer = bench("run", "--grid", grid, "--results", tmp_path / "r")
    assert answer.code == 1
    assert "2 missing" in answer.out + answer.err  # of both rows
