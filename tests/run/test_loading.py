"""A clip that is loaded is what its data set gives, bit for bit, whatever befalls the cache."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bench import BenchError, ClipRef, Dataset
from bench.data.base import MissingClip
from bench.data.frames import read_frames, to_clip
from bench.run.loading import Frames, Loader


class Folders(Dataset):
    """A folder of frames for each clip.

    Args:
        gamma: an exponent: clips of others than 1 have more than 8 bits.
    """

    classes = ("a",)

    def __init__(self, root: Path, gamma: float = 1.0) -> None:
        self.root, self.gamma = root, gamma
        self.loaded: list[str] = []
        self.threads: set[int] = set()

    def refs(self) -> list[ClipRef]:
        return [ClipRef(path.name, 0) for path in sorted(self.root.iterdir())]

    def load(self, ref: ClipRef) -> Tensor:
        self.loaded.append(ref.id)
        self.threads.add(threading.get_ident())
        if not (self.root / ref.id).is_dir():
            raise MissingClip(ref.id)
        clip = to_clip(read_frames(self.root / ref.id, 3))
        return clip if self.gamma == 1 else clip**self.gamma


@pytest.fixture
def root(tmp_path: Path) -> Path:
    numbers = np.random.default_rng(0)
    for name in ("one", "two", "three", "four"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for frame in range(3):
            picture = numbers.integers(0, 256, (6, 8, 3), dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / "data" / name / f"{frame}.png")
    return tmp_path / "data"


def same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one.view(torch.int32), other.view(torch.int32))


@pytest.mark.parametrize("gamma", [1.0, 0.7])
def test_a_clip_is_decoded_once_and_is_always_the_same(gamma: float, root: Path, tmp_path: Path) -> None:
    plain, data = Folders(root, gamma), Folders(root, gamma)
    for _ in range(3):  # three runs, none of which has room in its memory
        loader = Loader(data, "settings", Frames(tmp_path / "frames"), memory=0)
        for ref in data.refs() * 2:
            assert same(loader.load(ref), plain.load(ref))
    assert sorted(data.loaded) == sorted(ref.id for ref in data.refs())
    size = sum(path.stat().st_size for path in (tmp_path / "frames").rglob("*.clip"))
    assert size < 4 * (3 * 3 * 6 * 8 * (1 if gamma == 1 else 4) + 200)


def test_what_fits_into_the_memory_is_loaded_once(root: Path) -> None:
    data = Folders(root)
    loader = Loader(data)
    first = [loader.load(ref) for ref in data.refs()]
    assert all(loader.load(ref) is clip for ref, clip in zip(data.refs(), first, strict=True))
    assert len(data.loaded) == 4
    small = Loader(data, memory=2 * first[0].numel() * 4)
    for ref in data.refs() * 2:
        small.load(ref)
    assert len(data.loaded) == 12


@pytest.mark.parametrize("damage", [b"", b"frames01", b"frames01\xff\xff\xff\xff{}", None, "flip"])
def test_what_is_torn_is_decoded_again(damage: bytes | str | None, root: Path, tmp_path: Path) -> None:
    data = Folders(root)
    ref = data.refs()[0]
    whole = Loader(data, "", Frames(tmp_path / "frames")).load(ref)
    (path,) = (tmp_path / "frames").rglob("*.clip")
    content = path.read_bytes()
    if damage is None:
        path.unlink()
    elif isinstance(damage, bytes):
        path.write_bytes(damage)
    else:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert same(Loader(data, "", Frames(tmp_path / "frames")).load(ref), whole)
    assert data.loaded == [ref.id] * 2
    assert path.read_bytes() == content


def test_other_files_settings_and_paths_are_other_clips(root: Path, tmp_path: Path) -> None:
    data = Folders(root)
    ref = data.refs()[0]

    def loads(identity: str = "") -> int:
        before = len(data.loaded)
        Loader(data, identity, Frames(tmp_path / "frames")).load(ref)
        return len(data.loaded) - before

    assert [loads(), loads(), loads("quality=3"), loads("quality=3")] == [1, 0, 1, 0]
    frame = root / ref.id / "1.png"
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(frame)
    assert [loads(), loads()] == [1, 0]
    os.utime(frame, ns=(1, 1))
    assert [loads(), loads()] == [1, 0]
    frame.rename(frame.with_name("3.png"))
    with pytest.raises(BenchError, match="no frame"):
        loads()


def test_the_next_clips_are_loaded_in_the_background(root: Path, tmp_path: Path) -> None:
    data = Folders(root)
    refs = data.refs()
    loader = Loader(data, "", Frames(tmp_path / "frames"))
    first = loader.load(refs[0])
    loader.expect(refs)
    rest = [loader.load(ref) for ref in refs[1:]]
    loader.close()
    assert data.threads > {threading.get_ident()}
    assert data.loaded == [ref.id for ref in refs]
    plain = Folders(root)
    assert all(same(clip, plain.load(ref)) for ref, clip in zip(refs, [first, *rest], strict=True))


def test_what_fails_in_the_background_fails_where_it_is_asked_for(root: Path) -> None:
    class Failing(Folders):
        def load(self, ref: ClipRef) -> Tensor:
            if ref.id == "three" and len(self.loaded) < 5:
                self.loaded.append("failed")
                raise OSError("read error")
            return super().load(ref)

    data = Failing(root)
    loader = Loader(data)
    loader.load(ClipRef("four", 0))
    loader.expect([ClipRef(name, 0) for name in ("three", "two", "gone")])
    with pytest.raises(OSError, match="read error"):
        loader.load(ClipRef("three", 0))
    assert data.loaded.count("failed") == 2
    loader.load(ClipRef("two", 0))
    with pytest.raises(MissingClip):
        loader.load(ClipRef("gone", 0))
    loader.close()
    loader.load(ClipRef("one", 0))  # and it goes on without


def test_no_more_is_kept_than_there_is_room_for(root: Path, tmp_path: Path) -> None:
    data = Folders(root)
    Loader(data, "", Frames(tmp_path / "all")).load(data.refs()[0])
    (one,) = (tmp_path / "all").rglob("*.clip")
    room = 2 * one.stat().st_size + 20
    for path in root.rglob("*"):
        os.utime(path, ns=(1, 1))
    for _ in range(3):  # in turn: what makes room for the next is never asked for in time
        loader = Loader(data, "", Frames(tmp_path / "frames", room), memory=0)
        for ref in data.refs():
            loader.load(ref)
        kept = {path.name for path in (tmp_path / "frames").rglob("*.clip")}
        assert len(kept) == 2
    assert len(data.loaded) == 1 + 4 + 2 + 2  # the two that are kept stay
    for path in (tmp_path / "frames").rglob("*.clip"):
        os.utime(path, (1, 1))
    loader = Loader(data, "of another run", Frames(tmp_path / "frames", room), memory=0)
    for ref in data.refs():
        loader.load(ref)
    assert not kept & {path.name for path in (tmp_path / "frames").rglob("*.clip")}


def _refuse(*arguments: object, **options: object) -> None:
    raise OSError(30, "Read-only file system")


def test_a_cache_that_cannot_be_written_stops_nobody(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    data, plain = Folders(root), Folders(root)
    for folder in (tmp_path / "file", tmp_path / "file" / "frames"):
        loader = Loader(data, "", Frames(folder), memory=0)
        assert all(same(loader.load(ref), plain.load(ref)) for ref in data.refs())
    with monkeypatch.context() as patched:
        patched.setattr(os, "utime", _refuse)
        for _ in range(2):
            assert same(Loader(data, "", Frames(tmp_path / "frames")).load(data.refs()[0]), plain.load(data.refs()[0]))
        assert len(data.loaded) == 9
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "elsewhere"))
    frames = Frames.beside(tmp_path / "store", 1.0)
    assert frames is not None
    Loader(data, "", frames).load(data.refs()[0])
    assert len(list((tmp_path / "elsewhere").rglob("*.clip"))) == 1
    assert Frames.beside(tmp_path / "store", 0.0) is None


def test_clips_that_are_computed_are_not_written_down(tmp_path: Path) -> None:
    class Computed(Dataset):
        classes = ("a",)

        def refs(self) -> list[ClipRef]:
            return [ClipRef("a/0", 0), ClipRef("../data", 0), ClipRef("/etc", 0)]

        def load(self, ref: ClipRef) -> Tensor:
            return torch.zeros(3, 2, 4, 4)

    loader = Loader(Computed(), "", Frames(tmp_path / "frames"))
    loader.expect(Computed().refs())
    for ref in Computed().refs():
        loader.load(ref)
    assert not (tmp_path / "frames").exists()
