"""UCF-101 on tiny files in the same format: which frames, which videos, and what is said when files lack."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit.videos import write_video
from PIL import Image
from torch import Tensor

from bench import BenchError, ClipRef
from bench.data.base import MissingClip
from bench.datasets.ucf101 import UCF101
from bench.registry import DATASETS

PAGE = "https://www.crcv.ucf.edu/data/UCF101.php"
LICENCE = "none stated; for research, cite Soomro, Zamir and Shah, CRCV-TR-12-01, 2012"
# Official numbers where plain alphabetical order (capitals first) would give others.
OFFICIAL = {
    "ApplyEyeMakeup": 1,
    "Hammering": 35,
    "HammerThrow": 36,
    "JumpingJack": 47,
    "JumpRope": 48,
    "YoYo": 101,
}


def gray(index: int) -> int:
    """The level that encodes the number of a frame: four apart, decoding errs by at most one."""
    return 20 + 4 * index


def write_counting_video(path: Path, length: int) -> Path:
    return write_video(path, (np.full((48, 64, 3), gray(i), np.uint8) for i in range(length)))


def write_list(root: Path, lines: Iterable[str], name: str = "testlist01.txt", end: str = "\n") -> Path:
    path = root / "ucfTrainTestlist" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


def write_frames(folder: Path, images: Mapping[str, np.ndarray[Any, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, pixels in images.items():
        Image.fromarray(pixels).save(folder / name)
    return folder


def solid(level: int, height: int = 16, width: int = 16) -> np.ndarray[Any, Any]:
    return np.full((height, width, 3), level, np.uint8)


def numbers(clip: Tensor) -> list[int]:
    """Reads the frame numbers back out of a clip of solid gray levels."""
    levels = clip.mean(dim=(0, 2, 3)) * 255
    found = [round((float(level) - 20) / 4) for level in levels]
    assert all(abs(float(level) - gray(i)) < 1.8 for level, i in zip(levels, found, strict=True))
    return found


def levels(clip: Tensor) -> list[int]:
    """Levels of frames that are exactly solid."""
    bytes_ = (clip * 255).round().to(torch.uint8)
    assert (bytes_ == bytes_[:1, :, :1, :1]).all()
    return [int(level) for level in bytes_[0, :, 0, 0]]


def names_of(cls: str, count: int) -> list[str]:
    return [f"{cls}/v_{cls}_g{1 + i // 4:02d}_c{1 + i % 4:02d}.avi" for i in range(count)]


def touch(root: Path, names: Iterable[str]) -> None:
    """Empty files: enough for everything but loading."""
    for name in names:
        path = root / "UCF-101" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of 50, 33, 32 and 5 frames."""
    root = tmp_path_factory.mktemp("ucf")
    names = names_of("Archery", 4)
    for name, length in zip(names, (50, 33, 32, 5), strict=True):
        write_counting_video(root / "UCF-101" / name, length)
    write_list(root, names)
    return root


# --- names ---


def test_101_classes_in_the_official_order() -> None:
    classes = list(UCF101().classes)
    assert len(classes) == len(set(classes)) == 101
    assert classes == sorted(classes, key=str.lower)
    assert {name: classes.index(name) + 1 for name in OFFICIAL} == OFFICIAL
    assert {"HandstandPushups", "Shotput", "Skijet", "TaiChi", "WritingOnBoard"} < set(classes)


def test_registered_with_help_for_every_parameter() -> None:
    entry = DATASETS.get("ucf101")
    assert isinstance(DATASETS.create("ucf101(split='train', fold=2)"), UCF101)
    assert "Soomro" in entry.source
    assert "AAAI 2022" in entry.source
    assert [p.name for p in entry.parameters if not p.help] == []
    assert {p.name: p.default for p in entry.parameters} == {
        "root": None,
        "split": "test",
        "fold": 1,
        "frames": 32,
        "size": 224,
        "clips_per_class": 1,
        "seed": 0,
        "width": 0,
        "height": 0,
        "start": "second",
        "on_damage": "refuse",
    }


@pytest.mark.parametrize(
    ("params", "word"),
    [
        ({"frames": 0}, "frames"),
        ({"frames": 2.5}, "frames"),
        ({"size": 15}, "size"),
        ({"split": "valid"}, "split 'valid'"),
        ({"fold": 0}, "fold 0"),
        ({"fold": 4}, "fold 4"),
        ({"clips_per_class": 0}, "clips_per_class"),
        ({"start": "first"}, "start 'first'"),
        ({"on_damage": "skip"}, "on_damage 'skip': choose refuse or pad"),
        ({"width": 400, "height": 200}, "height must be a whole number of at least 224, the size of the crop"),
        ({"width": 400}, "height must be"),
    ],
)
def test_bad_parameters_are_refused(params: dict[str, Any], word: str) -> None:
    with pytest.raises(BenchError, match=word):
        UCF101(**params)
    assert len(UCF101(frames=1, size=16, fold=3, clips_per_class=None).classes) == 101


# --- videos: frames ---


@pytest.mark.parametrize(
    ("which", "frames", "expected"),
    [
        (0, 32, list(range(1, 33))),
        (0, 1, [1]),
        (1, 32, list(range(1, 33))),
        (2, 32, [*range(1, 32), 0]),
        (3, 12, [1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2]),
    ],
)
def test_clip_is_frames_1_to_32_and_loops_when_short(
    videos: Path, which: int, frames: int, expected: list[int]
) -> None:
    dataset = UCF101(videos, frames=frames, size=16, clips_per_class=None)
    clip = dataset.load(dataset.refs()[which])
    assert clip.shape == (3, frames, 16, 16)
    assert clip.dtype == torch.float32
    assert clip.is_contiguous()
    assert numbers(clip) == expected


def test_random_clips_are_consecutive_and_drawn_by_seed_and_name(videos: Path) -> None:
    name = names_of("Archery", 4)
    firsts = []
    for seed in range(10):
        dataset = UCF101(videos, frames=40, size=16, seed=seed, start="random")
        found = numbers(dataset.load(ClipRef(name[0], 2)))
        assert found == list(range(found[0], found[0] + 40))
        firsts.append(found[0])
    assert len(set(firsts)) > 4
    assert set(firsts) <= set(range(11))
    short = UCF101(videos, frames=7, size=16, start="random").load(ClipRef(name[3], 2))
    assert numbers(short) == [0, 1, 2, 3, 4, 0, 1]


def test_frames_may_be_squeezed_before_the_crop(tmp_path: Path) -> None:
    """Of the squeezed 400x300 columns 88 to 311 are left: a bar around column 258 of a square picture is at 170."""
    picture = solid(0, 96, 96)
    picture[:, 60:64] = 255
    write_frames(tmp_path / "3", {"0.png": picture})
    clip = UCF101(tmp_path, frames=1, width=400, height=300).load(ClipRef("3", 3))
    bright = (clip[0, 0].mean(0) > 0.5).nonzero().double().mean()
    assert clip.shape == (3, 1, 224, 224)
    assert float(bright) == pytest.approx(62 / 96 * 400 - 88 - 0.5, abs=0.6)


def test_defaults_give_32_frames_of_224(videos: Path) -> None:
    dataset = UCF101(videos)
    clip = dataset.load(ClipRef(names_of("Archery", 1)[0], 2))
    assert clip.shape == (3, 32, 224, 224)
    assert 0 <= float(clip.min()) <= float(clip.max()) <= 1


def test_video_is_rgb_and_cropped_at_the_centre(tmp_path: Path) -> None:
    # Red bands at both sides of a blue square: after the crop only blue is left.
    picture = np.zeros((48, 96, 3), np.uint8)
    picture[..., 0] = 255
    picture[:, 24:72] = (0, 0, 255)
    name = names_of("Bowling", 1)[0]
    write_video(tmp_path / "UCF-101" / name, [picture] * 3, width=96)
    write_list(tmp_path, [name])
    dataset = UCF101(tmp_path, frames=2, size=24)
    clip = dataset.load(dataset.refs()[0])
    inner = clip[:, :, 3:-3, 3:-3]
    assert inner[2].min() > 0.9
    assert inner[:2].max() < 0.1


def test_videos_may_lie_directly_under_the_root(videos: Path, tmp_path: Path) -> None:
    name = names_of("Archery", 1)[0]
    (tmp_path / "Archery").symlink_to(videos / "UCF-101" / "Archery")
    write_list(tmp_path, [name])
    dataset = UCF101(tmp_path, frames=3, size=16)
    assert dataset.missing() == []
    assert dataset.refs() == [ClipRef(name, 2)]
    assert numbers(dataset.load(dataset.refs()[0])) == [1, 2, 3]


def test_one_absent_video_is_a_missing_clip(videos: Path, tmp_path: Path) -> None:
    names = names_of("Archery", 5)
    (tmp_path / "UCF-101").symlink_to(videos / "UCF-101")
    write_list(tmp_path, names)
    dataset = UCF101(tmp_path, frames=2, size=16, clips_per_class=None)
    assert dataset.missing() == []
    refs = dataset.refs()
    assert [ref.id for ref in refs] == names
    with pytest.raises(MissingClip, match=r"v_Archery_g02_c01\.avi is not there") as caught:
        dataset.load(refs[4])
    assert str(tmp_path / "UCF-101" / names[4]) in str(caught.value)
    assert numbers(dataset.load(refs[3])) == [1, 2]


@pytest.mark.parametrize("content", [b"", b"this is no video" * 100, b"RIFF\x00\x10\x00\x00AVI LIST"])
def test_undecodable_video_is_an_error_with_path_and_reason(tmp_path: Path, content: bytes) -> None:
    name = names_of("Biking", 1)[0]
    touch(tmp_path, [name])
    (tmp_path / "UCF-101" / name).write_bytes(content)
    write_list(tmp_path, [name])
    dataset = UCF101(tmp_path)
    (ref,) = dataset.refs()
    with pytest.raises(BenchError, match=r"Cannot decode .*v_Biking_g01_c01\.avi: \w+"):
        dataset.load(ref)


def test_torn_video_is_not_taken_for_a_short_one(tmp_path: Path) -> None:
    # Pixels that do not compress, so that half of the file is half of the frames and not its header.
    noise = np.random.default_rng(0).integers(0, 255, (20, 48, 64, 3), np.uint8)
    whole, torn = names_of("Biking", 2)
    data = write_video(tmp_path / "UCF-101" / whole, noise).read_bytes()
    assert len(data) > 4 * data.index(b"movi")
    (tmp_path / "UCF-101" / torn).write_bytes(data[: len(data) // 2])
    write_list(tmp_path, [whole, torn])
    dataset = UCF101(tmp_path, size=16, clips_per_class=None)
    refs = dataset.refs()
    assert dataset.load(refs[0]).shape == (3, 32, 16, 16)
    with pytest.raises(BenchError, match="cut off"):
        dataset.load(refs[1])


def test_a_damaged_video_is_padded_on_request(tmp_path: Path) -> None:
    """The tail of zeros that is left where a copy broke off: the file has its full size."""
    name = names_of("Biking", 1)[0]
    path = write_counting_video(tmp_path / "UCF-101" / name, 50)
    data = path.read_bytes()
    middle = (data.index(b"movi") + data.index(b"idx1")) // 2
    path.write_bytes(data[:middle] + bytes(len(data) - middle))
    write_list(tmp_path, [name])
    (ref,) = UCF101(tmp_path).refs()
    with pytest.raises(BenchError, match=r"frame \d+ of 50 is damaged, and those after it cannot be trusted"):
        UCF101(tmp_path, frames=8, size=16, start="strided").load(ref)
    padded = numbers(UCF101(tmp_path, frames=8, size=16, start="strided", on_damage="pad").load(ref))
    kept = sum(number == 6 * i for i, number in enumerate(padded))
    assert 2 <= kept <= 6
    assert len(set(padded[kept:])) == 1  # it stands still
    assert padded[kept - 1] <= padded[kept] < 6 * kept


# --- videos: lists ---


def test_labels_and_ids_come_from_the_list(tmp_path: Path) -> None:
    names = [f"{cls}/v_{cls}_g01_c01.avi" for cls in OFFICIAL]
    odd = "HandstandPushups/v_HandStandPushups_g01_c01.avi"  # published with two spellings
    write_list(tmp_path, [*names, "", odd], end="\r\n")
    touch(tmp_path, [odd])
    assert UCF101(tmp_path).missing() == []
    expected = [ClipRef(name, number - 1) for name, number in zip(names, OFFICIAL.values(), strict=True)]
    assert UCF101(tmp_path).refs() == [*expected, ClipRef(odd, 36)]


def test_another_spelling_names_the_same_files_and_clips(tmp_path: Path) -> None:
    """Published with two: whatever the list and the disk say, the same clips are drawn and found."""
    names = [f"HandstandPushups/v_HandStandPushups_g{g:02d}_c01.avi" for g in range(1, 6)]
    touch(tmp_path, names)
    write_list(tmp_path, names)
    official = UCF101(tmp_path).refs()
    for folder in ("HandStandPushups", "HANDSTANDPUSHUPS"):
        write_list(tmp_path, [name.replace("HandstandPushups/", f"{folder}/") for name in names])
        assert UCF101(tmp_path).refs() == official
        assert len(UCF101(tmp_path, clips_per_class=None).refs()) == 5
    (tmp_path / "UCF-101" / "HandstandPushups").rename(tmp_path / "UCF-101" / "HandStandPushups")
    write_list(tmp_path, names)
    write_counting_video(tmp_path / "UCF-101" / "HandStandPushups" / names[0].partition("/")[2].lower(), 4)
    (tmp_path / "UCF-101" / "HandStandPushups" / names[0].partition("/")[2]).unlink()
    assert UCF101(tmp_path).missing() == []
    assert numbers(UCF101(tmp_path, frames=2, size=16).load(ClipRef(names[0], 36))) == [1, 2]


def test_train_lists_have_labels_and_folds_are_kept_apart(tmp_path: Path) -> None:
    names = names_of("JumpRope", 6)
    touch(tmp_path, names)
    for fold in (1, 2, 3):
        write_list(tmp_path, [f"{names[fold - 1]} 48"], f"trainlist0{fold}.txt")
        write_list(tmp_path, [names[fold + 2]], f"testlist0{fold}.txt")
    for fold in (1, 2, 3):
        assert UCF101(tmp_path, split="train", fold=fold).refs() == [ClipRef(names[fold - 1], 47)]
        assert UCF101(tmp_path, split="test", fold=fold).refs() == [ClipRef(names[fold + 2], 47)]


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("Dancing/v_Dancing_g01_c01.avi", "'Dancing' is not a class"),
        ("Archery/v_Archery_g01_c01.avi 4", "label of Archery is 3, not '4'"),
        ("v_Archery_g01_c01.avi", "expected"),
        ("Archery/v_Archery_g01_c01.mp4", "expected"),
        ("Bowling/v_Bowling_g01_c01.avi", "twice"),
        ("bowling/v_Bowling_g01_c01.avi", "twice"),
        ("Archery/v_Archery\0_g01_c01.avi", "no name of a file"),
        ("../v_Archery_g01_c01.avi", "'..' is not a class"),
    ],
)
def test_bad_line_of_a_list_is_named(tmp_path: Path, line: str, word: str) -> None:
    write_list(tmp_path, ["Bowling/v_Bowling_g01_c01.avi 16", "", line])
    with pytest.raises(BenchError, match=rf"testlist01\.txt, line 3: .*{word}"):
        UCF101(tmp_path).refs()


def test_list_without_a_video_is_an_error(tmp_path: Path) -> None:
    path = write_list(tmp_path, ["", " "])
    with pytest.raises(BenchError, match="lists no video"):
        UCF101(tmp_path).refs()
    path.write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(BenchError, match="Cannot read"):
        UCF101(tmp_path).refs()


def test_class_index_file_must_agree(tmp_path: Path) -> None:
    touch(tmp_path, names_of("Archery", 1))
    write_list(tmp_path, names_of("Archery", 1))
    right = [f"{i} {name}" for i, name in enumerate(UCF101().classes, start=1)]
    for lines in (right, [line.replace("HandstandPushups", "HandStandPushups") for line in right]):
        write_list(tmp_path, lines, "classInd.txt", end="\r\n")
        assert len(UCF101(tmp_path).refs()) == 1
    swapped = [*right[:34], "35 HammerThrow", "36 Hammering", *right[36:]]
    for lines, word in (
        (swapped, "line 35"),
        (right[:100], "100 classes"),
        ([*right, "102 Zorbing"], "102 classes"),
    ):
        write_list(tmp_path, lines, "classInd.txt")
        with pytest.raises(BenchError, match=rf"classInd\.txt.*{word}"):
            UCF101(tmp_path).missing()


# --- videos: choice ---


def chosen(root: Path, lines: Iterable[str], **params: Any) -> list[str]:
    write_list(root, lines)
    return [ref.id for ref in UCF101(root, **params).refs()]


def test_choice_per_class_is_deterministic_and_blind_to_other_classes(tmp_path: Path) -> None:
    archery, bowling, diving = (names_of(cls, 20) for cls in ("Archery", "Bowling", "Diving"))
    both = chosen(tmp_path, archery + bowling, clips_per_class=3)
    assert both == chosen(tmp_path, archery + bowling, clips_per_class=3)
    assert [name.partition("/")[0] for name in both] == ["Archery"] * 3 + ["Bowling"] * 3
    assert chosen(tmp_path, archery + bowling + diving, clips_per_class=3)[:6] == both
    assert chosen(tmp_path, bowling, clips_per_class=3) == both[3:]
    # The set depends on neither the order of the list nor, for fewer clips, on anything new.
    assert set(chosen(tmp_path, reversed(archery + bowling), clips_per_class=3)) == set(both)
    assert set(chosen(tmp_path, archery + bowling, clips_per_class=1)) < set(both)


def test_choice_follows_the_seed_and_is_not_just_the_first(tmp_path: Path) -> None:
    names = names_of("Archery", 20)
    picks = [chosen(tmp_path, names, seed=seed) for seed in range(12)]
    assert all(len(pick) == 1 and pick[0] in names for pick in picks)
    assert len({pick[0] for pick in picks}) > 4


def test_all_clips_and_small_classes(tmp_path: Path) -> None:
    lines = names_of("Archery", 7) + names_of("Bowling", 2)
    assert chosen(tmp_path, lines, clips_per_class=None) == lines
    assert chosen(tmp_path, lines, clips_per_class=7) == lines
    assert len(chosen(tmp_path, lines, clips_per_class=5)) == 7


# --- frame folders ---


def test_frame_folders_are_read_in_numeric_order(tmp_path: Path) -> None:
    write_frames(tmp_path / "17", {f"{i}.png": solid(7 * i) for i in range(12)})
    (tmp_path / "17" / "notes.txt").write_text("not a frame")
    write_frames(tmp_path / "17", {"cover.png": solid(255)})
    dataset = UCF101(tmp_path, frames=12, size=16)
    assert dataset.missing() == []
    assert dataset.refs() == [ClipRef("17", 17)]
    assert levels(dataset.load(dataset.refs()[0])) == [7 * i for i in range(12)]


def test_a_tenth_of_the_groups_of_each_class_is_held_out_of_training(tmp_path: Path) -> None:
    videos = [f"{c}/v_{c}_g{g:02d}_c{k:02d}.avi" for c in ("JumpRope", "YoYo") for g in range(8, 26) for k in (1, 2, 3)]
    touch(tmp_path, videos)
    write_list(tmp_path, [f"{v} {48 if 'Rope' in v else 101}" for v in videos], "trainlist01.txt")
    train, val = (
        [r.id for r in UCF101(tmp_path, split=split, clips_per_class=None).refs()] for split in ("train", "val")
    )
    assert sorted(train + val) == sorted(videos)
    groups = [{v.rpartition("_c")[0] for v in part} for part in (train, val)]
    assert not groups[0] & groups[1]
    assert sorted(g.partition("/")[0] for g in groups[1]) == ["JumpRope"] * 2 + ["YoYo"] * 2


def test_strided_frames_span_the_video() -> None:
    made = UCF101(frames=4, size=16, start="strided")
    assert [list(made._frames("x", length)) for length in (3, 4, 11, 12)] == [
        [0, 1, 2, 3],
        [0, 1, 2, 3],
        [0, 2, 4, 6],
        [0, 3, 6, 9],
    ]


def test_frame_folders_start_at_the_first_frame_and_loop(tmp_path: Path) -> None:
    write_frames(tmp_path / "0", {f"{i:03d}.png": solid(10 * i) for i in (8, 9, 10)})
    ref = ClipRef("0", 0)
    assert levels(UCF101(tmp_path, frames=7, size=16).load(ref)) == [80, 90, 100, 80, 90, 100, 80]
    assert levels(UCF101(tmp_path, frames=2, size=16).load(ref)) == [80, 90]


def test_several_clips_per_class_folder(tmp_path: Path) -> None:
    for name in ("100/b", "100/a", "9/v_BenchPress_g01_c01", "9"):
        write_frames(tmp_path / name, {"0.jpg": solid(100)})
    (tmp_path / "9" / "empty").mkdir()
    (tmp_path / "readme").mkdir()
    write_frames(tmp_path / "9" / ".thumbnails", {"0.jpg": solid(0)})
    (tmp_path / "8").touch()
    dataset = UCF101(tmp_path, frames=2, size=16)
    expected = [("9", 9), ("9/v_BenchPress_g01_c01", 9), ("100/a", 100), ("100/b", 100)]
    assert [(ref.id, ref.label) for ref in dataset.refs()] == expected
    for ref in dataset.refs():
        assert dataset.load(ref).shape == (3, 2, 16, 16)


def test_native_size_is_an_exact_no_op_in_rgb_order(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 20, 20, 3), np.uint8)
    write_frames(tmp_path / "3", {"0.png": pixels[0], "1.png": pixels[1]})
    clip = UCF101(tmp_path, frames=2, size=20).load(ClipRef("3", 3))
    assert torch.equal(clip, torch.from_numpy(pixels).permute(3, 0, 1, 2).float() / 255)


def test_centre_crop_without_resize(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (16, 31, 3), np.uint8)
    write_frames(tmp_path / "3" / "wide", {"0.png": pixels})
    write_frames(tmp_path / "3" / "tall", {"0.png": pixels.transpose(1, 0, 2).copy()})
    dataset = UCF101(tmp_path, frames=1, size=16)
    # A margin of 15: 7.5 is rounded to the even 8, as in TT.
    expected = torch.from_numpy(pixels[:, 8:24].copy()).permute(2, 0, 1).float() / 255
    assert torch.equal(dataset.load(ClipRef("3/wide", 3))[:, 0], expected)
    assert torch.equal(dataset.load(ClipRef("3/tall", 3))[:, 0], expected.transpose(1, 2))


def test_resize_is_antialiased_and_keeps_the_aspect(tmp_path: Path) -> None:
    # Lines one pixel wide: shrunk four times without antialiasing they would stay black or white.
    stripes = np.zeros((64, 128, 3), np.uint8)
    stripes[:, ::2] = 255
    ramp = np.repeat(np.arange(128, dtype=np.uint8)[None, :, None], 64, axis=0).repeat(3, axis=2)
    write_frames(tmp_path / "1", {"0.png": stripes, "1.png": ramp})
    # A step, halved by the triangle filter (weights 1, 3, 3, 1 of 8): only its two neighbours mix.
    step = np.zeros((32, 32, 3), np.uint8)
    step[:, 16:] = 240
    write_frames(tmp_path / "2", {"0.png": step})
    write_frames(tmp_path / "3", {"0.png": ramp[:32, :16].copy()})
    clip = UCF101(tmp_path, frames=2, size=16).load(ClipRef("1", 1)) * 255
    assert clip[:, 0].min() > 110
    assert clip[:, 0].max() < 145
    # 64x128 becomes 16x32; the crop is its columns 8 to 23, each the mean of four: 33.5, 37.5, ...
    expected = torch.arange(8, 24) * 4 + 1.5
    assert (clip[:, 1] - expected).abs().max() <= 1
    halved = UCF101(tmp_path, frames=1, size=16).load(ClipRef("2", 2)) * 255
    assert torch.allclose(halved[0, 0, 5], torch.tensor([0.0] * 7 + [30, 210] + [240] * 7))
    # Growing works too, also when the long side has the right size already.
    for size in (32, 50):
        assert UCF101(tmp_path, frames=1, size=size).load(ClipRef("3", 3)).shape == (3, 1, size, size)


def test_gray_and_transparent_frames_become_rgb(tmp_path: Path) -> None:
    write_frames(tmp_path / "4", {"0.png": solid(40)[..., 0], "1.png": np.full((16, 16, 4), 90, np.uint8)})
    assert levels(UCF101(tmp_path, frames=2, size=16).load(ClipRef("4", 4))) == [40, 90]


def test_frames_with_a_word_before_the_number_and_gaps(tmp_path: Path) -> None:
    write_frames(tmp_path / "17", {f"image_{i:05d}.jpg": solid(20 * i) for i in (1, 2, 4)})
    ref = ClipRef("17", 17)
    assert UCF101(tmp_path).refs() == [ref]
    with pytest.raises(BenchError, match=r"17 holds no frame 3 between image_00002\.jpg and image_00004\.jpg"):
        UCF101(tmp_path, frames=2, size=16).load(ref)
    assert levels(UCF101(tmp_path, frames=4, size=16, on_damage="pad").load(ref)) == [20, 40, 40, 80]


def test_bad_frame_folders(tmp_path: Path) -> None:
    write_frames(tmp_path / "5", {"0.png": solid(1)})
    data = (tmp_path / "5" / "0.png").read_bytes()
    (tmp_path / "5" / "1.png").write_bytes(data[:40])
    dataset = UCF101(tmp_path, frames=2, size=16)
    with pytest.raises(BenchError, match=r"Cannot read the frame .*1\.png"):
        dataset.load(ClipRef("5", 5))
    with pytest.raises(MissingClip, match="6 does not exist"):
        dataset.load(ClipRef("6", 6))
    (tmp_path / "5" / "00.png").write_bytes(data)
    with pytest.raises(BenchError, match="frame 0 twice"):
        dataset.load(ClipRef("5", 5))
    (tmp_path / "5" / "00.png").unlink()
    write_frames(tmp_path / "101", {"0.png": solid(1)})
    with pytest.raises(BenchError, match="101 is no class"):
        dataset.refs()


# --- what is missing ---


def kinds(dataset: UCF101) -> list[str]:
    found = []
    for item in dataset.missing():
        assert item.licence == LICENCE
        assert PAGE in item.get
        if "UCF101.rar" in item.get:
            assert str(item.put) == str(Path(dataset.root or "DATA_ROOT") / "UCF-101" / "<Class>" / "v_*.avi")
            assert "folder of frames" in item.what
            found.append("videos")
        else:
            assert "UCF101TrainTestSplits-RecognitionTask.zip" in item.get
            found.append(str(Path(item.put).relative_to(dataset.root or "DATA_ROOT")))
    return found


def test_without_a_root_all_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A folder that happens to have the placeholder's name is not the root.
    touch(tmp_path / "DATA_ROOT", names_of("Archery", 1))
    write_list(tmp_path / "DATA_ROOT", names_of("Archery", 1))
    monkeypatch.chdir(tmp_path)
    dataset = UCF101(split="train", fold=2)
    assert kinds(dataset) == ["videos", "ucfTrainTestlist/trainlist02.txt"]
    assert "--data-root" in dataset.missing()[0].what
    for call in (dataset.refs, lambda: dataset.load(ClipRef(names_of("Archery", 1)[0], 2))):
        with pytest.raises(BenchError, match="--data-root"):
            call()


def test_a_root_that_is_no_folder_is_named(tmp_path: Path) -> None:
    nowhere = UCF101(str(tmp_path / "nowhere"))
    assert kinds(nowhere) == ["videos", "ucfTrainTestlist/testlist01.txt"]
    assert f"{tmp_path / 'nowhere'} does not exist" in nowhere.missing()[0].what
    (tmp_path / "file").touch()
    assert kinds(UCF101(tmp_path / "file")) == ["videos", "ucfTrainTestlist/testlist01.txt"]
    assert "is not a folder" in UCF101(tmp_path / "file").missing()[0].what


def test_only_what_is_absent_is_missing(tmp_path: Path) -> None:
    dataset = UCF101(tmp_path)
    names = names_of("Archery", 20)
    assert kinds(dataset) == ["videos", "ucfTrainTestlist/testlist01.txt"]
    with pytest.raises(BenchError, match=r"UCF101\.rar"):
        dataset.refs()

    write_list(tmp_path, names)
    assert kinds(dataset) == ["videos"]
    assert "none of the 1 clips" in dataset.missing()[0].what
    (pick,) = dataset.refs()  # the list alone says which clips there are
    with pytest.raises(MissingClip):
        dataset.load(pick)

    # Videos that were not chosen are no help.
    touch(tmp_path, [name for name in names if name != pick.id])
    assert kinds(dataset) == ["videos"]
    assert kinds(UCF101(tmp_path, clips_per_class=None)) == []
    touch(tmp_path, [pick.id])
    assert kinds(dataset) == []

    (tmp_path / "ucfTrainTestlist" / "testlist01.txt").unlink()
    assert kinds(dataset) == ["ucfTrainTestlist/testlist01.txt"]
    (tmp_path / "UCF-101" / "Archery").rename(tmp_path / "Archery")
    assert kinds(dataset) == ["ucfTrainTestlist/testlist01.txt"]
    assert kinds(UCF101(tmp_path, split="train")) == ["ucfTrainTestlist/trainlist01.txt"]


def test_frame_folders_need_no_list(tmp_path: Path) -> None:
    (tmp_path / "17").mkdir()
    assert kinds(UCF101(tmp_path)) == ["videos", "ucfTrainTestlist/testlist01.txt"]
    write_frames(tmp_path / "17", {"0.png": solid(1)})
    assert kinds(UCF101(tmp_path)) == []
    # With both layouts present the videos are used.
    names = names_of("Archery", 1)
    write_list(tmp_path, names)
    assert UCF101(tmp_path).refs() == [ClipRef("17", 17)]
    touch(tmp_path, names)
    assert UCF101(tmp_path).refs() == [ClipRef(names[0], 2)]


def test_frame_folders_with_other_content_are_other_data(tmp_path: Path) -> None:
    """Ids of frame folders (``17``) do not tell two roots apart; the fingerprint does."""

    def folder(name: str, level: int, frames: int = 3) -> UCF101:
        clip = tmp_path / name / "17"
        clip.mkdir(parents=True)
        noise = np.random.default_rng(level).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        for t in range(frames):
            Image.fromarray(noise if level else np.zeros_like(noise)).save(clip / f"{t}.png")
        return UCF101(root=tmp_path / name, frames=3, size=16)

    one, same = folder("a", 1), folder("b", 1)
    assert one.fingerprint() == same.fingerprint() != ""
    assert folder("c", 0).fingerprint() != one.fingerprint()
    assert folder("d", 1, frames=4).fingerprint() != one.fingerprint()
    assert UCF101().fingerprint() == ""
