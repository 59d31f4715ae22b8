"""The figures of the papers: what is drawn is what the result files say, and all that are known can be measured."""

from __future__ import annotations

from pathlib import Path

import pytest
from kit.stored import drawn, linf, put, right

from bench import BenchError, figure
from bench.grids.grid import find_grid
from bench.report.figures import FIGURES, Made, Published, find_figure, published_data


def steps(folder: Path, hits: dict[int, int], *, attack: str = "PGD+exact") -> None:
    """A defence that meets an attack of more and more steps."""
    put(folder, right(8), attack="clean")
    for count, still in hits.items():
        put(folder, right(still), attack=attack, budget=linf(4, count))


def test_accuracy_over_steps_is_what_the_clips_say_by_hand(tmp_path: Path) -> None:
    steps(tmp_path / "embedded_steps", {1: 7, 10: 4, 5: 6})
    put(tmp_path / "embedded_steps", right(5), budget=linf(4, 1))  # gray-box, which this figure does not show
    put(tmp_path / "embedded_steps", right(2), attack="PGD+BPDA as published", budget=linf(4, 1))
    put(tmp_path / "embedded_steps", right(1), attack="PGD+BPDA as published", budget=linf(4, 5))
    found = figure("videopure-4", results=tmp_path)
    assert drawn(found) == {
        "blur, PGD+exact": ([1, 5, 10], [87.5, 75.0, 50.0]),
        "blur, PGD+BPDA as published": ([1, 5], [25.0, 12.5]),
    }
    assert (
        found.get_suptitle()
        .replace("\n", " ")
        .startswith("After VideoPure, Figure 4: accuracy against the steps of the attack embedded_steps: m on cifar10")
    )
    assert found.axes[0].get_xlabel() == "steps of the attack"
    (line,) = drawn(figure("videopure-4", attacks=["PGD+exact"], results=tmp_path)).values()
    assert line == ([1, 5, 10], [87.5, 75.0, 50.0])


def test_the_embedded_size_goes_first_and_any_grid_can_be_named(tmp_path: Path) -> None:
    steps(tmp_path / "videopure_figure4", {1: 8, 5: 4})
    (line,) = drawn(figure("videopure-4", results=tmp_path)).values()
    assert line[1] == [100.0, 50.0]
    steps(tmp_path / "embedded_steps", {1: 2, 5: 0})
    steps(tmp_path / "embedded_steps-clips8", {1: 3, 5: 1})
    put(tmp_path / "embedded_steps-clips8", right(8), budget=linf(4, 5))
    steps(tmp_path / "mine", {1: 6, 5: 2}, attack="Square")
    for grid, accuracies in (
        ("", [25.0, 0.0]),
        ("videopure_figure4", [100.0, 50.0]),
        ("embedded_steps", [25.0, 0.0]),
        ("embedded_steps-clips8", [37.5, 12.5]),
        ("mine", [75.0, 25.0]),
    ):
        (line,) = drawn(figure("videopure-4", grid=grid, results=tmp_path)).values()
        assert line[1] == accuracies


def test_measures_and_losses_are_drawn_as_the_figures_want(tmp_path: Path) -> None:
    put(tmp_path / "motion_table1_ucf101", right(2, of=2), attack="clean", measured=[[0.5, 0.25], [1.0, 0.25]])
    for name, values in (("PGD 8/255", [[2.0, 0.75], [3.0, 0.5]]), ("PGD 4/255", [[9.0, 9.0]] * 2)):
        defense = ("Defended", {})
        put(tmp_path / "motion_table1_ucf101", right(1, of=2), attack=name, defense=defense, measured=values)
    put(
        tmp_path / "motion_table1_ucf101",
        right(2, of=2),
        attack="clean",
        defense=("Defended", {}),
        measured=[[0.5, 0.25], [1.0, 0.25]],
    )
    (axis,) = figure("motion-5", results=tmp_path).axes
    assert [line.get_xdata()[0] for line in axis.get_lines()] == [0.75, 2.5, 0.625]
    put(tmp_path / "embedded_nl", right(1, of=2), attack="PGD+exact", traces=[[1.0, 2.0], [3.0, 6.0]])
    put(tmp_path / "embedded_nl", right(1, of=2), traces=[[5.0], [5.0]])
    found = figure("videopure-loss", attacks=["PGD+exact"], results=tmp_path)
    (mean,) = drawn(found).values()
    assert mean == ([1, 2], [2.0, 4.0])


def test_what_is_not_there_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"'bench run --grid embedded_steps' or 'bench run --grid videopure_figure4'"):
        figure("videopure-4", results=tmp_path)
    steps(tmp_path / "embedded_steps", {1: 2, 5: 0})
    with pytest.raises(BenchError, match=r"no results of videopure_figure4 .*: 'bench run --grid videopure_figure4'"):
        figure("videopure-4", grid="videopure_figure4", results=tmp_path)
    put(tmp_path / "videopure_figure4", right(5), budget=linf(4, 1))
    with pytest.raises(BenchError, match=r"no results of PGD\+BPDA as published or PGD\+exact in .* --attack"):
        figure("videopure-4", grid="videopure_figure4", results=tmp_path)
    with pytest.raises(BenchError, match="no results of 'nowhere'"):
        figure("videopure-4", grid="nowhere", results=tmp_path)
    with pytest.raises(BenchError, match=r"'videopure_4' \(did you mean 'videopure-4'\?\)"):
        figure("videopure_4", results=tmp_path)


@pytest.mark.parametrize("name", [one.name for one in FIGURES if not one.known])
def test_what_nobody_here_knows_is_not_drawn(name: str) -> None:
    with pytest.raises(BenchError, match="is not known here"):
        find_figure(name)


def test_remarks_go_along(tmp_path: Path) -> None:
    steps(tmp_path / "embedded_steps", {1: 2, 5: 0})
    data = published_data("VideoPure-4", results=tmp_path)
    assert data.remarks == (
        "Which steps the paper takes is not known here, and PGD+exact is not in it.",
        "Not there yet: PGD+BPDA as published; 'bench run --grid embedded_steps' makes them.",
    )


MADE = [(one, made) for one in FIGURES if one.known for made in (one.embedded, one.published)]


@pytest.mark.parametrize(("one", "made"), MADE, ids=[made.grid for _, made in MADE if made is not None])
def test_shipped_grids_make_what_a_figure_shows(one: Published, made: Made | None) -> None:
    """In both sizes: the row and the attacks that are drawn, and several values of what they are drawn against."""
    assert made is not None
    grid = find_grid(made.grid)
    assert set(made.attacks) <= {section.label for section in grid.attack_sections}
    label, _, model = made.defense.partition("@")
    assert label in ("", *map(str, grid.defense_specs))
    assert model in ("", *grid.models)
    place, _, argument = one.against.rpartition(".")
    if one.kind == "accuracy":
        params = [spec.params for spec in grid.defense_specs]
        owners = grid.budgets if place == "budget" else params
        assert len({owner[argument] for owner in owners if argument in owner}) > 3
