"""Components from a file of the user's own: ``./my/file.py:Class``, or ``./my/file.py`` where it holds only one.

A file is loaded once for each of its contents, as a module of a package of its own that stands for its folder: so it
may import what lies beside it (``from .helper import f``), hides no installed module, and two files of one name never
meet. Where the file lies is no part of what identifies a component; what it says is, by :mod:`bench.code`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from bench.errors import BenchError

_FOLDER = "hf:"  # a classifier in the format of transformers, whose folder is treated as a file's path is
_FILE = re.compile(r"(?P<path>.+?\.py)(?::(?P<attribute>[\w.\-]+))?", flags=re.DOTALL)


def split(name: str) -> tuple[str, str] | None:
    """Path and attribute of ``FILE.py`` or ``FILE.py:attribute``; ``None`` if the name is of another kind."""
    match = _FILE.fullmatch(name)
    return (match["path"], match["attribute"] or "") if match is not None else None


def absolute(name: str, folder: Path | None = None) -> str:
    """A name of that kind with the whole path in it, so that it means the same in every working folder; any other name
    as it is.

    Args:
        name: of a component.
        folder: that relative paths start from; the working folder if not given.
    """
    parts = split(name)
    if name.startswith(_FOLDER):
        place = (folder or Path()) / os.path.expanduser(name.removeprefix(_FOLDER))
        return f"{_FOLDER}{os.path.abspath(place)}" if place.is_dir() else name
    if parts is None:
        return name
    path = os.path.abspath((folder or Path()) / os.path.expanduser(parts[0]))
    return f"{path}:{parts[1]}" if parts[1] else path


def shown(name: str) -> str:
    """A name of that kind without its folders, as tables show it; any other name as it is."""
    parts = split(name)
    if name.startswith(_FOLDER) and Path(name.removeprefix(_FOLDER)).is_absolute():
        return f"{_FOLDER}{Path(name).name}"
    if parts is None:
        return name
    file = Path(parts[0]).name
    return f"{file}:{parts[1]}" if parts[1] else file


def load(path: Path) -> ModuleType:
    """The module that a file holds; one that this program has imported already under another name is that one.

    Raises:
        BenchError: there is no such file, it is no Python, or it fails.
    """
    if path.is_dir():
        raise BenchError(f"{path} is a folder: give a .py file in it, FILE.py:Class.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BenchError(f"Cannot read {path}: {error.strerror or error}; give the path of a .py file.") from error
    places = {str(path), os.path.realpath(path)}
    for name, module in list(sys.modules.items()):
        if name != "__main__" and not name.startswith(_PREFIX) and getattr(module, "__file__", None) in places:
            return module
    package = f"{_PREFIX}{_short(str(path.parent).encode())}"
    name = f"{package}.m{_short(content)}_{re.sub(r'[^0-9a-zA-Z_]', '_', path.stem)}"
    return sys.modules[name] if name in sys.modules else _execute(path, content, package, name)


_PREFIX = "bench_file_"


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _execute(path: Path, content: bytes, package: str, name: str) -> ModuleType:
    if package not in sys.modules:
        around = ModuleType(package, "The folder of a component's file.")
        around.__path__ = [str(path.parent)]
        around.__spec__ = importlib.util.spec_from_loader(package, None, is_package=True)
        sys.modules[package] = around
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        # What was read, and no compiled file of an older text that was written within the same tick of the clock.
        exec(compile(content, str(path), "exec", dont_inherit=True), vars(module))
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, (BenchError, KeyboardInterrupt)):
            raise
        raise BenchError(_why(path, error)) from error
    return module


def _why(path: Path, error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"{path} is no Python that this version reads: {error.msg} (line {error.lineno})."
    missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if missing and any((path.parent / missing).with_suffix(end).exists() for end in ("", ".py")):
        return (
            f"{path} imports {missing!r}, which lies beside it: write 'from .{missing} import ...' there, or put its "
            "folder on PYTHONPATH."
        )
    return f"{path} cannot be loaded: {type(error).__name__}: {error}."


def candidates(module: ModuleType, kind: str, registered: dict[str, Callable[..., Any]]) -> dict[str, Any]:
    """The components of a kind that a module defines or registers, by the name to be written behind the colon.

    Args:
        kind: ``attack``, ``defense``, ``dataset`` or ``model``; a model is a network class or a function.
        registered: what the module has registered of that kind, by registered name.
    """
    own = {
        name: thing
        for name, thing in vars(module).items()
        if not name.startswith("_") and getattr(thing, "__module__", "") == module.__name__ and _is(thing, kind)
    }
    return own | {name: f for name, f in registered.items() if all(f is not thing for thing in own.values())}


def _is(thing: Any, kind: str) -> bool:
    if not isinstance(thing, type):
        return kind == "model" and inspect.isfunction(thing)
    if inspect.isabstract(thing):
        return False
    network = getattr(sys.modules.get("torch.nn"), "Module", None)
    is_network = kind == "model" and network is not None and issubclass(thing, network)
    return getattr(thing, "kind", "model" if is_network else None) == kind
