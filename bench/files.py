"""Naming files, and writing them so that nobody ever sees half of one."""

from __future__ import annotations

import glob
import hashlib
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

PARTIAL = ".part"
"""How the names of files end that are being written."""


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Gives a place beside ``path`` to write to; what is written there takes its place when the block ends well.

    Args:
        durable: wait until it is on the disk. What is checked whenever it is read, and can be made again, need not be.

    The old file stays as it is until then, and for good if the block raises or the process is killed. Each process
    writes to a place of its own, on whatever machine it runs; what killed ones of this machine left is removed.
    """
    for left in path.parent.glob(f"{glob.escape(path.name)}.{here()}-*{PARTIAL}"):
        if is_left(left):
            left.unlink(missing_ok=True)
    partial = path.parent / f"{path.name}.{here()}-{os.getpid()}{PARTIAL}"
    try:
        yield partial
        if durable:
            _to_disk(partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def is_left(path: Path) -> bool:
    """Whether a file is one that :func:`replacing` was writing to when its process was killed, on this machine."""
    place, _, process = path.name.removesuffix(PARTIAL).rpartition(".")[2].rpartition("-")
    return path.name.endswith(PARTIAL) and place == here() and not runs(process)


def write_whole(path: Path, text: str) -> None:
    """Writes a text file so that it is the old or the new one, whatever happens.

    Raises:
        OSError: it cannot be written; the old file is as it was.
    """
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _to_disk(path: Path) -> None:
    """Waits until a file is on the disk: a name must not survive a power cut that its content does not."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


@lru_cache(maxsize=1)
def here() -> str:
    """Eight hex digits for where a number of a process means anything: this machine since it was started, or the part
    of it (a container, say) that counts processes of its own."""
    known = [platform.node()]
    with suppress(OSError):  # on Linux
        known.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        known.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(known).encode()).hexdigest()[:8]


def runs(process: str) -> bool:
    """Whether a process of that number may run here, on a system that can tell."""
    if os.name != "posix":
        return True
    try:
        os.kill(int(process), 0)
    except PermissionError:
        return True
    except (OSError, OverflowError, ValueError):
        return False
    return True


def slug(label: str) -> str:
    """A label as a part of a file name: letters, digits and ``. + = - _``; anything else becomes ``_``."""
    return re.sub(r"[^\w.+=-]+", "_", label).strip("_")
