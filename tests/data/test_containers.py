"""The structure of containers, on bytes that are written by hand where writers differ."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from kit.videos import moving, write_video

from bench.data.containers import inspect


def chunk(code: bytes, content: bytes, fill: bool = True) -> bytes:
    return code + struct.pack("<I", len(content)) + content + (b"\0" if fill and len(content) % 2 else b"")


def avi(frames: list[bytes], promised: int, fill: bool = True, code: bytes = b"00dc", extra: int = 0) -> bytes:
    header = chunk(b"strh", b"vidsFMP4" + bytes(24) + struct.pack("<I", promised) + bytes(12))
    movi = b"movi" + b"".join(chunk(code, f, fill) + chunk(b"01wb", b"ab") for f in frames)
    inside = b"AVI " + chunk(b"LIST", b"hdrl" + chunk(b"LIST", b"strl" + header)) + chunk(b"LIST", movi)
    inside += chunk(b"idx1", bytes(16))
    return b"RIFF" + struct.pack("<I", len(inside) + extra) + inside


def looked_at(tmp_path: Path, data: bytes) -> tuple[int | None, str, int]:
    path = tmp_path / "a"
    path.write_bytes(data)
    found = inspect(path)
    return found.frames, found.damage, len(found.ends)


FRAMES = [b"abc", b"defg", b"", b"h"]


@pytest.mark.parametrize(
    "data",
    [
        avi(FRAMES, 4),
        avi(FRAMES, 4, fill=False),  # a writer that leaves odd sizes as they are
        avi(FRAMES, 4, code=b"00db"),
        avi(FRAMES, 4, extra=8),  # one that counts the first 8 bytes
        avi(FRAMES, 4) + b"\0" * 100,  # padding behind the end
    ],
)
def test_an_avi_that_is_complete(tmp_path: Path, data: bytes) -> None:
    assert looked_at(tmp_path, data) == (4, "", 4)


def test_header_counts(tmp_path: Path) -> None:
    assert looked_at(tmp_path, avi(FRAMES, 5)) == (5, "", 4)
    assert looked_at(tmp_path, avi(FRAMES, 0)) == (0, "", 4)  # never filled in
    assert looked_at(tmp_path, avi(FRAMES, 6))[1] == "its header says 6 frames, and it holds 4"


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    """But for one that takes no more than the index, whose size some writers count twice."""
    data = avi([b"abcd", b"efgh", b"ijkl"], 3)
    first = data.index(b"movi") + 4
    for length in range(first, len(data) - 8):
        frames, damage, found = looked_at(tmp_path, data[:length])
        assert (frames, bool(damage)) == (3, True), length
        assert found == sum(length >= first + 22 * i + 12 for i in range(3)), length


def test_overwritten_headers_of_chunks_are_noticed(tmp_path: Path) -> None:
    data = avi([bytes(20)] * 4, 4)
    at = data.index(b"00dc", data.index(b"movi") + 50)
    for written in (bytes(8), b"\xff" * 8, b"00dc\xff\xff\xff\x7f"):
        frames, damage, found = looked_at(tmp_path, data[:at] + written + data[at + 8 :])
        assert damage
        assert (frames, found) == (4, 2)


@pytest.mark.parametrize("kind", ["mp4", "mov", "mkv", "webm", "avi"])
def test_whole_files_of_each_kind(tmp_path: Path, kind: str) -> None:
    codec = "libvpx-vp9" if kind == "webm" else "mpeg4"
    path = write_video(tmp_path / f"a.{kind}", moving(10), codec=codec, options={})
    found = inspect(path)
    assert found.damage == ""
    assert len(found.ends) == (0 if kind in ("mp4", "mov") else 10)
    assert found.frames == (None if kind in ("mkv", "webm") else 10)
    whole = path.read_bytes()
    for share in (0.3, 0.6, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        assert inspect(path).damage


def test_an_mp4_whose_table_comes_first(tmp_path: Path) -> None:
    """As of videos for the web: such a file opens, whatever is cut off."""
    path = write_video(tmp_path / "a.mp4", moving(10))
    boxes, data, at = {}, path.read_bytes(), 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        boxes[data[at + 4 : at + 8]] = data[at : at + size]
        at += size
    first = boxes[b"ftyp"] + boxes[b"moov"] + boxes[b"mdat"]
    assert looked_at(tmp_path, first)[:2] == (10, "")
    assert looked_at(tmp_path, first[:-1])[:2] == (10, "it is cut off")
    assert looked_at(tmp_path, first + bytes(50))[1] == ""


def test_other_files_pass(tmp_path: Path) -> None:
    for data in (b"x", b"this is no video" * 9, b"\0" * 64, b"RIFF\x10\0\0\0WAVE" + bytes(8)):
        assert looked_at(tmp_path, data) == (None, "", 0)


def test_nonsense_ends(tmp_path: Path) -> None:
    """Sizes of nothing, which lead nowhere, are no reason to stay."""
    heads = (b"RIFF\0\0\0\0AVI ", b"\0\0\0\0ftyp", b"\0\0\0\1ftyp" + bytes(8), b"\x1aE\xdf\xa3\x80" * 3)
    for head in heads:
        for rest in (bytes(64), b"LIST\0\0\0\0" * 8, b"\xff" * 64, b"\x1f\x43\xb6\x75\xff" * 9):
            looked_at(tmp_path, head + rest)
