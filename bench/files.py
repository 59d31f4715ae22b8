"""Naming files, and writing them so that nobody ever sees half of one."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".part"
"""How the names of files end that are being written."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a place beside ``path`` to write to; what is written there takes its place when the block ends well.

    The old file stays as it is until then, and for good if the block raises or the process is killed. Each process
    writes to a place of its own; what killed ones left there is removed.
    """
    for left in path.parent.glob(f"{glob.escape(path.name)}.*{PARTIAL}"):
        if not _runs(left.name.removesuffix(PARTIAL).rpartition(".")[2]):
            left.unlink(missing_ok=True)
    partial = path.parent / f"{path.name}.{os.getpid()}{PARTIAL}"
    try:
        yield partial
        _to_disk(partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


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


def _runs(process: str) -> bool:
    """Whether a process of that number may run, on a system that can tell."""
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
