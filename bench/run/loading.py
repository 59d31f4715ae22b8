"""Clips as the runner needs them: from memory, from frames that were decoded before, or from the data set; the next
ones while the device is at work.

Every cell of a grid looks at the same clips, and decoding a video takes longer than many a network. So a clip that is
read from files is written down as it was decoded, in 8 bits where these are all that it has, and is known again by the
data set, its parameters and code, and by the names, sizes and times of its files. What is read back is checked, and is
what the data set would give, bit for bit; whatever is torn, or cannot be written, is decoded again. Clips that are
computed are not written down: that takes as long as computing them.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import shutil
import struct
import threading
import time
import zlib
from collections import OrderedDict, deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.data.base import ClipRef, Dataset
from bench.files import PARTIAL, replacing

FOLDER = "frames"
"""Of a store, where decoded clips are, unless ``BENCH_CACHE`` names another folder."""
CACHE_GB = 20.0
"""Of decoded clips, at most: all 3783 of a UCF-101 test split, of 32 frames of 224 x 224 pixels, are 18 GB."""

# Clips kept in memory between cells, and of those that are loaded ahead.
_MEMORY = 1 << 30
_AHEAD = 1 << 28
_MAGIC = b"frames01"
_ENDING = ".clip"
# Seconds by which the clock of a file system may lag behind.
_TICK = 0.02
# Of the disk's room, what others are left.
_SPARE = 0.5
# What decodes and resizes.
_DECODERS = ("decord", "av", "pillow", "numpy", "torch")


class Loader:
    """Loads the clips of a data set, each as few times as there is room for.

    Args:
        dataset: what gives the clips.
        identity: all that a clip depends on but its id and its files: parameters and code of the data set.
        frames: where decoded clips are kept; they are not if it is not given.
    """

    def __init__(
        self,
        dataset: Dataset,
        identity: str = "",
        frames: Frames | None = None,
        *,
        memory: int = _MEMORY,
        ahead: int = _AHEAD,
    ) -> None:
        self._dataset, self._identity, self._frames = dataset, identity, frames
        self._memory, self._ahead = memory, ahead
        self._held: OrderedDict[str, Tensor] = OrderedDict()
        self._bytes = 0
        self._coming: dict[str, Future[Tensor]] = {}
        self._expected: deque[ClipRef] = deque()
        self._worker: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()  # data sets need not be made for two threads
        self._places = Places(dataset)

    def load(self, ref: ClipRef) -> Tensor:
        """The clip, as :meth:`bench.data.base.Dataset.load` gives it.

        Raises:
            Exception: what the data set raises.
        """
        clip = self._held.get(ref.id)
        if clip is None:
            coming = self._coming.pop(ref.id, None)
            # What has failed in the background fails here again, where it is told; or it does not.
            clip = self._read(ref) if coming is None or coming.exception() else coming.result()
            self._hold(ref, clip)
        else:
            self._held.move_to_end(ref.id)
        self._look_ahead()
        return clip

    def expect(self, refs: Iterable[ClipRef]) -> None:
        """Says which clips will be loaded next, in this order: those that are read from files are loaded ahead."""
        self._expected = deque(refs)
        self._look_ahead()

    def close(self) -> None:
        """Ends what is done in the background."""
        self._expected.clear()
        for coming in self._coming.values():
            coming.cancel()
        self._coming.clear()
        if self._worker is not None:
            self._worker.shutdown()
            self._worker = None

    def _hold(self, ref: ClipRef, clip: Tensor) -> None:
        self._held[ref.id] = clip
        self._bytes += clip.numel() * clip.element_size()
        while self._bytes > self._memory and len(self._held) > 1:
            _, old = self._held.popitem(last=False)
            self._bytes -= old.numel() * old.element_size()

    def _look_ahead(self) -> None:
        """Has the next clips loaded in the background, as many as there is room for."""
        one = max((clip.numel() * clip.element_size() for clip in (*self._held.values(),)[-1:]), default=self._ahead)
        while self._expected and (len(self._coming) + 1) * one <= self._ahead:
            ref = self._expected.popleft()
            if ref.id in self._held or ref.id in self._coming or not self._places.of(ref.id):
                continue
            self._worker = self._worker or ThreadPoolExecutor(1, thread_name_prefix="clips")
            self._coming[ref.id] = self._worker.submit(self._read, ref)

    def _read(self, ref: ClipRef) -> Tensor:
        """The clip from its frames, or from the data set."""
        key = self._key(ref) if self._frames is not None else None
        clip = self._frames.get(key) if self._frames is not None and key is not None else None
        if clip is None:
            with self._lock:
                clip = self._dataset.load(ref)
            if self._frames is not None and key is not None and key == self._key(ref):
                self._frames.put(key, clip)
        return clip

    def _key(self, ref: ClipRef) -> str | None:
        """What a clip is known by; nothing if it is not read from files that can be named."""
        files = self._places.of(ref.id)
        try:
            seen = [f"{path} {status.st_size} {status.st_mtime_ns}" for path in files if (status := path.stat())]
        except OSError:  # gone in this moment: the data set says so
            return None
        if not seen:
            return None
        told = [type(self._dataset).__qualname__, self._identity, _versions(), ref.id, *seen]
        return hashlib.sha256("\n".join(told).encode(errors="surrogateescape")).hexdigest()


class Places:
    """Where the files of a data set's clips are, as far as ids name them: below one of the paths that it keeps among
    its attributes, or below a folder in one."""

    def __init__(self, dataset: Dataset) -> None:
        found = [value for value in vars(dataset).values() if isinstance(value, Path)]
        root = getattr(dataset, "root", None)
        roots = dict.fromkeys(path.expanduser() for path in (*found, *([Path(root)] if isinstance(root, str) else [])))
        self._roots = [path.absolute() for path in roots if path.is_dir()]
        self._folders: list[Path] | None = None

    def of(self, clip: str) -> list[Path]:
        """The file that is called as a clip, or those of the folder that is; none if there are several of that name."""
        if not self._roots or not clip or Path(clip).is_absolute() or ".." in Path(clip).parts or "\0" in clip:
            return []
        if self._folders is None:
            inner = (path for root in self._roots for path in sorted(root.iterdir()) if path.is_dir())
            self._folders = [*self._roots, *inner]
        there = [folder / clip for folder in self._folders if (folder / clip).exists()]
        if len(there) != 1:
            return []
        return sorted(p for p in there[0].iterdir() if p.is_file()) if there[0].is_dir() else there


class Frames:
    """Decoded clips in a folder, a file each. May be removed at any time.

    When it is full, clips that this run has not asked for make room, those first that were used least recently; clips
    of this run do not, as each of its cells asks for all of them in the same order.

    Args:
        folder: made when something is put in.
        most: bytes.
    """

    def __init__(self, folder: Path, most: int = round(CACHE_GB * 1e9)) -> None:
        self.folder, self._most = folder, most
        self._begun = time.time() - _TICK
        self._lock = threading.Lock()
        self._old: list[_File] | None = None
        self._bytes = 0

    @classmethod
    def beside(cls, store: Path, gigabytes: float = CACHE_GB) -> Frames | None:
        """Those of a store; nothing if they may have no room."""
        elsewhere = os.environ.get("BENCH_CACHE")
        return cls(Path(elsewhere) if elsewhere else store / FOLDER, round(gigabytes * 1e9)) if gigabytes > 0 else None

    def get(self, key: str) -> Tensor | None:
        """The clip of that key; nothing if it is not there, or torn."""
        path = self._path(key)
        try:
            # Read, and not mapped: a file that is cut while it is mapped ends the process.
            content = path.read_bytes()
            clip = _from_bytes(content)
        except (OSError, ValueError):
            return None
        with contextlib.suppress(OSError):  # a folder that is only read
            os.utime(path)
        return clip

    def put(self, key: str, clip: Tensor) -> None:
        """Keeps a clip if there is room, and if it is one; no failure to do so is anybody's."""
        if clip.dtype != torch.float32 or not clip.numel():
            return
        content = _to_bytes(clip)
        path = self._path(key)
        with self._lock:
            try:
                if not self._has_room(len(content)):
                    return
                path.parent.mkdir(parents=True, exist_ok=True)
                with replacing(path, durable=False) as partial:
                    partial.write_bytes(content)
                self._bytes += len(content)
            except OSError:  # a full disk, or one that is only read: from here on nothing is kept
                self._most = 0

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}{_ENDING}"

    def _has_room(self, size: int) -> bool:
        """Whether there is room for so many bytes, after others have made some."""
        if self._old is None:
            files = sorted(_files(self.folder), key=lambda file: file.used)
            self._bytes = sum(file.size for file in files)
            self._old = [file for file in files if file.used < self._begun]
            self._most = min(self._most, self._bytes + round(_SPARE * _free(self.folder)))
        while self._bytes + size > self._most and self._old:
            file = self._old.pop(0)
            status = file.path.stat() if file.path.exists() else None
            if status is None or status.st_mtime < self._begun:  # not used since
                file.path.unlink(missing_ok=True)
                self._bytes -= file.size
        return self._bytes + size <= self._most


@dataclass(frozen=True)
class _File:
    path: Path
    size: int
    used: float


def _files(folder: Path) -> list[_File]:
    """All files, what killed processes left among them."""
    paths = (path for path in folder.glob("??/*") if path.name.endswith((_ENDING, PARTIAL)))
    return [_File(path, status.st_size, status.st_mtime) for path in paths if (status := path.stat())]


def _free(folder: Path) -> int:
    """Free bytes of the disk on which a folder is, or will be."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(there).free


def _versions() -> str:
    """Of the libraries that decode and resize."""
    found = []
    for name in _DECODERS:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} -")
    return ", ".join(found)


def _to_bytes(clip: Tensor) -> bytes:
    """A clip in 8 bits a value if these are all that it has, else as it is."""
    plain = clip.detach().cpu().contiguous()
    small = (plain.nan_to_num() * 255).round().clamp(0, 255).to(torch.uint8)
    exact = bool((_in_unit(small).view(torch.int32) == plain.view(torch.int32)).all())
    content = (small if exact else plain).reshape(-1).view(torch.uint8).numpy().tobytes()
    told = {"shape": list(plain.shape), "eight": exact}
    head = json.dumps({**told, "check": _check(told["shape"], told["eight"], content)}).encode()
    return b"".join([_MAGIC, struct.pack("<I", len(head)), head, content])


def _in_unit(frames: Tensor) -> Tensor:
    """As :func:`bench.data.frames.to_clip` does."""
    return frames.to(torch.float32) / 255


def _check(shape: object, eight: object, content: bytes | memoryview) -> int:
    return zlib.crc32(content, zlib.crc32(f"{shape} {eight}".encode()))


def _from_bytes(content: bytes) -> Tensor:
    """The clip, as it was.

    Raises:
        ValueError: the bytes are torn.
    """
    start = len(_MAGIC) + 4
    if content[: len(_MAGIC)] != _MAGIC or len(content) < start:
        raise ValueError("it does not begin as one")
    (length,) = struct.unpack("<I", content[len(_MAGIC) : start])
    head = json.loads(content[start : start + length])
    values = memoryview(content)[start + length :]
    if not isinstance(head, dict) or _check(head.get("shape"), head.get("eight"), values) != head.get("check"):
        raise ValueError("it is torn")
    kind = np.uint8 if head["eight"] else np.dtype("<f4")
    clip = torch.from_numpy(np.frombuffer(values, kind).reshape(head["shape"]).copy())
    return _in_unit(clip) if head["eight"] else clip
