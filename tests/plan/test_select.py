"""Grids on the clips that every classifier of a table gets right."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from kit.commands import Answer
from kit.gray import GrayClips
from torch import Tensor

from bench import BenchError, ClipRef
from bench.grids.grid import override, read_grid
from bench.plan.expand import make_plan
from bench.plan.select import Asking
from bench.registry import DATASETS, Spec
from bench.weights.zoo import build_classifier, zoo_file

Write = Callable[..., Path]
BOTH = "select: {correct-by: ['kit.gray:level_classifier', 'kit.gray:Extremes']}"
ALL = "[clean, noise, PGD, PGD+BPDA, PGD+exact]"


def selected(select: str = BOTH) -> tuple[str, str]:
    """In place of the length of the gray grid's data set."""
    return "length: 6", f"length: 6, {select}"


def test_clips_are_those_that_all_classifiers_get_right(gray_grid: Write) -> None:
    """Of six clips, dark, medium, bright in turn, one of the classifiers gets the medium ones wrong."""
    plan = make_plan(read_grid(gray_grid(selected())))
    assert [ref.id for ref in plan.refs] == ["gray/0", "gray/2", "gray/3", "gray/5"]
    assert plan.note.startswith("4 of the 6 clips looked at are right by kit.gray:level_classifier and kit.gray:Ex")
    assert all("clips that kit.gray:level_classifier and" in c.dataset.label for c in plan.cells)
    everything = make_plan(read_grid(gray_grid()))
    assert [ref.id for ref in everything.refs] == [f"gray/{i}" for i in range(6)]
    assert everything.note == ""


@pytest.mark.parametrize(
    ("select", "kept"),
    [
        ("select: {correct-by: ['kit.gray:Extremes']}, clips: 3", ["gray/0", "gray/2", "gray/3"]),
        ("select: {correct-by: ['kit.gray:level_classifier']}, clips: 3", ["gray/0", "gray/1", "gray/2"]),
    ],
)
def test_the_first_clips_are_those_of_the_selection(gray_grid: Write, select: str, kept: list[str]) -> None:
    grid = read_grid(gray_grid(selected(select)))
    assert [ref.id for ref in make_plan(grid).refs] == kept
    assert [ref.id for ref in make_plan(override(grid, clips=2)).refs] == kept[:2]


def test_so_many_of_each_class_are_drawn_by_the_seed(gray_grid: Write) -> None:
    text = "length: 30, select: {correct-by: ['kit.gray:Extremes'], per-class: 2}"
    grid = read_grid(gray_grid(("length: 6", text)))
    chosen = [make_plan(grid.model_copy(update={"seed": seed})).refs for seed in range(4)]
    for refs in chosen:
        assert sorted(ref.label for ref in refs) == [0, 0, 2, 2]
        assert [int(ref.id.partition("/")[2]) for ref in refs] == sorted(int(r.id.partition("/")[2]) for r in refs)
    assert len({tuple(refs) for refs in chosen}) > 1
    assert make_plan(grid).refs == chosen[0]
    # Ten medium clips were tried in vain, and two of each other class were enough.
    assert make_plan(grid).note.startswith("4 of the 14 clips looked at")


def test_the_shipped_classifiers_select_what_they_get_right(tmp_path: Path) -> None:
    """Against a program of its own: one batch through each network."""
    names, count = ("nl_tiny", "slowfast_tiny"), 16
    path = tmp_path / "shipped.yaml"
    path.write_text(
        f"dataset: {{name: actions12, length: {count}, select: {{correct-by: [{', '.join(names)}]}}}}\n"
        "models: [nl_tiny]\ndefenses: [none]\nattacks: [clean]\n"
    )
    plan = make_plan(read_grid(path))
    dataset = DATASETS.create({"name": "actions12", "length": count})
    refs = dataset.refs()
    clips, labels = torch.stack([dataset.load(ref) for ref in refs]), torch.tensor([ref.label for ref in refs])
    with torch.no_grad():
        right = [build_classifier(Spec(n), zoo_file(n, "actions12"))(clips).argmax(1) == labels for n in names]
    expected = [ref for ref, both in zip(refs, (right[0] & right[1]).tolist(), strict=True) if both]
    assert plan.refs == expected
    assert 0 < len(expected) < count


def test_the_undefended_row_is_right_by_construction(
    bench: Callable[..., Answer], gray_grid: Write, tmp_path: Path
) -> None:
    models = 'models: ["kit.gray:level_classifier"]', "models: ['kit.gray:level_classifier', 'kit.gray:Extremes']"
    grid = gray_grid(selected(), models, (ALL, "[PGD]"))
    answer = bench("run", "--grid", grid, "--results", tmp_path / "r")
    assert answer.code == 0, answer.err
    assert "4 of the 6 clips looked at" in answer.err
    cells = [json.loads(p.read_text()) for p in (tmp_path / "r" / "gray").glob("*none--clean*.json")]
    assert len(cells) == 2
    for cell in cells:
        assert [o["correct"] for o in cell["outcomes"]] == [True] * 4
        assert cell["settings"]["dataset"]["params"]["select"]["correct-by"][1] == "kit.gray:Extremes"


def test_a_selection_is_another_measurement(gray_grid: Write) -> None:
    """Whichever clips it leaves: its figures are of clips that were chosen."""
    every = "select: {correct-by: ['kit.gray:level_classifier']}"
    other = "select: {correct-by: ['kit.gray:louder_classifier']}"
    plans = [make_plan(read_grid(gray_grid(*r))) for r in ((), (selected(every),), (selected(other),))]
    assert plans[0].refs == plans[1].refs == plans[2].refs
    assert len({plan.cells[0].id for plan in plans}) == 3
    assert len({plan.units[0].id for plan in plans}) == 3


def test_answers_are_kept_and_no_clip_is_asked_twice(
    gray_grid: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    load = GrayClips.load

    def counted(self: GrayClips, ref: ClipRef) -> Tensor:
        loaded.append(ref.id)
        return load(self, ref)

    monkeypatch.setattr(GrayClips, "load", counted)
    steps: list[tuple[int, int]] = []
    asking = Asking(folder=tmp_path / "store", watch=lambda done, total: steps.append((done, total)))
    grid = read_grid(gray_grid(selected()))
    few = make_plan(override(grid, clips=1), asking=asking).refs
    assert set(loaded) == {"gray/0"}
    first = make_plan(grid, asking=asking).refs
    # The first clip is also what a strange network is looked at with, in every plan.
    others = [f"gray/{i}" for i in range(1, 6)]
    assert sorted(clip for clip in loaded if clip != "gray/0") == others
    assert make_plan(grid, asking=asking).refs == first
    assert few == first[:1]
    assert sorted(clip for clip in loaded if clip != "gray/0") == others
    assert steps[0] == (0, 6)
    assert steps[-1] == (6, 6)
    (file,) = (tmp_path / "store" / "selected").iterdir()
    file.write_text('{"gray/0": tr')  # torn: all are asked again
    assert make_plan(grid, asking=asking).refs == first
    assert sorted(clip for clip in loaded if clip != "gray/0") == sorted(2 * others)
    assert len(json.loads(file.read_text())) == 6
    file.write_text('{"gray/0": "yes"}')
    with pytest.raises(BenchError, match="remove that file"):
        make_plan(grid, asking=asking)


def test_looking_keeps_no_answers(gray_grid: Write, tmp_path: Path) -> None:
    make_plan(read_grid(gray_grid(selected())), asking=Asking(folder=tmp_path / "store", keep=False))
    assert not (tmp_path / "store").exists()


def test_clips_that_cannot_be_read_are_left_out_and_counted(gray_grid: Write) -> None:
    plan = make_plan(read_grid(gray_grid(("length: 6", f"length: 6, absent: 2, broken: 3, {BOTH}"))))
    assert [ref.id for ref in plan.refs] == ["gray/0", "gray/5"]
    assert plan.note.endswith("; 2 could not be read.")


@pytest.mark.parametrize(
    ("select", "says"),
    [
        ("select: {correct-by: [nl_tinny]}", "did you mean 'nl_tiny'?"),
        ("select: {correct-by: ['kit.gray:nobody']}", "'nobody'"),
        ("select: {correct-by: [nl_tiny, nl_tiny]}", "classifier to select by nl_tiny twice"),
        ("select: {correct-by: []}", "'dataset.select.correct-by': list should have at least 1 item"),
        ("select: {corect-by: [nl_tiny]}", "did you mean 'correct-by'?"),
        ("select: {correct-by: [nl_tiny], per-clas: 1}", "did you mean 'per-class'?"),
        ("select: {correct-by: [nl_tiny], per-class: 0}", "greater than or equal to 1"),
        ("label: 1, only: 0, select: {correct-by: ['kit.gray:Extremes']}", "of the 6 looked at none is: check the"),
        ("absent: 0, clips: 1, length: 1, select: {correct-by: ['kit.gray:Extremes']}", "none is; 1 could not be read"),
        ("select: {correct-by: ['kit.gray:flow_i3d']}", "is to select the clips, cannot take clips of shape (1, 3, 4"),
    ],
)
def test_selections_that_cannot_be_are_one_sentence(gray_grid: Write, select: str, says: str) -> None:
    length = "" if "length" in select else "length: 6, "
    with pytest.raises(BenchError) as caught:
        make_plan(read_grid(gray_grid(("length: 6", length + select))))
    assert says in str(caught.value)


def test_all_missing_files_are_listed_together(tmp_path: Path) -> None:
    path = tmp_path / "published.yaml"
    path.write_text(
        "dataset: {name: ucf101, select: {correct-by: [nl_r50, slowfast_r50]}}\n"
        "models: [nl_r50]\ndefenses: [none]\nattacks: [clean]\n"
    )
    with pytest.raises(BenchError) as caught:
        make_plan(read_grid(path), data_root=tmp_path)
    for part in ("testlist01.txt", "NL_res50.pth", "slowfast_resnet50.pth"):
        assert str(caught.value).count(part) >= 1, part
    assert str(caught.value).count("NL_res50.pth, or give it") == 1
