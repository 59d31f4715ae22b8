"""Whose fault an exception is: a component's, which its outcomes are charged with, or the machine's, which nobody is.

A full disk, a lock that is held, too little memory or a lost GPU say nothing about a defence. A run stops there and
goes on later; what a component raises is written down with the clip and counts against it.
"""

from __future__ import annotations

import errno
import re
import sqlite3
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.errors import BenchError

# What the system says of itself, and not of a file that somebody named.
_SYSTEM = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EROFS", "EMFILE", "ENFILE", "ENOMEM", "EAGAIN", "ESTALE", "ENXIO")
    if hasattr(errno, name)
}
# Libraries written in other languages put the number of the system's error into their message.
_OS_ERROR = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\]")
_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "_status_alloc_failed")
_NO_DISK = ("failed writing file", "file write failed")
_NO_DEVICE = ("cuda error", "hip error", "cudnn_status_", "cublas_status_", "cuda driver", "no cuda gpus")
# Characters of a traceback that are kept: its end says most.
_LONGEST = 20_000


class MachineFault(BenchError):
    """The machine failed, and no component. Nothing is charged; what was finished is stored."""


@dataclass(frozen=True)
class Failure:
    """An exception, without what it holds on to.

    Attributes:
        message: its kind, the first line of what it says, and file and line of the component's code.
        traceback: all of it, with paths from the folders of modules on.
        machine: what is wrong with the machine, in words; empty if the component is to blame.
        memory: whether it is memory that was lacking, which a smaller batch may mend.
    """

    message: str
    traceback: str
    machine: str = ""
    memory: bool = False

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """What an exception says, and whose fault it is."""
        lines = str(error).strip().splitlines()
        place = _place(error)
        message = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
        memory = any(map(_lacks_memory, _chain(error)))
        return cls(
            message=f"{message} ({place})" if place else message,
            traceback=_shortened("".join(traceback.format_exception(error)))[-_LONGEST:],
            machine="there is not enough memory" if memory else machine_fault(error),
            memory=memory,
        )


def machine_fault(error: BaseException) -> str:
    """What is wrong with the machine, in words; empty if an exception does not say that anything is."""
    for one in _chain(error):
        if _lacks_memory(one):
            return "there is not enough memory"
        text = (str(one).strip() or type(one).__name__).splitlines()[0]
        if isinstance(one, sqlite3.Error) or _system_error(one) in _SYSTEM or _says(one, _NO_DISK):
            return text
        lost = isinstance(one, getattr(torch, "AcceleratorError", ())) or _says(one, _NO_DEVICE)
        if isinstance(one, RuntimeError) and lost:
            return f"the device failed ({text})"
    return ""


def charge_no_machine(error: BaseException, what: str) -> None:
    """Lets pass what a component is to be charged with.

    Args:
        what: was not done, in words.

    Raises:
        MachineFault: it is the machine's fault.
    """
    if isinstance(error, MachineFault):
        raise error
    fault = machine_fault(error)
    if fault:
        raise MachineFault(
            f"{what} ({fault}). Nobody is charged with it; what was finished is stored, and the same command goes on."
        ) from error


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and those that it was raised from."""
    one: BaseException | None = error
    seen: set[int] = set()
    while one is not None and id(one) not in seen:
        yield one
        seen.add(id(one))
        one = one.__cause__


def _lacks_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _says(error, _NO_MEMORY)


def _says(error: BaseException, words: tuple[str, ...]) -> bool:
    text = str(error).lower()
    return any(word in text for word in words)


def _system_error(error: BaseException) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    found = _OS_ERROR.search(str(error))
    return int(found[1] or found[2]) if found else None


def _folders() -> list[str]:
    """The folders of modules, the innermost first."""
    return sorted({str(Path(place or ".").resolve()) for place in sys.path}, key=len, reverse=True)


def _shortened(text: str) -> str:
    """Paths from the folder of modules on: they are the same on another machine, and say nothing about this one."""
    for folder in _folders():
        text = text.replace(f'"{folder}/', '"')
    return text


def _place(error: BaseException) -> str:
    """File and line of the innermost code that is no installed library; empty if there is none."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<")]
    own = [f for f in frames if not {"site-packages", "dist-packages"} & set(Path(f.filename).parts)]
    if not own:
        return ""
    return f"{_shortened(chr(34) + own[-1].filename)[1:]}:{own[-1].lineno}"
