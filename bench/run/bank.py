"""Files by what they hold: ``ab/abcd....adv``, named after the SHA-256 of their bytes.

What is put in twice lies there once. A file that is torn, or was changed, has another digest than its name and is as if
it were gone; so nothing waits for the disk. A process killed at any moment leaves whole files, and what
:meth:`Bank.remains` names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from bench.files import is_left, replacing

ENDING = ".adv"
"""Of the names of files in a bank."""


class Gone(Exception):
    """No whole file of that name is in the bank."""


class Bank:
    """A folder of such files.

    Args:
        folder: made when something is put in.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, content: bytes) -> str:
        """Stores some bytes, whole or not at all; returns their name.

        Raises:
            OSError: they cannot be written.
        """
        name = hashlib.sha256(content).hexdigest() + ENDING
        path = self.path(name)
        if not self._holds(path, content):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path, durable=False) as partial:
                partial.write_bytes(content)
        return name

    def get(self, name: str) -> bytes:
        """The bytes of that name.

        Raises:
            Gone: they are not there, or are others now.
            OSError: they are there and cannot be read.
        """
        try:
            content = self.path(name).read_bytes()
        except FileNotFoundError as error:
            raise Gone(name) from error
        if hashlib.sha256(content).hexdigest() + ENDING != name:
            raise Gone(name)
        return content

    def path(self, name: str) -> Path:
        """Where the file of that name lies, if it is there."""
        return self.folder / name[:2] / name

    def names(self) -> Iterator[str]:
        """All files, whole or not, in the order of their names."""
        return (path.name for path in sorted(self.folder.glob(f"??/*{ENDING}")))

    def remains(self) -> list[Path]:
        """What killed processes had not finished writing."""
        return [path for path in sorted(self.folder.glob("??/*")) if is_left(path)]

    def remove(self, name: str) -> int:
        """Removes a file if it is there; returns how many bytes it had."""
        path = self.path(name)
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        return size

    @staticmethod
    def _holds(path: Path, content: bytes) -> bool:
        """Whether a file is there with just these bytes; one that is torn is written again."""
        try:
            return path.stat().st_size == len(content) and path.read_bytes() == content
        except FileNotFoundError:
            return False
