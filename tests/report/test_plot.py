"""Figures of stored results: what is drawn is what the result files say."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit.stored import drawn, linf, put, right
from matplotlib.collections import PolyCollection
from matplotlib.image import AxesImage
from scipy.stats import binomtest

from bench import BenchError, plot
from bench.report.curves import Measures, Sweep
from bench.report.plot import draw, figure_data, save


@pytest.fixture
def sizes(tmp_path: Path) -> Path:
    """A grid in which two defences meet three sizes of PGD."""
    folder = tmp_path / "sizes"
    for name, clean, hits in (("blur", 8, {2: 6, 4: 3, 8: 0}), ("none", 7, {2: 5, 4: 0, 8: 0})):
        put(folder, right(clean), attack="clean", defense=(name, {}))
        for size in (8, 2, 4):
            put(folder, right(hits[size]), budget=linf(size), defense=(name, {}), spared=8 - clean)
    return folder


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


def test_measures_are_counted_by_hand_in_bins_that_all_share(tmp_path: Path) -> None:
    """From 0 to 24 the bins are a unit wide; a clip without an answer has no measure."""
    clean, attacked = [[0.0, 9.0], [0.5, 9.0], [3.5, 9.0]], [[24.0, 3.25], [23.5, 0.75], [20.5, 3.75]]
    put(tmp_path / "g", right(3, of=3), attack="clean", measured=clean)
    put(tmp_path / "g", right(1, of=3), attack="noise", measured=attacked)
    put(tmp_path / "g", right(1, of=3), measured=attacked, stale="Old.")
    put(tmp_path / "g", right(1, of=3), attack="Square", measured=attacked, failed=1)
    figure = plot("g", kind="measure", attacks=["PGD"], results=tmp_path)
    (axis,) = figure.axes
    found = {str(p.get_label()).rpartition(" (mean")[0]: p.get_data() for p in axis.patches}
    expected = {
        "clean clips": {0: 2, 3: 1},
        "under PGD": {23: 2, 20: 1},
        "under PGD, purified": {3: 2, 0: 1},
    }
    for label, bins in expected.items():
        values, edges, _ = found[label]
        assert list(edges) == list(range(25))
        assert {i: n for i, n in enumerate(values) if n} == bins
    means = [line.get_xdata()[0] for line in axis.get_lines()]
    assert means == pytest.approx([4 / 3, 68 / 3, 7.75 / 3])
    assert axis.get_xlabel() == "measured by blur"
    data = figure_data("g", kind="measure", results=tmp_path)  # every attack, and noise is none
    assert isinstance(data, Measures)
    assert [(g.label, len(g.values)) for g in data.groups] == [
        ("clean clips", 3),
        ("under PGD", 3),
        ("under PGD, purified", 3),
        ("under Square", 2),
        ("under Square, purified", 2),
    ]
    assert data.remarks == ("Stale: Old. Run the grid again.",)


def test_measures_are_those_of_one_row_that_has_them(sizes: Path) -> None:
    for what, says in (
        (("sizes:blur", "sizes:none"), "one row measures: name one"),
        (("sizes",), "has 2 rows; name one of them"),
        (("sizes:blur",), "keeps no measures of its clips"),
    ):
        with pytest.raises(BenchError, match=says):
            figure_data(*what, kind="measure", results=sizes.parent)
    for size in (1, 16):
        put(sizes, right(0), budget=linf(size), measured=[[1.0, 1.0]] * 8)
    with pytest.raises(BenchError, match=r"11 histograms, and 9 .* --budget"):
        figure_data("sizes:blur", kind="measure", results=sizes.parent)
    data = figure_data("sizes:blur", kind="measure", budget="linf 16/255", results=sizes.parent)
    assert isinstance(data, Measures)
    assert [g.label for g in data.groups] == ["under PGD", "under PGD, purified"]
