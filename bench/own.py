"""Components in files of the user's own: ``noise.py``, ``/home/me/noise.py:Noise``.

A file becomes a module under a name made of its place, which every process that meets the same path gives it, so that
what it defines can be looked up, digested and sent to another process. Its folder comes last among the places of
modules, so that it may import its neighbours.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import re
import sys
from collections.abc import Sequence
from hashlib import sha256
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from bench.errors import BenchError

ENDING = ".py"
_NAME = re.compile(r"(?P<file>.*\.py)(?::(?P<attribute>\w+))?", re.DOTALL)
_WRITTEN = re.compile(r"\s*([^\n()]*?\.py)(?![\w.])")

_files: dict[str, Path] = {}


def is_file(name: str) -> bool:
    """Whether a component's name is that of a file, ``FILE.py`` or ``FILE.py:ATTRIBUTE``."""
    return _NAME.fullmatch(name) is not None


def parts(name: str) -> tuple[Path, str]:
    """The file that a name names, and the attribute; none is an empty text."""
    match = _NAME.fullmatch(name)
    assert match is not None
    return Path(match["file"]), match["attribute"] or ""


def rooted(name: str, folder: Path) -> str:
    """A name with the whole path of its file, which counts from a folder; other names as they are."""
    if not is_file(name):
        return name
    file, attribute = parts(name)
    path = (folder / file.expanduser()).absolute()
    return f"{path}:{attribute}" if attribute else str(path)


def written(text: str, folder: Path) -> str:
    """A component as it is written, with parameters and what else may follow; rooted if it begins with a file."""
    match = _WRITTEN.match(text)
    return f"{rooted(match[1], folder)}{text[match.end() :]}" if match is not None else text


def short(name: str) -> str:
    """A name with that of its file in place of the path: what is shown, and what identifies outcomes."""
    if not is_file(name):
        return name
    file, attribute = parts(name)
    return f"{file.name}:{attribute}" if attribute else file.name


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules that files have become."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        file = _files.get(fullname)
        return importlib.util.spec_from_file_location(fullname, file) if file is not None else None


def load(name: str) -> ModuleType:
    """The module of a file, imported once.

    Raises:
        BenchError: the file is absent, or cannot be imported.
    """
    file = parts(name)[0].expanduser().absolute()
    if not file.is_file():
        raise BenchError(f"There is no file {file}: give the path of a Python file, FILE.py or FILE.py:NAME.")
    module = _module_name(file)
    _files[module] = file
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    try:
        return importlib.import_module(module)
    except (KeyboardInterrupt, BenchError):
        raise
    except BaseException as error:  # it may even exit
        raise BenchError(f"{file} cannot be imported: {type(error).__name__}: {error}.") from error


def _module_name(file: Path) -> str:
    stem = re.sub(r"\W", "_", file.stem)
    return f"own_{stem}_{sha256(str(file.resolve()).encode(errors='surrogateescape')).hexdigest()[:8]}"
