"""Which clips a training sees: data sets with parameters, real ones, and splits without a class."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from kit.videos import write_video
from torch import nn

from bench import BenchError
from bench.cli.main import main
from bench.models.base import build_seeded
from bench.models.resnet3d import ResNet3D
from bench.training.data import check_classes, split_of

CLASSES = ("ApplyEyeMakeup", "YoYo")


def tiny_model(num_classes: int = 12, seed: int = 0) -> nn.Module:
    """A model named ``tiny_model`` of this file; how many classes it has comes from the data set."""
    return build_seeded(
        lambda: ResNet3D(num_classes, width=4, blocks=(1,), stem_kernel=(3, 3, 3), stem_stride=(1, 2, 2)), seed
    )


@pytest.fixture
def ucf(tmp_path: Path) -> Path:
    """Two classes of UCF-101 with ten groups of one training video each, and one test video."""
    root = tmp_path / "ucf"
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    train, test = [], []
    for number, name in ((1, CLASSES[0]), (101, CLASSES[1])):
        for group in range(8, 18):
            train.append(f"{name}/v_{name}_g{group:02d}_c01.avi {number}")
        test.append(f"{name}/v_{name}_g01_c01.avi")
    (lists / "trainlist01.txt").write_text("\n".join(train) + "\n")
    (lists / "testlist01.txt").write_text("\n".join(test) + "\n")
    for line in [*train, *test]:
        path = line.split()[0]
        level = 200 if "YoYo" in path else 40
        write_video(root / "UCF-101" / path, (np.full((48, 64, 3), level, np.uint8) for _ in range(5)))
    return root


def test_a_name_may_have_parameters_and_the_split_is_the_trainings_own(ucf: Path) -> None:
    name = f"ucf101(root='{ucf}', frames=4, size=16, start='strided', clips_per_class=None)"
    sizes = {split: len(split_of(name, split).refs()) for split in ("train", "val", "test")}
    assert sizes == {"train": 18, "val": 2, "test": 2}
    data = split_of(name, "train")
    assert data.load(data.refs()[0]).shape == (3, 4, 16, 16)
    assert len(split_of("motion12(length=5)", "train", length=9).refs()) == 5  # who names it decides
    assert len(split_of("motion12", "train", length=9).refs()) == 9


def test_a_training_set_without_a_class_is_refused(ucf: Path) -> None:
    with pytest.raises(BenchError, match=r"has no clip of ApplyLipstick, Archery, BabyCrawling and 96 more"):
        check_classes(split_of(f"ucf101(root='{ucf}')", "train"))
    with pytest.raises(BenchError, match="needs files that are not here"):
        split_of("ucf101", "train")
    check_classes(split_of("motion12(length=1)", "train"))  # rendered on demand


def test_the_command_trains_on_real_videos_and_says_what_is_missing(
    ucf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"ucf101(root='{ucf}', frames=4, size=16, start='strided', clips_per_class=None)"
    command = [
        *("train", "--model", f"{__name__}:tiny_model", "--dataset", name, "--recipe", "at_spa", "--steps", "1"),
        *("--work", str(tmp_path / "work"), "--out", str(tmp_path / "zoo"), "--curves", str(tmp_path / "curves")),
    ]
    plain = tmp_path / "plain.pth"
    torch.save(tiny_model(101).state_dict(), plain)
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 2
    assert "and none are shipped" in capsys.readouterr().err.replace("\n", " ")
    with pytest.raises(SystemExit) as ended:
        main([*command, "--start", str(plain)])
    assert ended.value.code == 2
    assert "has no clip of ApplyLipstick" in capsys.readouterr().err.replace("\n", " ")
    monkeypatch.setattr("bench.training.objectives.classifier.check_classes", lambda data: None)
    with pytest.raises(SystemExit) as ended:
        main([*command, "--start", str(plain)])
    assert ended.value.code == 0
    entries = json.loads((tmp_path / "zoo" / "manifest.json").read_text())
    (entry,) = entries.values()
    assert entry["dataset"] == "ucf101"
    assert entry["model"] == f"{__name__}:tiny_model_at_spa"
    assert entry["figures"]["clean"]["clips"] == 2
    assert f'--dataset "{name}"' in entry["command"]
