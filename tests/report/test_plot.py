"""Figures of stored results: what is drawn is what the result files say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit.cells import SOMEBODY
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from scipy.stats import binomtest

from bench import BenchError, plot
from bench.records.identity import BudgetIdentity, CellIdentity, ComponentIdentity
from bench.records.outcome import Outcome
from bench.records.results import CellResult, Score
from bench.report.curves import Sweep
from bench.report.plot import draw, figure_data, save

Answers = Sequence[tuple[int, int]]  # (label, answer) of every clip


def put(
    folder: Path,
    answers: Answers,
    *,
    attack: str = "PGD",
    budget: BudgetIdentity | None = None,
    params: dict[str, Any] | None = None,
    defense: tuple[str, dict[str, Any]] = ("blur", {}),
    traces: Sequence[list[float | None]] = (),
    stale: str = "",
    failed: int = 0,
    spared: int = 0,
) -> None:
    """Writes a result file; the last few clips have no answer, or were wrong without the attack and spared it."""
    clean = attack == "clean"
    budget = None if clean else budget or linf(4)
    outcomes = []
    for i, (label, answer) in enumerate(answers):
        o = Outcome(clip=f"c{i}", label=label, prediction=answer, correct=label == answer, votes=[answer])
        o.attacked = not clean and i < len(answers) - spared
        o.clean_prediction = label if o.attacked else answer
        if traces:
            o.trace, o.forwards, o.backwards = traces[i], len(traces[i]), len(traces[i])
        if i >= len(answers) - failed:
            o = Outcome(clip=f"c{i}", label=label, status="failed", error="RuntimeError: no", attacked=not clean)
        outcomes.append(o)
    name, arguments = defense
    said = ", ".join(f"{k}={v}" for k, v in arguments.items())
    settings = CellIdentity(
        engine="e",
        dataset=ComponentIdentity(name="cifar10"),
        model=ComponentIdentity(name="m"),
        defense=ComponentIdentity(name=name, params=arguments),
        attack=None if clean else ComponentIdentity(name=attack.split()[0].lower(), params=params or {}),
        budget=budget,
        knowledge="clean" if clean else "adaptive",
        gradient="none" if clean else "exact",
        seed=0,
    )
    cell = CellResult(
        cell=settings.id,
        dataset="cifar10",
        model="m",
        defense=f"{name}({said})" if said else name,
        attack=attack,
        knowledge=settings.knowledge,
        gradient=settings.gradient,
        budget="" if budget is None else f"{budget.norm} {255 * budget.size:g}/255, {budget.steps} steps",
        settings=settings,
        score=Score.of(outcomes),
        stale=stale,
        provenance=[SOMEBODY],
        outcomes=outcomes,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / cell.file_name).write_text(cell.to_text(), encoding="utf-8")


def linf(size: float, steps: int = 10, norm: str = "linf") -> BudgetIdentity:
    return BudgetIdentity(norm=norm, size=size / 255, steps=steps, restarts=1)


def right(hits: int, of: int = 8) -> Answers:
    """Clips of class 3, of which so many are answered rightly."""
    return [(3, 3 if i < hits else 5) for i in range(of)]


@pytest.fixture
def sizes(tmp_path: Path) -> Path:
    """A grid in which two defences meet three sizes of PGD."""
    folder = tmp_path / "sizes"
    for name, clean, hits in (("blur", 8, {2: 6, 4: 3, 8: 0}), ("none", 7, {2: 5, 4: 0, 8: 0})):
        put(folder, right(clean), attack="clean", defense=(name, {}))
        for size in (8, 2, 4):
            put(folder, right(hits[size]), budget=linf(size), defense=(name, {}), spared=8 - clean)
    return folder


def drawn(figure: Figure) -> dict[str, tuple[list[float], list[float]]]:
    """Lines of the legend, by their label."""
    lines = [line for axis in figure.axes for line in axis.get_lines() if not str(line.get_label()).startswith("_")]
    return {str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata())) for line in lines}


def test_lines_are_the_accuracies_and_bands_the_wilson_intervals_of_scipy(sizes: Path) -> None:
    figure = plot(str(sizes))
    (axis,) = figure.axes
    assert drawn(figure) == {
        "blur": (pytest.approx([2, 4, 8]), [75.0, 37.5, 0.0]),
        "none": (pytest.approx([2, 4, 8]), [62.5, 0.0, 0.0]),
    }
    bands = [c for c in axis.collections if isinstance(c, PolyCollection)]
    for band, hits in zip(bands, ((6, 3, 0), (5, 0, 0)), strict=True):
        (path,) = band.get_paths()
        corners = {(round(float(x), 6), round(float(y), 6)) for x, y in path.vertices}
        intervals = [binomtest(k, 8).proportion_ci(method="wilson") for k in hits]
        for x, interval in zip((2.0, 4.0, 8.0), intervals, strict=True):
            assert {(x, round(100 * interval.low, 6)), (x, round(100 * interval.high, 6))} <= corners
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("size of the attack (linf, /255)", "accuracy (%)")
    assert figure.get_suptitle() == "sizes: m on cifar10\naccuracy under attack, 10 steps, 8 clips"
    dashed = [list(line.get_ydata()) for line in axis.get_lines() if line.get_linestyle() == "--"]
    assert dashed == [[100.0] * 3, [87.5] * 3]
    solid = [line for line in axis.get_lines() if line.get_linestyle() == "-"]
    assert len({line.get_marker() for line in solid}) == 2
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["blur", "none", "the same, clean clips"]


def test_clean_accuracy_of_other_clips_is_not_drawn(tmp_path: Path) -> None:
    put(tmp_path / "g", right(5, of=9), attack="clean", stale="Old.")
    for steps in (1, 5):
        put(tmp_path / "g", right(4), budget=linf(4, steps))
    data = figure_data("g", against="steps", results=tmp_path)
    assert isinstance(data, Sweep)
    assert [[(p.x, p.accuracy, p.clean) for p in line.points] for line in data.lines] == [
        [(1.0, 50.0, None), (5.0, 50.0, None)]
    ]


def test_an_argument_of_the_defence_has_clean_points_of_its_own(tmp_path: Path) -> None:
    for t_star, clean, hits in ((101, 7, 4), (21, 8, 1)):
        put(tmp_path / "g", right(clean), attack="clean", defense=("diffpure", {"t_star": t_star, "steps": 2}))
        put(tmp_path / "g", right(hits), defense=("diffpure", {"t_star": t_star, "steps": 2}), spared=8 - clean)
    data = figure_data("g", against="t_star", results=tmp_path)
    assert isinstance(data, Sweep)
    (line,) = data.lines
    assert (line.label, [(p.x, p.accuracy, p.clean) for p in line.points]) == (
        "diffpure",
        [(21.0, 12.5, 100.0), (101.0, 50.0, 87.5)],
    )
    assert data.axis.startswith("t*")
    assert data.remarks == ()


def test_what_differs_along_with_an_argument_is_said(tmp_path: Path) -> None:
    """As in the figure of VideoPure's t*, which takes more steps for more noise."""
    for t_star, steps in ((101, 6), (21, 2)):
        put(tmp_path / "g", right(3), defense=("diffpure", {"t_star": t_star, "steps": steps}))
    data = figure_data("g", against="t_star", results=tmp_path)
    assert isinstance(data, Sweep)
    assert [[p.x for p in line.points] for line in data.lines] == [[21.0, 101.0]]
    assert data.remarks == ("Along with t_star differ steps.",)
    put(tmp_path / "g", right(4), defense=("diffpure", {"t_star": 21, "steps": 3}))
    put(tmp_path / "g", right(4), defense=("diffpure", {"t_star": 101, "steps": 9}))
    with pytest.raises(BenchError, match=r"differ in t_star alone; what differs is defense\.steps"):
        figure_data("g", against="t_star", results=tmp_path)


def test_queries_have_a_line_per_attack_and_words_have_bars(tmp_path: Path) -> None:
    for queries in (50, 200):
        for attack, loss, hits in (("Square", "margin", 6), ("Square", "ce", 7), ("RayS", "none", 5)):
            label = f"{attack} {loss} {queries}"
            put(tmp_path / "g", right(hits), attack=label, params={"queries": queries, "loss": loss})
    data = figure_data("g", against="queries", results=tmp_path)
    assert isinstance(data, Sweep)
    found = {line.label: [(p.x, p.accuracy) for p in line.points] for line in data.lines}
    assert found == {
        "blur, rays+exact": [(50.0, 62.5), (200.0, 62.5)],
        "blur, square+exact (loss=ce)": [(50.0, 87.5), (200.0, 87.5)],
        "blur, square+exact (loss=margin)": [(50.0, 75.0), (200.0, 75.0)],
    }
    (axis,) = plot("g", against="loss", results=tmp_path).axes
    assert [label.get_text() for label in axis.get_xticklabels()] == ["ce", "margin"]


def test_stale_points_are_hollow_and_named(sizes: Path) -> None:
    put(sizes, right(1), budget=linf(16), stale="Measured with other code.")
    figure = plot(str(sizes), attacks=["PGD"])
    (axis,) = figure.axes
    hollow = [line for line in axis.get_lines() if line.get_markerfacecolor() == "white"]
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in hollow] == [([pytest.approx(16)], [12.5])]
    assert figure.get_suptitle().endswith("partly stale")
    assert "blur (hollow: stale)" in drawn(figure)
    assert figure_data(str(sizes)).remarks == ("Stale: Measured with other code. Run the grid again.",)


def test_losses_are_the_traces_and_a_clip_that_has_left_keeps_its_last(tmp_path: Path) -> None:
    put(tmp_path / "g", right(1, of=2), traces=[[1.0, 2.0, 6.0], [3.0, 4.0, None]])
    put(tmp_path / "g", right(1, of=2), attack="RayS")
    put(tmp_path / "g", right(2, of=2), attack="clean")
    figure = plot("g", kind="loss", results=tmp_path)
    (axis,) = figure.axes
    assert drawn(figure) == {"blur": ([1, 2, 3], [2.0, 3.0, 5.0])}  # (1 + 3) / 2, (2 + 4) / 2, (6 + 4) / 2
    faint = [np.array(line.get_ydata()) for line in axis.get_lines() if str(line.get_label()).startswith("_")]
    np.testing.assert_array_equal(faint, [[1, 2, 6], [3, 4, np.nan]])
    assert axis.get_title() == "PGD, linf 4/255, 10 steps"
    assert figure_data("g", kind="loss", results=tmp_path).remarks == ("No losses are kept of RayS (1 cells).",)


def test_confusion_counts_by_hand_with_names_of_classes(tmp_path: Path) -> None:
    answers = [(3, 3), (3, 5), (3, 5), (5, 5), (9, 3), (9, 9)]
    put(tmp_path / "g", answers, failed=1)
    figure = plot("g:blur", kind="confusion", attacks=["PGD"], results=tmp_path)
    (axis,) = figure.axes
    # Classes 3, 5 and 9 of CIFAR-10; the last clip has no answer.
    assert [t.get_text() for t in axis.get_yticklabels()] == ["cat", "dog", "truck"]
    assert [t.get_text() for t in axis.get_xticklabels()] == ["cat", "dog", "truck", "no answer"]
    written = {(round(t.get_position()[1]), round(t.get_position()[0])): int(t.get_text()) for t in axis.texts}
    place = {3: 0, 5: 1, 9: 2}
    assert written == Counter([(place[a], place[b]) for a, b in answers[:-1]] + [(2, 3)])
    (image,) = (child for child in axis.get_children() if isinstance(child, AxesImage))
    np.testing.assert_allclose(
        np.array(image.get_array()), [[1 / 3, 2 / 3, 0, 0], [0, 1, 0, 0], [0.5, 0, 0, 0.5]], atol=1e-12
    )
    assert "blur, PGD, linf 4/255, 10 steps, 6 clips" in figure.get_suptitle()


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"against": "steps"}, "No two cells of these rows differ in steps alone; what differs is budget.size"),
        ({"against": "sise"}, r"has an argument 'sise' \(did you mean 'size'\?\)"),
        ({"attacks": ["PDG"]}, r"No row has an attack 'PDG' \(did you mean 'PGD'\?\)"),
        ({"budget": "l2"}, "No budget begins with 'l2'; there are linf 2/255, 10 steps"),
        ({"kind": "acuracy"}, r"Unknown figure 'acuracy' \(did you mean 'accuracy'\?\)"),
        ({"kind": "loss"}, "keep no losses"),
        ({"kind": "loss", "against": "size"}, "leave out --against size"),
        ({"kind": "confusion"}, "has 2 rows; name one of them"),
    ],
)
def test_bad_input_is_one_sentence(sizes: Path, asked: dict[str, Any], says: str) -> None:
    with pytest.raises(BenchError, match=says):
        plot(str(sizes), **asked)


def test_several_budgets_several_norms_and_several_arguments_are_asked_about(sizes: Path) -> None:
    with pytest.raises(BenchError, match="several budgets: choose one with --budget"):
        plot("sizes:blur", kind="confusion", attacks=["PGD"], results=sizes.parent)
    put(sizes, right(2), budget=linf(4, steps=50))
    with pytest.raises(BenchError, match=r"any of budget\.size, budget\.steps: say which"):
        plot(str(sizes))
    for size in (100, 200):
        put(sizes, right(2), budget=linf(size, norm="l2"))
    with pytest.raises(BenchError, match="Sizes in l2, linf have no axis in common"):
        plot(str(sizes), against="size")
    assert len(plot(str(sizes), against="eps", budget="linf").axes) == 1


def test_a_label_is_no_formula_and_files_have_the_same_bytes(tmp_path: Path) -> None:
    for steps in (1, 2):
        put(tmp_path / "$g$", right(steps), budget=linf(4, steps), defense=("_a$b$", {}))
    data = figure_data(str(tmp_path / "$g$"))
    for suffix in ("svg", "png", "pdf"):
        files = [tmp_path / f"{i}.{suffix}" for i in range(2)]
        for file in files:
            save(draw(data), file)
        assert files[0].read_bytes() == files[1].read_bytes()
        assert files[0].stat().st_size > 1000
    with pytest.raises(BenchError, match=r"ends in \.svg, \.png or \.pdf"):
        save(draw(data), tmp_path / "a.gif")
    with pytest.raises(BenchError, match="Cannot write"):
        save(draw(data), tmp_path / "no" / "a.svg")


def test_folders_make_one_line_and_those_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "a", right(3), budget=linf(4, steps=1))
    put(tmp_path / "b", right(2), budget=linf(4, steps=5))
    data = figure_data("a", "b", "a:blur", results=tmp_path)
    assert isinstance(data, Sweep)
    assert [[(p.x, p.accuracy) for p in line.points] for line in data.lines] == [[(1.0, 37.5), (5.0, 25.0)]]
    put(tmp_path / "c", right(7), budget=linf(4, steps=5))
    with pytest.raises(
        BenchError, match="b:blur@m under PGD and c:blur@m under PGD differ in no argument, but in their"
    ):
        figure_data("a", "b", "c", results=tmp_path)


def test_more_lines_than_can_be_told_apart_are_refused(tmp_path: Path) -> None:
    for i in range(21):
        for steps in (1, 2):
            put(tmp_path / "g", right(1, of=1), budget=linf(4, steps), defense=(f"d{i}", {}))
    with pytest.raises(BenchError, match="That would be 21 lines, and 20 can be told apart"):
        figure_data("g", results=tmp_path)
