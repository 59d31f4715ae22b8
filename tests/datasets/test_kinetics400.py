"""Kinetics-400 on tiny files in the same format: which frames, which videos, and what is said when files lack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from kit.videos import write_video
from torch import Tensor

from bench import BenchError, ClipRef
from bench.data.base import MissingClip
from bench.datasets.kinetics400 import Kinetics400, class_names, last_frames


def numbers(clip: Tensor) -> list[int]:
    """Reads the frame numbers back out of a clip whose frame ``n`` has the gray level ``20 + 2 n``."""
    return [round((float(level) * 255 - 20) / 2) for level in clip.mean(dim=(0, 2, 3))]


def write(root: Path, name: str, length: int = 70) -> Path:
    frames = (np.full((48, 96, 3), 20 + 2 * i, np.uint8) for i in range(length))
    return write_video(root / "val" / name, frames, 96, 48)


def test_class_names_are_the_official_ones_in_order() -> None:
    names = class_names()
    assert len(names) == len(set(names)) == 400
    assert (names[0], names[1], names[399]) == ("abseiling", "air drumming", "zumba")


def test_frames_are_spread_over_the_last_64() -> None:
    assert last_frames(100, 3) == [36, 67, 99]
    assert last_frames(65, 64) == list(range(1, 65))
    assert last_frames(64, 32) == list(range(0, 64, 2))
    assert last_frames(5, 4) == [0, 2, 4, 4]


@pytest.mark.parametrize(("length", "expected"), [(70, [6, 27, 48, 69]), (6, [0, 2, 4, 5])])
def test_a_clip_from_a_folder_per_class(tmp_path: Path, length: int, expected: list[int]) -> None:
    write(tmp_path, "air_drumming/a.mp4", length)
    data = Kinetics400(tmp_path, frames=4)
    (ref,) = data.refs()
    assert (ref.id, data.classes[ref.label]) == ("air_drumming/a.mp4", "air drumming")
    clip = data.load(ref)
    assert clip.shape == (3, 4, 224, 224)
    assert clip.dtype == torch.float32
    assert [abs(a - b) <= 1 for a, b in zip(numbers(clip), expected, strict=True)] == [True] * 4


def test_the_picture_is_squeezed_to_340x256_before_the_crop(tmp_path: Path) -> None:
    """A bar at 0.3 of the width of a wide picture is at 0.3 * 340 of the decoded one, less the 58 pixels cut off."""
    pixels = np.zeros((48, 96, 3), np.uint8)
    pixels[:, 28:30] = 255
    write_video(tmp_path / "val" / "zumba" / "b.mp4", [pixels] * 4, 96, 48)
    data = Kinetics400(tmp_path, frames=2)
    column = data.load(data.refs()[0])[0, 0].mean(0)
    assert int(column.argmax()) == pytest.approx(29 / 96 * 340 - 58, abs=2)


def test_classes_and_videos_are_drawn_by_name(tmp_path: Path) -> None:
    for name in ("abseiling", "archery", "zumba", "yoga"):
        for video in ("a", "b", "c"):
            path = tmp_path / "val" / name / f"{name}-{video}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    refs = Kinetics400(tmp_path, class_count=2).refs()
    assert len(refs) == len({r.label for r in refs}) == 2
    assert refs == Kinetics400(tmp_path, class_count=2).refs()
    chosen = {tuple(r.id for r in Kinetics400(tmp_path, class_count=2, seed=s).refs()) for s in range(8)}
    assert len(chosen) > 3
    assert len(Kinetics400(tmp_path, class_count=None, clips_per_class=None).refs()) == 12
    for path in (tmp_path / "val" / "zumba").iterdir():  # other classes keep their videos
        path.unlink()
    every = Kinetics400(tmp_path, class_count=None).refs()
    assert len(every) == 3


def test_the_official_list(tmp_path: Path) -> None:
    write(tmp_path, "abc_000010_000020.mp4", 4)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "val.csv").write_text(
        "label,youtube_id,time_start,time_end,split\nzumba,abc,10,20,val\nyoga,not-here,3,13,val\n"
    )
    data = Kinetics400(tmp_path, frames=2)
    assert data.refs() == [ClipRef("abc_000010_000020.mp4", 399)]
    assert data.missing() == []
    assert data.load(data.refs()[0]).shape == (3, 2, 224, 224)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    for root in (None, tmp_path, tmp_path / "nowhere"):
        data = Kinetics400(root)
        (item,) = data.missing()
        assert str(item.put).endswith("val/<class>/*.mp4")
        assert "cvdfoundation" in item.get
        with pytest.raises(BenchError, match="needs files that are not here"):
            data.refs()
    with pytest.raises(MissingClip, match=r"x\.mp4 is not there"):
        Kinetics400(tmp_path).load(ClipRef("zumba/x.mp4", 399))


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    (tmp_path / "val" / "zuumba").mkdir(parents=True)
    with pytest.raises(BenchError, match="zuumba is no class of Kinetics-400"):
        Kinetics400(tmp_path).refs()
    (tmp_path / "val" / "zuumba").rmdir()
    (tmp_path / "annotations").mkdir()
    for text, why in (("label,id\nzumba,abc\n", "not the official list"), ("label\nzuumba\n", "'zuumba' is no class")):
        (tmp_path / "annotations" / "val.csv").write_text(text)
        with pytest.raises(BenchError, match=why):
            Kinetics400(tmp_path).refs()
    with pytest.raises(BenchError, match="class_count must be a whole number"):
        Kinetics400(class_count=0)
    with pytest.raises(BenchError, match="size must be at most 256"):
        Kinetics400(size=300)
    path = tmp_path / "val" / "torn.mp4"
    path.write_bytes(b"not a video")
    with pytest.raises(BenchError, match=r"Cannot decode .*torn\.mp4"):
        Kinetics400(tmp_path).load(ClipRef("torn.mp4", 0))
