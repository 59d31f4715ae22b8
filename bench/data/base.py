"""Base class of data sets."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from bench.errors import BenchError

_STORE = ".store"  # what a results folder holds


@dataclass(frozen=True)
class ClipRef:
    """A clip before it is loaded: an id that is unique and stable within the data set, and its label."""

    id: str
    label: int


@dataclass(frozen=True)
class Missing:
    """A file that is needed and absent.

    Attributes:
        what: the file, as a person would call it.
        get: where it can be had.
        licence: under which terms.
        put: the path at which it is looked for.
    """

    what: str
    get: str
    licence: str
    put: Path | str

    def __str__(self) -> str:
        return f"{self.what}\n    get it:  {self.get}\n    licence: {self.licence}\n    put it:  {self.put}"


def listing(missing: Sequence[Missing]) -> str:
    """All missing files as one indented list, for the end of a message."""
    return "\n".join(f"  - {item}" for item in missing)


class MissingClip(BenchError):
    """One clip of the list has no file. The runner counts it as missing, never as robust; whoever cannot go on without
    it says so."""


class Dataset(ABC):
    """A labelled list of clips.

    Parameters of the constructor belong to the identity of every result, except ``root``, the place of the
    files on this machine.

    Attributes:
        classes: class names in label order; empty if they are not known. A classifier must have as many, or more.
        unseeded: parameters that belong to the identity of a result and to no random stream, as they leave most clips
            as they are: these meet the same random starts whatever the parameter says.
        published: whether its files can be had from somebody; one's own cannot.
        note: how the clips were found, in one sentence for people; empty if that goes without saying.
    """

    kind: ClassVar[str] = "dataset"
    classes: Sequence[str]
    unseeded: ClassVar[frozenset[str]] = frozenset()
    published: ClassVar[bool] = True
    note: str = ""

    @abstractmethod
    def refs(self) -> list[ClipRef]:
        """All clips, in a fixed order, without reading any."""

    @abstractmethod
    def load(self, ref: ClipRef) -> Tensor:
        """One clip, ``float32 (3, T, H, W)`` in ``[0, 1]``, RGB.

        Raises:
            MissingClip: the file of this clip does not exist.
        """

    def fingerprint(self) -> str:
        """Tells two copies of the data with different content apart; part of every result's identity.

        If it is not overridden: names, sizes and times of :meth:`files`. So results of other files under the same names
        are not taken for results of these; and a copy with other times is another data set, so override this where
        copies on several machines are to share results. Empty where the parameters and the clip ids already say which
        clips these are.
        """
        if self.missing():
            return ""
        digest = hashlib.sha256()
        count = 0
        for name, path in sorted(_found(self.files())):
            status = path.stat()
            digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode(errors="surrogateescape"))
            count += 1
        return digest.hexdigest()[:16] if count else ""

    def files(self) -> Iterable[Path]:
        """Files, and folders of files, from which the clips are read.

        If it is not overridden: those that clip ids name, below a ``root`` or another path that the data set keeps
        among its attributes; and where ids are no names of files, whatever lies at these paths.
        """
        places = _places(self)
        names = [ref.id for ref in self.refs()] if places else []
        named = [place / name for name in names for place in places if _exists(place / name)]
        return named or places

    def fresh(self, count: int, salt: str) -> list[ClipRef]:
        """Clips of the same kind that belong to no split, drawn by ``salt``: an audit asks about them, so that nobody
        can know them by heart. :meth:`load` takes them. Empty where there are none, as of videos that were filmed.
        """
        return []

    def missing(self) -> list[Missing]:
        """Files without which no clip can be loaded; empty when the data set is ready."""
        return []


def _places(thing: object) -> list[Path]:
    """The paths that exist among the attributes of an object and its class."""
    attributes: dict[str, Any] = {}
    for owner in reversed(type(thing).__mro__):
        attributes |= vars(owner)
    attributes |= vars(thing)
    paths = [Path(v) for k, v in attributes.items() if isinstance(v, Path) or (k == "root" and isinstance(v, str))]
    return [path for path in dict.fromkeys(path.expanduser() for path in paths) if _exists(path)]


def _exists(path: Path) -> bool:
    try:
        return os.path.exists(path)
    except ValueError:  # a NUL in an id
        return False


def _found(places: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """All regular files there, each with its number and path in the place; neither hidden ones nor results of a run."""
    for number, place in enumerate(places):
        if place.is_file():
            yield f"{number}/{place.name}", place
        for folder, folders, names in os.walk(place):
            results = _STORE in folders
            folders[:] = [] if results else [name for name in folders if not name.startswith(".")]
            for name in () if results else names:
                path = Path(folder, name)
                if not name.startswith(".") and path.is_file():
                    yield f"{number}/{path.relative_to(place).as_posix()}", path
