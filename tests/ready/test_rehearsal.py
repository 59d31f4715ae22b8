"""A published grid, end to end, on random weights in the published formats; and these formats one by one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kit.commands import Answer

from bench import BenchError
from bench.diffusion.backbones import load_backbone
from bench.ready.layouts import write_classifier, write_pipeline, write_trained
from bench.ready.videos import write_data
from bench.registry import DATASETS, Spec
from bench.weights.reading import read_plain
from bench.weights.zoo import build_classifier, find_weights


def test_a_published_grid_is_rehearsed(bench: Callable[..., Answer], tmp_path: Path) -> None:
    """NL-R50 in TT's file, ModelScope and RAFT, UCF-101's lists and videos; reduced where that is possible."""
    defense = "diffpure_ddim(backbone='modelscope', precision='fp16', steps=1)"
    arguments: tuple[Any, ...] = (
        *("rehearse", "videopure_table1_ucf101_nl", "--folder", tmp_path, "--width", 0.02, "--device", "cpu"),
        *(
            "--frames",
            8,
            "--size",
            32,
            "--steps",
            1,
            "--defense",
            defense,
            "--attack",
            "clean",
            "--attack",
            "PGD+exact",
        ),
    )
    answer = bench(*arguments)
    assert answer.code == 0, answer.err
    for part in ("nl_r50: none, clean", "nl_r50: none, PGD+exact", "seconds", "peak GiB"):
        assert part in answer.out, part
    for file in (
        "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi",
        "ucfTrainTestlist/testlist01.txt",
        "checkpoints/NL_res50.pth",
        "checkpoints/damo-vilab--text-to-video-ms-1.7b/unet/diffusion_pytorch_model.safetensors",
    ):
        assert (tmp_path / file).is_file(), file
    assert "BENCH_WEIGHTS" not in os.environ
    # The classifier answers the class of the clip, so that the attack is made.
    assert any(
        "PGD" in path.name for path in (tmp_path / "results" / "rehearsal-videopure_table1_ucf101_nl-steps1").iterdir()
    )


@pytest.mark.parametrize(
    ("dataset", "settings", "shape"),
    [
        ("ucf101", {"frames": 3, "size": 32, "clips_per_class": None}, (3, 3, 32, 32)),
        ("hmdb51", {"frames": 3, "size": 32, "clips_per_class": None}, (3, 3, 32, 32)),
        ("kinetics400", {"frames": 3, "size": 32, "clips_per_class": None}, (3, 3, 32, 32)),
        ("cifar10", {"clips_per_class": 2}, (3, 1, 32, 32)),
    ],
)
def test_data_in_each_layout(dataset: str, settings: dict[str, Any], shape: tuple[int, ...], tmp_path: Path) -> None:
    write_data(dataset, tmp_path, 2, 4)
    made = DATASETS.create(Spec(dataset, {**settings, "root": tmp_path}))
    assert made.missing() == []
    refs = made.refs()[:2]
    assert {ref.label for ref in refs} == {0}
    assert made.load(refs[1]).shape == shape
    assert not torch.equal(made.load(refs[0]), made.load(refs[1]))


@pytest.mark.parametrize(
    ("model", "dataset", "classes", "keys"),
    [
        ("slowfast_r50", "ucf101", 101, {"state_dict"}),
        ("r3d18_hara", "hmdb51", 51, {"epoch", "arch", "state_dict", "optimizer"}),
        ("i3d_rgb", "kinetics400", 400, None),
        ("resnet18_frames", "cifar10", 10, None),
    ],
)
def test_classifiers_in_each_layout(
    model: str, dataset: str, classes: int, keys: set[str] | None, tmp_path: Path
) -> None:
    """They are found and read as published files are, and answer class 0."""
    path = write_classifier(Spec(model), dataset, classes, tmp_path)
    assert path is not None
    assert path == find_weights(Spec(model), dataset, None, tmp_path)
    content = read_plain(path)
    assert keys is None or set(content) == keys
    frames, side = (1, 32) if model == "resnet18_frames" else (16, 64)
    network = build_classifier(Spec(model), path)
    logits = network(torch.rand(2, 3, frames, side, side))
    assert logits.shape == (2, classes)
    assert logits.argmax(1).tolist() == [0, 0]


def test_a_classifier_of_which_nothing_is_published() -> None:
    assert write_classifier(Spec("nl_tiny"), "actions12", 12, Path("nowhere")) is None


def test_a_trained_defence_in_its_layout(tmp_path: Path) -> None:
    defense = Spec("adversarial_training", {"recipe": "at_pgd-published"})
    path = write_trained(defense, Spec("resnet18_frames"), "cifar10", 10, tmp_path)
    assert path == tmp_path / "checkpoints" / "resnet18_frames_at_pgd-published-cifar10.safetensors"
    assert path == write_trained(defense, Spec("resnet18_frames"), "cifar10", 10, tmp_path)


@pytest.mark.parametrize("kind", ["stable_diffusion", "guided_diffusion"])
@torch.no_grad()
def test_pipelines_in_each_layout(kind: str, tmp_path: Path) -> None:
    folder = write_pipeline(kind, tmp_path / kind, width=0.02)
    backbone = load_backbone(kind, str(folder), "bf16")
    clips = torch.rand(1, 3, 2, 32, 32)
    latents = backbone.encode(clips)
    assert backbone.predict_noise(latents, 101).shape == latents.shape
    assert backbone.decode(latents).shape == clips.shape


def test_what_has_no_layout_is_refused(bench: Callable[..., Answer], tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no layout of the data set 'actions12'"):
        write_data("actions12", tmp_path, 1, 4)
    answer = bench("rehearse", "demo", "--folder", tmp_path, "--width", 2)
    assert answer.code == 2
    assert "--width" in answer.err
    # The borders of this grid are nobody's layout: they are listed, as by a run.
    answer = bench("rehearse", "adv_framing_ucf101", "--folder", tmp_path, "--device", "cpu", "--frames", 4)
    assert answer.code == 2
    assert "resnext3d101_framing_1-ucf101.safetensors" in answer.err
