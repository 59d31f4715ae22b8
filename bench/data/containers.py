"""What the container of a video says of itself, read without decoding: whether all of it is there, and how many frames.

Decoders are made to play on: a file that is cut off or partly overwritten is a shorter video to them. The structure of
the common containers tells the two apart. Of others nothing is known, and nothing said.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError


@dataclass(frozen=True)
class Container:
    """A video file from outside.

    Attributes:
        frames: how many frames it is to hold; ``None`` where it does not say.
        damage: what is wrong with its structure; empty if nothing is.
        ends: the first byte behind each frame, as far as its structure is intact, in the order of decoding; empty where
            the frames do not follow one another.
        count_at: the byte at which the number of frames stands, if leaving out the last ones takes no more than a
            smaller number there.
        hidden: how many frames at the beginning are coded and not to be shown.
    """

    frames: int | None = None
    damage: str = ""
    ends: tuple[int, ...] = ()
    count_at: int | None = None
    hidden: int = 0

    def beginning(self, path: Path, frames: int) -> bytes:
        """The file as it would be if it ended after so many frames, which are fewer than it has."""
        data = path.read_bytes()
        if self.count_at is not None:
            return data[: self.count_at] + frames.to_bytes(4, "big") + data[self.count_at + 4 :]
        return data[: self.ends[frames - 1]]


def inspect(path: Path) -> Container:
    """Looks at the structure of a video: AVI, MP4 and its family, Matroska and WebM; anything else passes.

    Raises:
        BenchError: it is no regular file, is empty, or cannot be read.
    """
    if not path.is_file():
        raise BenchError(f"Cannot decode {path}: it is not a regular file.")
    try:
        with path.open("rb") as file:
            if not path.stat().st_size:
                raise BenchError(f"Cannot decode {path}: the file is empty; copy it again.")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _inspect(data)
    except OSError as error:
        raise BenchError(f"Cannot read {path}: {error.strerror or error}.") from error


def _inspect(data: mmap.mmap | bytes) -> Container:
    if data[:4] == b"RIFF" and data[8:12] == b"AVI ":
        return _avi(data)
    if data[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"):
        return _mp4(data)
    if data[:4] == b"\x1aE\xdf\xa3":
        return _matroska(data)
    return Container()


# --- AVI ---

_STREAM = re.compile(rb"\d\d(?:dc|db)", re.IGNORECASE)
_CODE = re.compile(rb"[A-Za-z0-9_ ]{4}")


def _avi(data: mmap.mmap | bytes) -> Container:
    """Goes from chunk to chunk: where the name of the next is no name, something was written over or never written."""
    # The size in the header leaves out its own 8 bytes, but some writers count them.
    end = 8 + _u32(data, 4)
    cut = end > len(data) + 8
    frames: int | None = None
    ends: list[int] = []
    movi, at = 0, 12
    while at + 8 <= len(data) and (at < end or data[at : at + 4] == b"RIFF"):
        code, size = data[at : at + 4], _u32(data, at + 4)
        if code in (b"LIST", b"RIFF"):  # read on inside
            movi = at + 8 + size if data[at + 8 : at + 12] == b"movi" else movi
            end = max(end, at + 8 + size) if code == b"RIFF" else end
            cut, at = cut or at + 8 + size > len(data) + 8, at + 12
            continue
        if not _CODE.fullmatch(code):
            if ends and ends[-1] == at and _CODE.fullmatch(data[at - 1 : at + 3]):
                at -= 1  # a writer that does not fill up odd sizes
                continue
            return Container(frames, f"nonsense from byte {at} on", tuple(ends))
        if at + 8 + size > len(data):
            return Container(frames, "it is cut off", tuple(ends))
        if code == b"strh" and data[at + 8 : at + 12] == b"vids" and frames is None:
            frames = _u32(data, at + 8 + 32)
        is_frame = at < movi and _STREAM.fullmatch(code) is not None
        at += 8 + size + size % 2
        if is_frame:
            ends.append(at)
    damage = "it is cut off" if cut or at < min(movi, end) else ""
    # One more or less is how some writers count.
    if not damage and frames is not None and len(ends) + 1 < frames:
        damage = f"its header says {frames} frames, and it holds {len(ends)}"
    return Container(frames, damage, tuple(ends))


def _u32(data: mmap.mmap | bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


# --- MP4, MOV, M4V, 3GP ---


def _mp4(data: mmap.mmap | bytes) -> Container:
    boxes = list(_boxes(data, 0, len(data)))
    moov = next(((start, end) for code, start, end in boxes if code == b"moov"), None)
    table = {} if moov is None else _video_table(data, *moov)
    count_at = table[b"stsz"] + 8 if b"stsz" in table else None
    frames = None if count_at is None else _big(data, count_at)
    known = {code for code, _, _ in boxes}
    last = boxes[-1][2] if boxes else 0
    if last > len(data):
        return Container(frames, "it is cut off", (), count_at)
    # What stands behind a complete file harms nobody.
    if last < len(data) and not {b"moov", b"mdat"} <= known and b"moof" not in known:
        return Container(frames, f"nonsense from byte {last} on", (), count_at)
    # Of a video in fragments the table lists the first ones alone.
    if b"moof" in known or not frames:
        return Container()
    return Container(frames, "", (), count_at, _hidden(data, table, frames))


def _boxes(data: mmap.mmap | bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, first byte of the content and end of each box, up to one that cannot be."""
    while at + 8 <= end:
        size, code, head = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], 8
        if size == 1:
            size, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        if not all(32 <= byte < 127 or byte == 0xA9 for byte in code):
            return
        size = size or end - at  # 0 stands for the rest
        if size < head:
            return
        yield code, at + head, at + size
        at += size


def _video_table(data: mmap.mmap | bytes, start: int, end: int) -> dict[bytes, int]:
    """Where the content of each box of the first video track begins."""
    for code, inner, stop in _boxes(data, start, end):
        if code != b"trak":
            continue
        # The first of each name: QuickTime has a second handler, of the data.
        boxes = {name: at for name, at, _ in reversed(list(_inside(data, inner, min(stop, end))))}
        if b"hdlr" in boxes and data[boxes[b"hdlr"] + 8 : boxes[b"hdlr"] + 12] == b"vide":
            return boxes
    return {}


def _hidden(data: mmap.mmap | bytes, table: dict[bytes, int], frames: int) -> int:
    """How many frames are coded and not shown, as the edit list begins behind them: a video that was trimmed without
    coding it again holds those since the key frame before."""
    if b"elst" not in table or b"stts" not in table:
        return 0
    at = table[b"elst"]
    wide = 8 if data[at : at + 1] == b"\1" else 4  # by the version, times take so many bytes
    entries = [at + 8 + (2 * wide + 4) * i + wide for i in range(min(_big(data, at + 4), 8))]
    starts = [int.from_bytes(data[entry : entry + wide], "big", signed=True) for entry in entries]
    begin = next((start for start in starts if start >= 0), 0)
    offsets = _runs(data, table[b"ctts"], frames) if b"ctts" in table else []
    time = hidden = 0
    for number, step in enumerate(_runs(data, table[b"stts"], frames)):
        hidden += time + (offsets[number] if number < len(offsets) else 0) < begin
        time += step
    return hidden


def _runs(data: mmap.mmap | bytes, at: int, most: int) -> list[int]:
    """A table of how often each value comes in turn, written out."""
    values: list[int] = []
    for entry in range(at + 8, min(at + 8 + 8 * _big(data, at + 4), len(data)), 8):
        if len(values) >= most:
            break
        value = int.from_bytes(data[entry + 4 : entry + 8], "big", signed=True)
        values += [value] * min(_big(data, entry), most - len(values))
    return values


def _big(data: mmap.mmap | bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "big")


def _inside(data: mmap.mmap | bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    for code, inner, stop in _boxes(data, start, end):
        if code in (b"edts", b"mdia", b"minf", b"stbl"):
            yield from _inside(data, inner, min(stop, end))
        else:
            yield code, inner, stop


# --- Matroska, WebM ---

_HEAD, _SEGMENT, _CLUSTER, _TRACKS, _TRACK = 0x1A45DFA3, 0x18538067, 0x1F43B675, 0x1654AE6B, 0xAE
_NUMBER, _TYPE, _SIMPLE, _GROUP, _BLOCK = 0xD7, 0x83, 0xA3, 0xA0, 0xA1
_IN_SEGMENT = {0x114D9B74, 0x1549A966, _TRACKS, 0x1043A770, _CLUSTER, 0x1C53BB6B, 0x1941A469, 0x1254C367, 0xEC, 0xBF}
_IN_CLUSTER = {0xE7, 0x5854, 0xA7, 0xAB, _SIMPLE, _GROUP, 0xAF, 0xEC, 0xBF}
_LONGEST = 1 << 62


def _matroska(data: mmap.mmap | bytes) -> Container:
    """Goes from element to element, past the blocks of the first video track."""
    video: int | None = None
    ends: list[int] = []
    at, end, cluster, cut = 0, len(data), 0, False
    while at < end:
        element = _element(data, at)
        name, start, size = element or (0, at, 0)
        if name in (_HEAD, _SEGMENT):
            if name == _SEGMENT:  # read on inside
                cut = size < _LONGEST and start + size > len(data)
                end = min(start + size, len(data))
            at = start if name == _SEGMENT else start + size
        elif name == _CLUSTER:
            cluster, at = start + size, start
        elif name not in _IN_SEGMENT and not (at < cluster and name in _IN_CLUSTER):
            why = "it is cut off" if cut and element is None else f"nonsense from byte {at} on"
            return Container(None, why, tuple(ends))
        elif start + size > len(data):
            return Container(None, "it is cut off", tuple(ends))
        else:
            if name == _TRACKS and video is None:
                video = _video_track(data, start, start + size)
            at = start + size
            if name in (_SIMPLE, _GROUP) and _track_of(data, name, start, at) == video:
                ends.append(at)
    return Container(None, "it is cut off" if cut else "", tuple(ends))


def _element(data: mmap.mmap | bytes, at: int) -> tuple[int, int, int] | None:
    """Name, first byte of the content and size of an EBML element; a size that is not given is enormous."""
    name = _number(data, at, keep=True, most=4)
    size = None if name is None else _number(data, at + name[1], keep=False, most=8)
    if name is None or size is None:
        return None
    unknown = size[0] == (1 << 7 * size[1]) - 1
    return name[0], at + name[1] + size[1], _LONGEST if unknown else size[0]


def _number(data: mmap.mmap | bytes, at: int, *, keep: bool, most: int) -> tuple[int, int] | None:
    """A number of EBML and how many bytes it takes, which its leading zeros say; ``keep`` the bit behind them."""
    if at >= len(data) or not data[at]:
        return None
    length = 9 - data[at].bit_length()
    if length > most or at + length > len(data):
        return None
    value = int.from_bytes(data[at : at + length], "big")
    return (value if keep else value & ((1 << 7 * length) - 1)), length


def _children(data: mmap.mmap | bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    while at < end and (element := _element(data, at)) is not None:
        name, start, size = element
        yield name, start, start + size
        at = start + size


def _video_track(data: mmap.mmap | bytes, start: int, end: int) -> int | None:
    for name, inner, stop in _children(data, start, end):
        if name == _TRACK:
            values = {key: int.from_bytes(data[a:b], "big") for key, a, b in _children(data, inner, stop) if b - a <= 8}
            if values.get(_TYPE) == 1:
                return values.get(_NUMBER)
    return None


def _track_of(data: mmap.mmap | bytes, name: int, start: int, end: int) -> int | None:
    """The track that a block belongs to."""
    if name == _GROUP:
        start = next((inner for child, inner, _ in _children(data, start, end) if child == _BLOCK), end)
    number = _number(data, start, keep=False, most=8)
    return None if number is None else number[0]
