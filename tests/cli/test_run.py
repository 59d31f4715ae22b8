"""``bench run``: what it prints, how it ends, what it keeps."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from kit.commands import Answer

Bench = Callable[..., Answer]
Write = Callable[..., Path]


def test_run_prints_the_table_and_a_second_run_does_nothing(bench: Bench, gray_grid: Write, tmp_path: Path) -> None:
    arguments = ("run", "--grid", gray_grid(), "--results", tmp_path / "r")
    first = bench(*arguments)
    assert first.code == 0, first.err
    for word in (
        "Standard",
        "Robust*",
        "+BPDA",
        "Union",
        "kit.gray:Identity",
        "100.0",
        "61-100",
        "60 clip outcomes",
    ):
        assert word in first.out, word
    second = bench(*arguments)
    assert second.code == 0
    assert "nothing was left to do" in second.out
    assert first.out.split("60 clip outcomes")[0] == second.out.split("nothing was left")[0]


def test_run_with_a_defence_of_ones_own(bench: Bench, gray_grid: Write, tmp_path: Path) -> None:
    answer = bench(
        *("run", "--grid", gray_grid(), "--results", tmp_path / "r"),
        *("--defense", "kit.gray:Lighten(by=0.1)", "--attack", "PGD+exact", "--clips", 3),
    )
    assert answer.code == 0, answer.err
    assert "kit.gray:Lighten(by=0.1)" in answer.out
    assert "kit.gray:Identity" not in answer.out


def test_run_with_ones_own_classifier_and_checkpoint(bench: Bench, tmp_path: Path, gray_grid: Write) -> None:
    import torch

    levels = tmp_path / "levels.pth"
    torch.save({"state_dict": {"module.levels": torch.tensor([0.9, 0.5, 0.1])}}, levels)
    arguments = ("run", "--grid", gray_grid(), "--results", tmp_path / "r", "--attack", "noise")
    model = ("--model", "kit.gray:level_classifier")
    assert "100.0" in bench(*arguments, *model).out
    answer = bench(*arguments, *model, "--checkpoint", levels)  # dark and bright change places: 2 of 6 stay right
    assert answer.code == 0, answer.err
    assert "33.3" in answer.out
    assert "kit.gray:level_classifier@levels" in answer.out
    torch.save({"scales": torch.ones(3)}, levels)
    answer = bench(*arguments, *model, "--checkpoint", levels)
    assert answer.code == 2
    assert "missing keys: levels" in answer.err
    assert "unexpected keys: scales" in answer.err
    answer = bench(*arguments, *model, "--checkpoint", tmp_path / "nowhere.pth")
    assert answer.code == 2
    assert "no checkpoint at" in answer.err


def test_run_says_which_figures_say_nothing(bench: Bench, tmp_path: Path, gray_grid: Write) -> None:
    arguments = ("run", "--grid", gray_grid(), "--results", tmp_path / "r", "--attack", "PGD", "--steps", 3)
    quiet = bench(*arguments)
    assert "Warning" not in quiet.err
    for _ in range(2):  # the second time from what is stored
        answer = bench(*arguments, "--model", "kit.gray:saturated_classifier")
        assert answer.code == 0, answer.err
        said = " ".join(answer.err.split())
        assert "kit.gray:saturated_classifier: the network returns probabilities instead of logits" in said
        assert "clips that the attack leaves never moves" in said
        assert "square or rays" in said


def test_a_quick_look_never_overwrites_the_full_measurement(bench: Bench, gray_grid: Write, tmp_path: Path) -> None:
    arguments = ("run", "--grid", gray_grid(), "--results", tmp_path / "r")
    assert bench(*arguments).code == 0
    before = {p.name: p.read_text() for p in (tmp_path / "r" / "gray").glob("[!_]*.json")}
    for option in (("--clips", 3), ("--steps", 1), ("--seed", 9)):
        assert bench(*arguments, *option).code == 0
    assert {p.name: p.read_text() for p in (tmp_path / "r" / "gray").glob("[!_]*.json")} == before
    folders = {p.name for p in (tmp_path / "r").iterdir() if not p.name.startswith(".")}
    assert folders == {"gray", "gray-clips3", "gray-steps1", "gray-seed9"}


def test_failed_clips_are_shown_and_end_with_code_1(bench: Bench, gray_grid: Write, tmp_path: Path) -> None:
    path = gray_grid(("kit.gray:Identity", "kit.gray:FailsOnBright"))
    answer = bench("run", "--grid", path, "--results", tmp_path / "r", "--attack", "noise")
    assert answer.code == 1
    assert "2 failed" in answer.out
    assert "too bright" in answer.err
    assert (tmp_path / "r" / "gray" / "_grid.json").is_file()  # what was computed is there


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "--grid", "dmo"), "did you mean 'demo'"),
        (("run", "--device", "tpu"), "choose auto, cpu or cuda"),
        (("run", "--batch-size", "many"), "--batch-size"),
        (("run", "--defense", "jepg"), "did you mean 'jpeg'"),
        (("run", "--attack", "PGD+BDPA"), "did you mean 'bpda'"),
        (("run", "--clips", "0"), "--clips"),
        (("run", "--model", "nl_r50"), "No weights are known for model 'nl_r50' on data set 'actions12'"),
        (("show", "jepg"), "did you mean 'jpeg'"),
        (("show", "jpeg", "--sheet", "x.png"), "not a data set"),
        (("show", "jpeg", "--clips"), "not a data set"),
        (("show", "motion12", "--clips", "--count", "0"), "--count must be at least 1"),
        (("show", "motion12", "--sheet", "x.txt"), ".png"),
        (("leaderboard", "--results", "/nowhere"), "no results folder"),
        (("leaderboard", "--results", ".", "--output", "."), "Cannot write"),
        (("train", "--model", "nl_tiny", "--recipe", "standrd"), "did you mean 'standard'"),
        (("train", "--model", "nl_tinny"), "did you mean 'nl_tiny'"),
    ],
)
def test_bad_input_is_one_sentence_and_code_2(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = bench(*arguments)
    assert answer.code == 2
    assert says in answer.err
    assert "Traceback" not in answer.err


def test_a_missing_data_set_and_checkpoint_are_named_together(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = bench("run", "--grid", "ucf101_nl", "--data-root", tmp_path / "ucf")
    assert answer.code == 2
    named = ("UCF101.php", "testlist01.txt", "NL_res50.pth", "slowfast_resnet50.pth", "zhipeng-wei/TT")
    for part in (*named, "licence:", "put it:"):
        assert part in answer.err, part
    assert str(tmp_path / "ucf") in answer.err


def test_dry_run_counts_passes_and_computes_nothing(bench: Bench, tmp_path: Path) -> None:
    columns = ("--attack", "PGD", "--attack", "PGD+BPDA")
    answer = bench("run", "--dry-run", "--results", tmp_path / "r", "--clips", 10, *columns)
    assert answer.code == 0
    # 10 clips x (gray-box, 7 x bpda) x (10 steps + 1 check); judging: 3 columns of 5 deterministic rows and of 3 x 5
    # draws.
    assert "1480 forward and 800 backward" in answer.out
    refused = bench("run", "--dry-run", "--results", tmp_path / "r", "--defense", "jpeg", "--attack", "PGD+exact")
    assert "JPEG has no exact gradient" in refused.out
    assert not (tmp_path / "r").exists()


def test_dry_run_says_how_much_is_stored(bench: Bench, gray_grid: Write, tmp_path: Path) -> None:
    arguments = ("run", "--grid", gray_grid(), "--results", tmp_path / "r")
    assert bench(*arguments, "--clips", 2).code == 0
    whole, part = bench(*arguments, "--dry-run"), bench(*arguments, "--clips", 2, "--dry-run")
    counts = [re.search(r"(\d+) of (\d+) outcomes are stored", answer.out) for answer in (whole, part)]
    (done, all_of_them), (done_again, asked) = [(int(c[1]), int(c[2])) for c in counts if c]
    assert done == done_again == asked
    assert 0 < done < all_of_them


def test_the_progress_bar_keeps_its_figures_on_a_narrow_terminal() -> None:
    from rich.console import Console

    from bench.report.bar import RunProgress

    bar = RunProgress()
    bar.begin(100, 96 * 18, 18)
    bar.working_on("slowfast_tiny: temporal_shuffle(window=2), PGD+exact, which is a long name")
    bar.advance(50, 900, 9)
    console = Console(width=80)
    with console.capture() as captured:
        console.print(bar._bar.get_renderable())
    (line,) = captured.get().splitlines()
    assert len(line) <= 80
    for figure in ("50 %", "clips 900/1728, cells 9/18", "left", "slowfast"):
        assert figure in line
    assert line.rstrip().endswith("…")


@pytest.mark.parametrize(
    ("attack", "says"),
    [
        (
            "{attack: one_frame, label: One}",
            "OneFrame takes one-frame budgets, not linf: give it one, in a grid by 'budget: {norm: one-frame",
        ),
        (
            "{attack: {name: one_frame, frame: 9}, budget: {norm: one-frame}, label: One}",
            "There is no frame 9: the clips have 4 frames",
        ),
        (
            "{attack: {name: autoattack, parts: 'apgd-t'}, gradient: exact, label: AA}",
            "apgd-t compares the 4 largest logits, but the classifier has 3 classes",
        ),
        ("{attack: pgd, gradient: query, label: PGD}", "'PGD' takes gradients, and 'query' has none"),
    ],
)
def test_attacks_that_cannot_be_run_are_one_sentence_and_code_2(
    bench: Bench, gray_grid: Write, tmp_path: Path, attack: str, says: str
) -> None:
    path = gray_grid(("[clean, noise, PGD, PGD+BPDA, PGD+exact]", f"[{attack}]"))
    answer = bench("run", "--grid", path, "--results", tmp_path / "r")
    assert answer.code == 2, answer.out
    assert says in answer.err, answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            [('"kit.gray:Identity"', "motion_consistency"), ("kit.gray:GrayClips", "kit.gray:Still")],
            "Motion consistency compares frames of a clip: it needs at least two, not 1",
        ),
        ([("kit.gray:level_classifier", "kit.gray:flow_i3d")], "This I3D takes optical flow (B, 2, T-1, H, W)"),
    ],
)
def test_what_motion_needs_is_one_sentence_and_code_2(
    bench: Bench, gray_grid: Write, tmp_path: Path, changes: list[tuple[str, str]], says: str
) -> None:
    path = gray_grid(*changes, ("[clean, noise, PGD, PGD+BPDA, PGD+exact]", "[clean]"))
    answer = bench("run", "--grid", path, "--results", tmp_path / "r")
    assert answer.code == 2, answer.out
    assert says in " ".join(answer.err.split()), answer.err
    assert "Traceback" not in answer.err


def test_a_checkpoint_of_another_width_is_one_sentence_and_code_2(
    bench: Bench, gray_grid: Write, tmp_path: Path
) -> None:
    import torch

    from bench.models.i3d import I3D

    state = I3D(3).state_dict()
    state["Mixed_4c.b1b.conv3d.weight"] = torch.zeros(112, 56, 3, 3, 3)
    torch.save(state, tmp_path / "narrow.pt")
    answer = bench(
        *("run", "--grid", gray_grid(), "--results", tmp_path / "r", "--model", "i3d_rgb"),
        *("--checkpoint", tmp_path / "narrow.pt"),
    )
    assert answer.code == 2
    assert "Mixed_4c.b1b.conv3d.weight (file (112, 56, 3, 3, 3), network (224, 112, 3, 3, 3))" in answer.err


def test_labels_with_brackets_are_shown_as_they_are(gray_grid: Write, tmp_path: Path, bench: Bench) -> None:
    grid = gray_grid(
        ('"kit.gray:Identity"', '{name: "kit.gray:FailsOnBright", label: "mine [/] [bold]x"}'),
        ("title: Gray clips", 'title: "Gray [/red] clips"'),
        ("clean, noise", '{attack: noise, label: "[/] noise"}'),
    )
    folder = tmp_path / "r"
    for arguments in (["run", "--grid", grid, "--dry-run"], ["run", "--grid", grid], ["audit", grid, "--clips", 0]):
        answer = bench(*arguments, "--results", folder)
        assert answer.code in (0, 1), answer.err
        assert "mine [/]" in answer.out
    assert bench("leaderboard", "--results", folder, "--output", tmp_path / "l.md").code == 0
    assert "| mine [/] [bold]x |" in (tmp_path / "l.md").read_text()
