"""Naming files, and writing them so that nobody ever sees half of one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a place beside ``path`` to write to; what is written there takes its place when the block ends well.

    The old file stays as it is until then, and for good if the block raises.
    """
    partial = path.with_name(f"{path.name}.part")
    yield partial
    partial.replace(path)


def slug(label: str) -> str:
    """A label as a part of a file name: letters, digits and ``. + = - _``; anything else becomes ``_``."""
    return re.sub(r"[^\w.+=-]+", "_", label).strip("_")
