"""Kinetics-400 on tiny files in the same format: which frames, which videos, and what is said when files lack."""

from __future__ import annotations

import os
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
    assert data.refs() == [ClipRef("not-here_000003_000013.mp4", 398), ClipRef("abc_000010_000020.mp4", 399)]
    assert data.missing() == []
    assert data.load(data.refs()[1]).shape == (3, 2, 224, 224)
    with pytest.raises(MissingClip, match=r"not-here_000003_000013\.mp4 is not there"):
        data.load(data.refs()[0])


def write_table(root: Path, lines: list[str], encoding: str = "utf-8") -> None:
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    text = "\n".join(["label,youtube_id,time_start,time_end,split", *lines])
    (root / "annotations" / "val.csv").write_text(text + "\n", encoding=encoding)


@pytest.mark.parametrize("folders", [True, False])
def test_clips_that_are_gone_are_missing_and_none_is_drawn_in_their_place(tmp_path: Path, folders: bool) -> None:
    """Whoever lacks some draws the clips of whoever has all, and is told which are missing."""
    stems = {name: [f"{name[:2]}{i}_000000_000010" for i in range(6)] for name in ("yoga", "zumba", "air drumming")}
    write_table(tmp_path, [f"{name},{s.partition('_')[0]},0,10,val" for name in stems for s in stems[name]])

    def place(name: str, stem: str) -> Path:
        return tmp_path / "val" / (name.replace(" ", "_") if folders else "") / f"{stem}.mp4"

    for name, of_class in stems.items():
        for stem in of_class:
            place(name, stem).parent.mkdir(parents=True, exist_ok=True)
            place(name, stem).touch()
    complete = Kinetics400(tmp_path, clips_per_class=2).refs()
    assert len(complete) == 6
    assert len({Kinetics400(tmp_path, seed=s).refs()[0].id for s in range(9)}) > 2
    (tmp_path / "annotations" / "val.csv").rename(tmp_path / "list")
    if folders:  # what is there is drawn as from the list
        assert Kinetics400(tmp_path, clips_per_class=2).refs() == complete
    (tmp_path / "list").rename(tmp_path / "annotations" / "val.csv")
    for ref in complete[::2]:
        (tmp_path / "val" / ref.id).unlink()
    data = Kinetics400(tmp_path, clips_per_class=2)
    assert data.refs() == complete
    assert data.missing() == []
    for ref in complete[::2]:
        with pytest.raises(MissingClip, match="is not there"):
            data.load(ref)
    for ref in complete[1::2]:
        (tmp_path / "val" / ref.id).unlink()
    (item,) = data.missing()
    assert "6 clips are drawn from the list, and none of them is there" in item.what


def test_lists_as_spreadsheets_write_them(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "abc_000010_000020.mp4").touch()
    for encoding in ("utf-8-sig", "utf-8"):
        for times in ("10.0,20.0", "10,20"):
            write_table(tmp_path, [f"Zumba,abc,{times},val\r"], encoding)
            assert Kinetics400(tmp_path).refs() == [ClipRef("abc_000010_000020.mp4", 399)]


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("zumba,abc,10.5,20,val", "not the official list"),
        ("zumba,abc,nan,20,val", "not the official list"),
        ("zumba,abc,inf,20,val", "not the official list"),
        ("zumba,abc,-1,20,val", "not the official list"),
        ("zumba,abc", "not the official list"),
        ("zumba,../abc,10,20,val", "no name of a video"),
        ("zumba,a\0bc,10,20,val", "no name of a video|not the official list"),
        ("yoga,one,1,2,val", "line 3: one_000001_000002 is listed in two classes"),
    ],
)
def test_a_bad_line_of_the_list_is_refused(tmp_path: Path, line: str, word: str) -> None:
    (tmp_path / "val").mkdir()
    write_table(tmp_path, ["zumba,one,1,2,val", line])
    with pytest.raises(BenchError, match=word) as caught:
        Kinetics400(tmp_path).refs()
    assert "\n" not in str(caught.value)


def test_what_is_a_video_and_what_is_none(tmp_path: Path) -> None:
    folder = tmp_path / "val" / "zumba"
    folder.mkdir(parents=True)
    for name in ("._a.mp4", ".DS_Store", "notes.txt"):
        (folder / name).touch()
    os.mkfifo(folder / "pipe.mp4")
    (tmp_path / "val" / ".Trashes").mkdir()
    assert len(Kinetics400(tmp_path, clips_per_class=None).missing()) == 1
    names = ["a.MP4", "b.mov", "c.webm", "d.mkv", "it's (e) é.avi"]
    for name in names:
        (folder / name).touch()
    assert [r.id for r in Kinetics400(tmp_path, clips_per_class=None).refs()] == [f"zumba/{name}" for name in names]


def test_other_videos_under_the_same_names_are_other_data(tmp_path: Path) -> None:
    path = tmp_path / "val" / "zumba" / "a.mp4"
    path.parent.mkdir(parents=True)
    assert Kinetics400(tmp_path).fingerprint() == ""
    path.write_bytes(b"one")
    first = Kinetics400(tmp_path).fingerprint()
    path.write_bytes(b"two")
    assert Kinetics400(tmp_path).fingerprint() == first != ""  # size alone: the same on every machine
    path.write_bytes(b"three")
    assert Kinetics400(tmp_path).fingerprint() != first


def test_a_damaged_video_is_padded_on_request(tmp_path: Path) -> None:
    path = write(tmp_path, "zumba/a.mp4", 70)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 3] + bytes(300) + data[len(data) // 3 + 300 :])
    (ref,) = Kinetics400(tmp_path).refs()
    with pytest.raises(BenchError, match=r"frame \d+ of 70 is damaged"):
        Kinetics400(tmp_path, frames=4).load(ref)
    first, *_, last = numbers(Kinetics400(tmp_path, frames=4, on_damage="pad").load(ref))
    assert first == pytest.approx(6, abs=1)
    assert first < last < 50


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
    with pytest.raises(BenchError, match="on_damage 'skip': choose refuse or pad"):
        Kinetics400(on_damage="skip")  # type: ignore[arg-type]
    with pytest.raises(BenchError, match="size must be at most 256"):
        Kinetics400(size=300)
    path = tmp_path / "val" / "torn.mp4"
    path.write_bytes(b"not a video")
    with pytest.raises(BenchError, match=r"Cannot decode .*torn\.mp4"):
        Kinetics400(tmp_path).load(ClipRef("torn.mp4", 0))
