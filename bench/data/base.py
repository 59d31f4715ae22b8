"""Base class of data sets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor


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


class MissingClip(Exception):
    """One clip of the list has no file. The runner counts it as missing, never as robust."""


class Dataset(ABC):
    """A labelled list of clips.

    Parameters of the constructor belong to the identity of every result, except ``root``, the place of the
    files on this machine.

    Attributes:
        classes: class names in label order; empty if they are not known. A classifier must have as many, or more.
    """

    kind: ClassVar[str] = "dataset"
    classes: Sequence[str]

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

        Empty where the parameters and the clip ids already say which clips these are.
        """
        return ""

    def fresh(self, count: int, salt: str) -> list[ClipRef]:
        """Clips of the same kind that belong to no split, drawn by ``salt``: an audit asks about them, so that nobody
        can know them by heart. :meth:`load` takes them. Empty where there are none, as of videos that were filmed.
        """
        return []

    def missing(self) -> list[Missing]:
        """Files without which no clip can be loaded; empty when the data set is ready."""
        return []
