"""HMDB-51 on tiny files in the same format: which frames, which videos, and what is said when files lack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit.videos import write_video
from torch import Tensor

from bench import BenchError, ClipRef
from bench.data.base import MissingClip
from bench.datasets.hmdb51 import HMDB51
from bench.registry import DATASETS, Spec

TINY = {"size": 16, "width": 32, "height": 24}
SPLITS = "testTrainMulti_7030_splits"
# Names as they are: with brackets, semicolons and signs.
ODD = "#20_Rhythm_clap_u_nm_np1_fr_goo_0.avi"


def gray(index: int) -> int:
    """The level that encodes the number of a frame."""
    return 20 + 4 * index


def numbers(clip: Tensor) -> list[int]:
    """Reads the frame numbers back out of a clip of solid gray levels."""
    levels = clip.mean(dim=(0, 2, 3)) * 255
    found = [round((float(level) - 20) / 4) for level in levels]
    assert all(abs(float(level) - gray(i)) < 1.8 for level, i in zip(levels, found, strict=True))
    return found


def write(root: Path, name: str, length: int) -> Path:
    return write_video(root / "hmdb51_org" / name, (np.full((48, 64, 3), gray(i), np.uint8) for i in range(length)))


def write_lists(root: Path, lines: Mapping[str, Sequence[str]], fold: int = 1, end: str = " \n") -> None:
    """The 51 lists; those of the classes not given name one test and one training video, which need not exist."""
    folder = root / SPLITS
    folder.mkdir(parents=True, exist_ok=True)
    for name in HMDB51.classes:
        chosen = lines.get(name, [f"x_{name}_0.avi 2", f"x_{name}_1.avi 1"])
        (folder / f"{name}_test_split{fold}.txt").write_bytes("".join(line + end for line in chosen).encode())


def touch(root: Path, names: Sequence[str]) -> None:
    for name in names:
        path = root / "hmdb51_org" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of 50, 9 and 4 frames."""
    root = tmp_path_factory.mktemp("hmdb")
    for name, length in (("long", 50), ("nine", 9), ("four", 4)):
        write(root, f"catch/{name}.avi", length)
    write_lists(root, {"catch": ["long.avi 2", "nine.avi 2", "four.avi 2", "other.avi 1", "none.avi 0"]})
    return root


def test_51_classes_in_alphabetical_order() -> None:
    classes = list(HMDB51().classes)
    assert len(set(classes)) == 51
    assert classes == sorted(classes)
    # As in the published labels, e.g. those of mteb/HMDB51.
    assert {n: classes.index(n) for n in ("brush_hair", "flic_flac", "pullup", "sit", "turn", "wave")} == {
        "brush_hair": 0,
        "flic_flac": 14,
        "pullup": 26,
        "sit": 37,
        "turn": 48,
        "wave": 50,
    }


def test_registered_with_help_for_every_parameter() -> None:
    entry = DATASETS.get("hmdb51")
    assert isinstance(DATASETS.create("hmdb51(split='train', fold=2, frames=90)"), HMDB51)
    assert "Kuehne" in entry.source
    assert [p.name for p in entry.parameters if not p.help] == []
    assert {p.name: p.default for p in entry.parameters} == {
        "root": None,
        "split": "test",
        "fold": 1,
        "frames": 64,
        "size": 224,
        "width": 400,
        "height": 300,
        "clips_per_class": 1,
        "start": "random",
        "seed": 0,
        "on_damage": "refuse",
    }


@pytest.mark.parametrize(
    ("params", "word"),
    [
        ({"frames": 0}, "frames must be"),
        ({"size": 15}, "size must be"),
        ({"width": 223}, "width must be a whole number of at least 224, the size of the crop, not 223"),
        ({"height": 223}, "height must be"),
        ({"split": "valid"}, "split 'valid'"),
        ({"fold": 4}, "fold 4"),
        ({"start": "middle"}, "start 'middle'"),
        ({"on_damage": "skip"}, "on_damage 'skip': choose refuse or pad"),
        ({"clips_per_class": 0}, "clips_per_class must be"),
    ],
)
def test_bad_parameters_are_refused(params: dict[str, Any], word: str) -> None:
    with pytest.raises(BenchError, match=word):
        HMDB51(**params)


# --- frames ---


@pytest.mark.parametrize(
    ("name", "frames", "expected"),
    [("long", 5, [0, 1, 2, 3, 4]), ("nine", 9, list(range(9))), ("four", 10, [0, 1, 2, 3, 0, 1, 2, 3, 0, 1])],
)
def test_from_the_first_frame_and_looped_when_short(videos: Path, name: str, frames: int, expected: list[int]) -> None:
    for start in ("first", "random") if name != "long" else ("first",):
        data = DATASETS.create(Spec("hmdb51", {"root": videos, "start": start, "frames": frames, **TINY}))
        clip = data.load(ClipRef(f"catch/{name}.avi", 2))
        assert clip.shape == (3, frames, 16, 16)
        assert clip.dtype == torch.float32
        assert clip.is_contiguous()
        assert numbers(clip) == expected


def test_a_random_clip_is_consecutive_and_drawn_by_seed_and_name(videos: Path) -> None:
    ref = ClipRef("catch/long.avi", 2)
    firsts = []
    for seed in range(12):
        data = HMDB51(videos, frames=40, size=16, width=32, height=24, seed=seed)
        found = numbers(data.load(ref))
        assert found == list(range(found[0], found[0] + 40))
        assert numbers(data.load(ref)) == found
        firsts.append(found[0])
    assert len(set(firsts)) > 5
    assert set(firsts) <= set(range(11))
    every = {numbers(HMDB51(videos, frames=8, size=16, seed=s).load(ClipRef("catch/nine.avi", 2)))[0] for s in range(9)}
    assert every == {0, 1}  # the last one counts too


def test_defaults_give_64_frames_of_224(videos: Path) -> None:
    clip = HMDB51(videos).load(ClipRef("catch/long.avi", 2))
    assert clip.shape == (3, 64, 224, 224)
    assert numbers(clip) == [*range(50), *range(14)]
    assert 0 <= float(clip.min()) <= float(clip.max()) <= 1


def test_the_picture_is_squeezed_to_400x300_before_the_crop(tmp_path: Path) -> None:
    """Of the squeezed picture columns 88 to 311 and rows 38 to 261 are left; colours are RGB."""
    pixels = np.zeros((96, 96, 3), np.uint8)
    pixels[..., 2] = 200
    pixels[:, 60:64] = (200, 0, 0)  # centre at 62 / 96 of the width: column 258.3 of 400
    pixels[24:28] = (200, 0, 0)  # 26 / 96 of the height: row 81.3 of 300
    write_video(tmp_path / "hmdb51_org" / "wave" / "a.avi", [pixels] * 3, 96, 96)
    clip = HMDB51(tmp_path, frames=2).load(ClipRef("wave/a.avi", 50))

    def middle(line: Tensor) -> float:
        return float((line > 0.4).nonzero().double().mean())

    red = clip[0, 0]
    assert middle(red[150:].mean(0)) == pytest.approx(62 / 96 * 400 - 88 - 0.5, abs=1)
    assert middle(red[:, :100].mean(1)) == pytest.approx(26 / 96 * 300 - 38 - 0.5, abs=1)
    corner = clip[:, 0, 210:, :20].mean((1, 2))
    assert corner[2] > 0.6
    assert corner[0] < 0.15


def test_videos_may_lie_directly_under_the_root(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "catch").symlink_to(videos / "hmdb51_org" / "catch")
    (tmp_path / SPLITS).symlink_to(videos / SPLITS)
    data = HMDB51(tmp_path, frames=3, size=16, start="first", clips_per_class=None)
    assert data.missing() == []
    assert numbers(data.load(data.refs()[2])) == [0, 1, 2]


def test_undecodable_and_absent_videos(tmp_path: Path) -> None:
    touch(tmp_path, ["sit/torn.avi"])
    data = HMDB51(tmp_path)
    with pytest.raises(BenchError, match=r"Cannot decode .*torn\.avi"):
        data.load(ClipRef("sit/torn.avi", 37))
    with pytest.raises(MissingClip, match=r"sit/gone\.avi is not there.*hmdb51_org"):
        data.load(ClipRef("sit/gone.avi", 37))


def test_a_damaged_video_is_padded_on_request(tmp_path: Path) -> None:
    path = write(tmp_path, "sit/a.avi", 20)
    data = path.read_bytes()
    middle = (data.index(b"movi") + data.index(b"idx1")) // 2
    path.write_bytes(data[:middle] + b"garbage!" * 40 + data[middle + 320 :])
    made = {"start": "first", "frames": 20, **TINY}
    with pytest.raises(BenchError, match=r"frame \d+ of 20 is damaged"):
        HMDB51(tmp_path, **made).load(ClipRef("sit/a.avi", 37))
    padded = numbers(HMDB51(tmp_path, on_damage="pad", **made).load(ClipRef("sit/a.avi", 37)))
    kept = max(padded) + 1
    assert 2 < kept < 20
    assert padded == [*range(kept), *[kept - 1] * (20 - kept)]


def test_another_spelling_names_the_same_files(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "hmdb51_org").mkdir()
    (tmp_path / "hmdb51_org" / "Catch").symlink_to(videos / "hmdb51_org" / "catch")
    data = HMDB51(tmp_path, frames=3, size=16, start="first")
    assert numbers(data.load(ClipRef("catch/NINE.avi", 2))) == [0, 1, 2]


# --- lists ---


def test_flags_and_folds_choose_the_videos(tmp_path: Path) -> None:
    touch(tmp_path, [f"clap/{ODD}"])
    for fold in (1, 2, 3):
        lines = ["a.avi 0", f"{ODD} {1 if fold == 3 else 2}", "b c;(d)[e]&.avi 1", "f.avi 2"]
        write_lists(tmp_path, {"clap": lines}, fold, end=" \r\n" if fold == 2 else " \n")

    def of_clap(**params: Any) -> list[str]:
        refs = HMDB51(tmp_path, clips_per_class=None, **params).refs()
        assert all(ref.id.partition("/")[0] == HMDB51.classes[ref.label] for ref in refs)
        assert [ref.label for ref in refs] == sorted(ref.label for ref in refs)
        assert {ref.label for ref in refs} == set(range(51))
        return [ref.id.partition("/")[2] for ref in refs if ref.label == 4]

    assert of_clap() == of_clap(fold=2) == [ODD, "f.avi"]
    # In the third fold none of the test videos exists, which is said.
    touch(tmp_path, ["clap/f.avi", "clap/b c;(d)[e]&.avi"])
    assert of_clap(fold=3) == ["f.avi"]
    assert of_clap(split="train") == ["b c;(d)[e]&.avi"]
    assert of_clap(split="train", fold=3) == [ODD, "b c;(d)[e]&.avi"]


def test_a_tenth_of_the_training_videos_of_each_class_is_held_out(tmp_path: Path) -> None:
    names = [f"v{i}.avi" for i in range(70)]
    write_lists(tmp_path, {"run": [f"{n} 1" for n in names]})
    touch(tmp_path, [f"run/{n}" for n in names])
    parts = [
        {r.id for r in HMDB51(tmp_path, split=split, clips_per_class=None).refs() if r.id.startswith("run/")}
        for split in ("train", "val")
    ]
    assert [len(part) for part in parts] == [63, 7]
    assert parts[0] | parts[1] == {f"run/{n}" for n in names}


def test_the_choice_follows_the_seed_and_grows_by_nesting(tmp_path: Path) -> None:
    names = [f"v{i}.avi" for i in range(30)]
    lines = {"run": [f"{n} 2" for n in names], "walk": [f"{n} 2" for n in names]}
    write_lists(tmp_path, lines)
    touch(tmp_path, [f"run/{n}" for n in names])

    def chosen(count: int | None, seed: int = 0) -> list[str]:
        return [r.id for r in HMDB51(tmp_path, clips_per_class=count, seed=seed).refs() if r.label in (32, 49)]

    assert len(chosen(None)) == 60
    assert len(chosen(20)) == 40
    assert set(chosen(4)) < set(chosen(20))
    assert chosen(20) == [name for name in chosen(None) if name in set(chosen(20))]  # the order of the lists
    assert len({tuple(chosen(1, seed)) for seed in range(10)}) > 5
    first = [n.partition("/")[2] for n in chosen(4)]
    assert first[:4] != first[4:]  # classes are drawn apart
    write_lists(tmp_path, {name: lines[name][::-1] for name in lines})
    assert sorted(chosen(4)) == sorted(HMDB51.classes[32] + "/" + n for n in first[:4]) + sorted(
        HMDB51.classes[49] + "/" + n for n in first[4:]
    )


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("b.avi 3", "line 3: expected"),
        ("b\0.avi 2", "line 3: .* is no name of a file"),
        ("b.avi", "line 3: expected"),
        ("2", "line 3: expected"),
        ("b.mp4 1", "line 3: expected"),
        ("hug/b.avi 1", "line 3: expected"),
        ("a.avi 2", "line 3: a.avi is listed twice"),
    ],
)
def test_a_bad_line_of_a_list_is_named(tmp_path: Path, line: str, word: str) -> None:
    write_lists(tmp_path, {"hug": ["a.avi 1", "", line]})
    with pytest.raises(BenchError, match=rf"hug_test_split1\.txt, {word}"):
        HMDB51(tmp_path).refs()


def test_a_list_without_a_video_is_an_error(tmp_path: Path) -> None:
    write_lists(tmp_path, {"hug": ["a.avi 1"]})
    with pytest.raises(BenchError, match=r"hug_test_split1\.txt marks no video with 2"):
        HMDB51(tmp_path).refs()
    (tmp_path / SPLITS / "hug_test_split1.txt").write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(BenchError, match=r"Cannot read .*hug_test_split1\.txt"):
        HMDB51(tmp_path).refs()


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    for root in (None, tmp_path, tmp_path / "nowhere"):
        data = HMDB51(root)
        said = [str(item) for item in data.missing()]
        assert ["hmdb51_org.rar" in said[0], "test_train_splits.rar" in said[1]] == [True, True]
        assert "serre-lab" in said[0]
        with pytest.raises(BenchError, match="needs files that are not here"):
            data.refs()
    touch(tmp_path, ["hit/a.avi"])
    (item,) = HMDB51(tmp_path).missing()
    assert "absent: brush_hair, cartwheel, catch and 48 more" in item.what
    write_lists(tmp_path, {})
    (tmp_path / SPLITS / "hit_test_split1.txt").unlink()
    (item,) = HMDB51(tmp_path).missing()
    assert "(absent: hit)" in item.what
    write_lists(tmp_path, {})
    (item,) = HMDB51(tmp_path).missing()
    assert "none of the 51 of the lists is there, such as brush_hair/x_brush_hair_0.avi" in item.what
    write_lists(tmp_path, {"hit": ["a.avi 2"]})
    assert HMDB51(tmp_path).missing() == []
