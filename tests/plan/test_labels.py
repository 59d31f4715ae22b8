"""Grids whose labels are the classifier's own answers to the clean clips."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from kit.commands import Answer
from PIL import Image

from bench import BenchError
from bench.grids.grid import Grid, override, read_grid
from bench.plan.expand import make_plan
from bench.records.results import read_results

Write = Callable[..., Path]
OWN = ("length: 6", "length: 6, labels: own")
EXTREMES = ["kit.gray:Extremes"]  # calls no clip medium, and is right about all others


def extremes(gray_grid: Write, *changes: tuple[str, str]) -> Grid:
    return override(read_grid(gray_grid(*changes)), models=EXTREMES)


def test_labels_are_what_the_undefended_network_answers(gray_grid: Write) -> None:
    """Of dark, medium, bright in turn, a medium clip lies as far from either other level."""
    given, own = make_plan(extremes(gray_grid)), make_plan(extremes(gray_grid, OWN))
    assert [ref.label for ref in given.refs] == [0, 1, 2, 0, 1, 2]
    labels = [ref.label for ref in own.refs]
    assert labels[::3] == [0, 0]
    assert labels[2::3] == [2, 2]
    assert set(labels[1::3]) <= {0, 2}
    assert [ref.id for ref in own.refs] == [ref.id for ref in given.refs]


def test_tables_say_that_it_is_agreement_and_it_is_another_measurement(gray_grid: Write) -> None:
    given, own = make_plan(extremes(gray_grid)), make_plan(extremes(gray_grid, OWN))
    words = "agreement with kit.gray:Extremes's own answers to the clean clips, not accuracy"
    assert all(cell.dataset.label.endswith(words) for cell in own.cells)
    assert not {cell.id for cell in own.cells} & {cell.id for cell in given.cells}
    assert own.cells[0].identity.dataset.params["labels"] == "own"
    assert own.cells[0].identity.dataset.parts == (own.cells[0].model.identity,)


def test_the_first_clips_alone_are_asked_about(gray_grid: Write) -> None:
    grid = override(extremes(gray_grid, OWN), clips=2)
    assert [ref.id for ref in make_plan(grid).refs] == ["gray/0", "gray/1"]


@pytest.mark.parametrize(
    ("change", "models", "says"),
    [
        ("length: 6, labels: own", [*EXTREMES, "kit.gray:level_classifier"], "has several classifiers: choose one"),
        ("length: 6, labels: own, select: {correct-by: ['kit.gray:Extremes']}", EXTREMES, "neither 'select' nor"),
        ("length: 6, labels: mine", EXTREMES, "'dataset.labels'"),
    ],
)
def test_grids_in_which_own_labels_mean_nothing(gray_grid: Write, change: str, models: list[str], says: str) -> None:
    with pytest.raises(BenchError, match=says):
        override(read_grid(gray_grid(("length: 6", change))), models=models)


def test_another_data_set_keeps_the_labels_of_the_grid(gray_grid: Write) -> None:
    own, given = extremes(gray_grid, OWN), extremes(gray_grid)
    assert override(own, dataset="motion12").dataset.labels == "own"
    asked, plain = (override(given, dataset=text) for text in ("motion12(labels='own')", "motion12"))
    assert (asked.dataset.labels, plain.dataset.labels) == ("own", "given")
    assert asked.name != plain.name
    with pytest.raises(BenchError, match=r"labels.*'given' or 'own'"):
        override(given, dataset="motion12(labels='mine')")


def test_videos_without_labels_run_on_the_command_line(
    tmp_path: Path, bench: Callable[..., Answer], gray_grid: Write
) -> None:
    """A gray clip of each level, whose folders say nothing; without an attack the network agrees with itself."""
    for number, level in enumerate((77, 128, 179)):
        place = tmp_path / "videos" / f"{number}" / "1.png"
        place.parent.mkdir(parents=True)
        Image.fromarray(np.full((16, 16, 3), level, np.uint8)).save(place)
    data = f"folder(root={str(tmp_path / 'videos')!r}, labelled=False, frames=2, size=16"
    how = ("--grid", gray_grid(), "--model", *EXTREMES, "--attack", "noise", "--results", tmp_path / "r")
    refused = bench("run", *how, "--dataset", f"{data})")
    assert refused.code == 2
    assert "have no labels: say labels='own'" in refused.err
    done = bench("run", *how, "--dataset", f"{data}, labels='own')")
    assert done.code == 0, done.err
    (folder,) = [path for path in (tmp_path / "r").iterdir() if not path.name.startswith(".")]
    assert "own-labels" in folder.name
    (clean,) = [r for r in read_results(folder) if r.knowledge == "clean" and r.defense == "none"]
    assert (clean.score.correct, clean.score.clips) == (3, 3)
    assert "not accuracy" in " ".join(done.out.split())
