"""Clips of one's own, in folders and in lists."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit.commands import Answer
from kit.videos import write_video
from PIL import Image

from bench import BenchError, MissingClip
from bench.data.base import ClipRef, Dataset
from bench.registry import DATASETS

SMALL = {"frames": 4, "size": 16}
CODECS = {".avi": ("mpeg4", {}), ".mp4": ("libx264", {"crf": "0"}), ".webm": ("libvpx-vp9", {"lossless": "1"})}


def gray(path: Path, levels: list[int], width: int = 48, height: int = 32) -> Path:
    """A video whose frames have one level of gray each."""
    codec, options = CODECS[path.suffix]
    frames = [np.full((height, width, 3), level, np.uint8) for level in levels]
    return write_video(path, frames, width, height, codec, options=options or {"qmin": "1", "qmax": "1"})


NETWORK = """
from torch import nn

class Net(nn.Module):
    def forward(self, clips):
        bright = clips.mean(dim=(1, 2, 3, 4))
        return bright[:, None] * bright.new_tensor([1.0, -1.0]) * 9
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes, three containers and a folder of frames."""
    folder = tmp_path / "my clips"
    gray(folder / "jump" / "a.avi", list(range(40, 40 + 12 * 8, 8)))
    gray(folder / "jump" / "b.mp4", [200] * 5)
    gray(folder / "run" / "c.webm", [90] * 6)
    for number, level in enumerate((10, 60, 110, 160, 210), start=1):
        place = folder / "run" / "d" / f"frame_{number:03d}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((20, 30, 3), level, np.uint8)).save(place)
    (folder / "run" / ".hidden.mp4").write_bytes(b"nothing")
    (folder / "run" / "notes.txt").write_text("no clip")
    (folder / ".git").mkdir()
    return folder


def make(root: Path | str | None, **settings: Any) -> Dataset:
    made: Dataset = DATASETS.get("folder").create({"root": root, **SMALL, **settings})
    return made


def levels(dataset: Dataset, ref: ClipRef) -> list[int]:
    """Of the frames of a clip, in steps of ten: codecs are not exact."""
    clip = dataset.load(ref)
    assert clip.shape == (3, 4, 16, 16)
    assert clip.dtype == torch.float32
    return [10 * round(25.5 * level) for level in clip.mean(dim=(0, 2, 3)).tolist()]


def test_a_folder_for_each_class(root: Path) -> None:
    data = make(root)
    assert data.classes == ("jump", "run")
    # Classes take turns.
    assert [(r.id, r.label) for r in data.refs()] == [
        ("jump/a.avi", 0),
        ("run/c.webm", 1),
        ("jump/b.mp4", 0),
        ("run/d", 1),
    ]
    # Every third of twelve frames, from the first: 40, 64, 88, 112.
    assert levels(data, data.refs()[0]) == [40, 60, 90, 110]
    assert levels(data, data.refs()[2]) == [200] * 4
    assert levels(data, data.refs()[3]) == [10, 60, 110, 160]


def test_frames_are_chosen_as_is_said(root: Path) -> None:
    frames = data_of(root, "run/d", start="second")
    assert frames == [60, 110, 160, 210]
    assert data_of(root, "run/d", start="first", frames=4) == [10, 60, 110, 160]
    assert data_of(root, "jump/b.mp4", start="second") == [200] * 4
    drawn = {tuple(data_of(root, "run/d", start="random", seed=seed)) for seed in range(12)}
    assert drawn == {(10, 60, 110, 160), (60, 110, 160, 210)}


def data_of(root: Path, name: str, **settings: Any) -> list[int]:
    data = make(root, **settings)
    return levels(data, next(ref for ref in data.refs() if ref.id == name))


def test_a_short_clip_starts_again(root: Path) -> None:
    clip = make(root, frames=7).load(ClipRef("run/d", 1))
    assert [round(255 * v) for v in clip.mean(dim=(0, 2, 3)).tolist()] == [10, 60, 110, 160, 210, 10, 60]


def test_classes_in_the_order_of_a_classifier(root: Path, tmp_path: Path) -> None:
    order = tmp_path / "classes.txt"
    order.write_text("run\nswim\njump\n")
    data = make(root, classes=str(order))
    assert data.classes == ("run", "swim", "jump")
    assert {r.id.partition("/")[0]: r.label for r in data.refs()} == {"jump": 2, "run": 0}
    order.write_text("run\nswim\n")
    with pytest.raises(BenchError, match="'jump' is a class of the clips and none of the 2 that are named"):
        make(root, classes=str(order))


def test_folders_that_are_numbers_are_labels(tmp_path: Path) -> None:
    for label in (2, 10, 101):
        gray(tmp_path / str(label) / "x.avi", [50] * 4)
    data = make(tmp_path)
    assert [r.label for r in data.refs()] == [2, 10, 101]
    assert data.classes == ()


def test_a_list_says_which_clips_and_labels_and_what_is_gone(root: Path) -> None:
    (root / "test.csv").write_text("file,action\njump/a.avi,up\nrun/d,along\nrun/gone.mp4,along\n")
    data = make(root, list="test.csv")
    assert data.classes == ("along", "up")
    assert [(r.id, r.label) for r in data.refs()] == [("run/d", 0), ("jump/a.avi", 1), ("run/gone.mp4", 0)]
    assert data.note == (
        "test.csv: paths from 'file', labels from 'action'; 1 of 3 clips are not there, and count as missing: "
        "run/gone.mp4."
    )
    with pytest.raises(MissingClip):
        data.load(data.refs()[2])


def test_the_first_files_that_are_gone_are_named(root: Path) -> None:
    names = [f"run/{number}.mp4" for number in (9, 3, 7, 1, 5, 2)]
    (root / "test.csv").write_text("".join(f"{name},along\n" for name in ["run/d", *names]))
    said = make(root, list="test.csv").note
    assert "6 of 7 clips are not there" in said
    assert said.endswith("missing: run/9.mp4, run/3.mp4, run/7.mp4, run/1.mp4, run/5.mp4 and 1 more.")


def test_kinetics_videos_are_found_wherever_they_lie(root: Path) -> None:
    shutil.move(root / "jump" / "b.mp4", root / "jump" / "abc_000001_000011.mp4")
    (root / "val.csv").write_text(
        "label,youtube_id,time_start,time_end,split\nhigh jump,abc,1,11,val\nother,nowhere,2,12,val\n"
    )
    data = make(root, list="val.csv", split="val")
    assert [(r.id, r.label) for r in data.refs()] == [
        ("jump/abc_000001_000011.mp4", 0),
        ("nowhere_000002_000012.mp4", 1),
    ]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("jump/a.avi,x\njump/a.avi,y", "line 3: jump/a.avi stands in line 2 already"),
        ("../secret.mp4,x", r"line 2: \.\./secret\.mp4 leads out of"),
        ("/etc/passwd,x", "line 2: /etc/passwd lies outside"),
        ("gone.mp4,x", "None of the 1 clips of .* is below"),
    ],
)
def test_lists_that_make_no_sense(root: Path, rows: str, says: str) -> None:
    (root / "test.csv").write_text(f"path,label\n{rows}\n")
    with pytest.raises(BenchError, match=says):
        make(root, list="test.csv")


def test_absolute_paths_below_the_root_are_taken(root: Path) -> None:
    (root / "test.csv").write_text(f"path,label\n{root / 'jump' / 'a.avi'},x\n")
    assert [r.id for r in make(root, list="test.csv").refs()] == ["jump/a.avi"]


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    assert "--data-root" in str(make(None).missing()[0])
    assert "does not exist" in str(make(tmp_path / "gone").missing()[0])
    with pytest.raises(BenchError, match="holds no videos in folders of classes"):
        make(tmp_path)
    with pytest.raises(BenchError, match=r"There is no list absent\.csv"):
        make(tmp_path, list="absent.csv")


def test_other_files_or_labels_are_another_data_set(root: Path, tmp_path: Path) -> None:
    first = make(root).fingerprint()
    assert make(root).fingerprint() == first
    (tmp_path / "classes.txt").write_text("run\njump\n")
    assert make(root, classes=str(tmp_path / "classes.txt")).fingerprint() != first
    gray(root / "jump" / "b.mp4", [10] * 30)
    assert make(root).fingerprint() != first


def test_so_many_of_each_class(root: Path) -> None:
    chosen = {seed: [r.id for r in make(root, clips_per_class=1, seed=seed).refs()] for seed in range(8)}
    assert all([name.partition("/")[0] for name in names] == ["jump", "run"] for names in chosen.values())
    assert len({tuple(names) for names in chosen.values()}) > 1


def test_the_command_runs_and_audits_a_folder(root: Path, tmp_path: Path, bench: Callable[..., Answer]) -> None:
    (tmp_path / "net.py").write_text(NETWORK)
    data = f"folder(root={str(root)!r}, frames=4, size=16)"
    how = ("--results", tmp_path / "r", "--dataset", data, "--defense", "jpeg", "--model", tmp_path / "net.py")
    done = bench("run", "--attack", "PGD", "--steps", 1, "--clips", 2, *how)
    assert done.code == 0, done.err
    (folder,) = [path for path in (tmp_path / "r").iterdir() if not path.name.startswith(".")]
    assert folder.name.startswith("demo-on-folder-")
    results = [json.loads(path.read_text()) for path in folder.glob("net.py--*.json")]
    assert {tuple(o["clip"] for o in result["outcomes"]) for result in results} == {("jump/a.avi", "run/c.webm")}
    assert str(root) not in "".join(json.dumps(result["settings"]) for result in results)
    audited = bench("audit", "demo", "--clips", 0, "--run", folder.name, *how)
    assert audited.code == 0, audited.err
    # Another folder is another run.
    other = bench("run", "--attack", "PGD", "--dataset", f"folder(root={str(tmp_path / 'r')!r})", "--dry-run")
    assert other.code == 2


def test_videos_without_labels_are_found_at_any_depth(root: Path) -> None:
    gray(root / "loose.avi", [30] * 4)
    gray(root / "10" / "deep" / "x.avi", [30] * 4)
    gray(root / "9" / "y.avi", [30] * 4)
    gray(root / ".cache" / "z.avi", [30] * 4)
    data = make(root, labelled=False)
    names = ["9/y.avi", "10/deep/x.avi", "jump/a.avi", "jump/b.mp4", "loose.avi", "run/c.webm", "run/d"]
    assert [ref.id for ref in data.refs()] == names
    assert data.classes == ()
    assert levels(data, data.refs()[-1]) == [10, 60, 110, 160]
    with pytest.raises(BenchError, match="leave out list, classes and clips_per_class"):
        make(root, labelled=False, clips_per_class=1)
    (root / "empty").mkdir()
    with pytest.raises(BenchError, match="holds neither videos nor folders of numbered frames"):
        make(root, labelled=False, split="empty")
