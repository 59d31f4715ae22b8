"""Whether what judges is what ships: the functions of the judge's path, compared with their source files.

A component is Python, and could replace a function of the judge or an entry of a registry when it is imported or asked.
Nothing here keeps it from doing so; it does not stay unnoticed by accident or by a careless trick. Whoever means to
deceive and knows this file can: that is what `bench audit` and a look at the submitted code are for.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from bench import code as sources
from bench.errors import BenchError
from bench.registry import REGISTRIES, Registry

JUDGING = (
    "bench.run.judge",
    "bench.run.engine",
    "bench.run.runner",
    "bench.run.schedule",
    "bench.run.work",
    "bench.run.crew",
    "bench.run.cluster",
    "bench.run.leases",
    "bench.run.store",
    "bench.run.bank",
    "bench.run.coding",
    "bench.run.loading",
    "bench.run.control",
    "bench.run.guard",
    "bench.run.export",
    "bench.plan.cells",
    "bench.plan.probe",
    "bench.defense.base",
    "bench.defense.nature",
    "bench.defense.defended",
    "bench.threat.budgets",
    "bench.threat.norms",
    "bench.threat.regions",
    "bench.threat.ratios",
    "bench.threat.framing",
    "bench.records.identity",
    "bench.records.outcome",
    "bench.records.metrics",
    "bench.records.results",
    "bench.records.checks",
    "bench.report.tables",
    "bench.report.ranking",
    "bench.registry",
    "bench.origins",
    "bench.seeds",
)
"""Modules through which every outcome goes from a clip to a table."""


def check_origins() -> None:
    """Refuses to go on where something of the judge's is not what its file says.

    Raises:
        BenchError: names it, and where what stands in its place comes from.
    """
    found = altered()
    if found:
        raise BenchError(
            f"{found[0]}, so no figure means anything: one of the components that were imported put it there. Leave "
            "that component out."
        )


@lru_cache(maxsize=1)
def engine() -> str:
    """Identity of what every cell has in common: that of the written code, :func:`bench.code.engine`. Where a component
    has put something of its own in the judge's place, it is another one, so that what such a program measures never
    passes for a measurement of this one.
    """
    written, foreign = sources.engine(), altered()
    return hashlib.sha256("\n".join([written, *foreign]).encode()).hexdigest()[:12] if foreign else written


def altered() -> list[str]:
    """What is not as it ships, a clause each; empty if all is."""
    found = [what for name in JUDGING for what in _of_module(importlib.import_module(name))]
    return [*found, *(what for registry in REGISTRIES.values() for what in _of_registry(registry))]


# --- functions and names of modules ---


def _of_module(module: ModuleType) -> Iterator[str]:
    if not Path(str(module.__file__)).is_file():  # installed without sources: there is nothing to compare with
        return
    name, source = module.__name__, _source(str(module.__file__))
    yield from _of_namespace(name, vars(module), source.functions, source.file)
    for owner, functions in source.classes.items():
        there = vars(module).get(owner)
        if isinstance(there, type) and there.__module__ == name:
            yield from _of_namespace(f"{name}.{owner}", vars(there), functions, source.file)
        else:
            yield _replaced(f"{name}.{owner}", there)
    for imported, (origin, attribute) in source.imports.items():
        home = sys.modules.get(origin)
        if home is None:
            continue
        wanted = sys.modules.get(f"{origin}.{attribute}") if attribute not in vars(home) else vars(home)[attribute]
        if wanted is not None and vars(module).get(imported) is not wanted:
            yield _replaced(f"{name}.{imported}", vars(module).get(imported))
    for constant, value in source.constants.items():
        there = vars(module).get(constant)
        if type(there) is not type(value) or there != value:
            yield f"{name}.{constant} is {there!r} and not {value!r}"


def _of_namespace(
    owner: str, namespace: Mapping[str, Any], functions: Mapping[str, tuple[CodeType, bool]], file: str
) -> Iterator[str]:
    for name, (code, decorated) in functions.items():
        there = namespace.get(name)
        if not _is_shipped(there, code, decorated):
            yield _replaced(f"{owner}.{name}", there)


def _is_shipped(there: Any, code: CodeType, decorated: bool) -> bool:
    """Whether something is the function of that code, in the decorators of libraries at most."""
    for _ in range(8):
        if isinstance(there, property):
            there = there.fget
        elif isinstance(there, classmethod | staticmethod):
            there = there.__func__
        elif isinstance(there, FunctionType) and there.__code__ == code:
            return True
        elif not decorated or (isinstance(there, FunctionType) and not _of_a_library(there.__code__.co_filename)):
            return False
        else:  # cached_property keeps what it decorates under another name
            there = getattr(there, "__wrapped__", None) or getattr(there, "func", None)
    return False


def _of_a_library(file: str) -> bool:
    """Whether code is that of Python or an installed library of those that the judge's modules use."""
    roots = {Path(ast.__file__).parent, *(Path(str(sys.modules[n].__file__)).parent for n in ("torch", "pydantic"))}
    return any(Path(file).is_relative_to(root) for root in roots if root.name != "site-packages")


def _replaced(name: str, there: Any) -> str:
    code = getattr(there, "__code__", None)
    where = f"{code.co_filename}:{code.co_firstlineno}" if code else getattr(there, "__module__", type(there).__name__)
    return f"{name} is not the one that bench ships (in its place: {getattr(there, '__qualname__', there)}, {where})"


class _Source:
    """What a source file says that a module holds.

    Attributes:
        functions: by name, the code and whether it is decorated; classes: the same by class.
        imports: names taken from other modules, with module and name there.
        constants: names that are given a plain value once.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        text = Path(file).read_text(encoding="utf-8")
        tree = ast.parse(text)
        code = compile(text, file, "exec", dont_inherit=True)
        self.functions = _functions(tree, code)
        self.classes = {
            node.name: _functions(node, _child(code, node.name)) for node in tree.body if isinstance(node, ast.ClassDef)
        }
        self.imports = {
            alias.asname or alias.name: (node.module, alias.name)
            for node in tree.body
            if isinstance(node, ast.ImportFrom) and node.module and node.module != "__future__"
            for alias in node.names
        }
        self.constants = dict(_constants(tree))


@lru_cache(maxsize=64)
def _source(file: str) -> _Source:
    return _Source(file)


def _child(code: CodeType, name: str) -> CodeType:
    return next(c for c in code.co_consts if isinstance(c, CodeType) and c.co_name == name)


def _functions(tree: ast.Module | ast.ClassDef, code: CodeType) -> dict[str, tuple[CodeType, bool]]:
    defined = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    # Of a name that is defined twice (overloads, setters) the last one stays.
    codes = {c.co_name: c for c in code.co_consts if isinstance(c, CodeType)}
    return {node.name: (codes[node.name], bool(node.decorator_list)) for node in defined}


def _constants(tree: ast.Module) -> Iterator[tuple[str, Any]]:
    given: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            given[node.id] = given.get(node.id, 0) + 1
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name = statement.targets[0].id
            try:
                value = ast.literal_eval(statement.value)
            except ValueError:
                continue
            if given[name] == 1 and isinstance(value, str | int | float | tuple):
                yield name, value


# --- entries of registries ---


def _of_registry(registry: Registry) -> Iterator[str]:
    """A name that ships stands for the class or function of its own file."""
    for name, (module, factory) in _shipped(registry.package).items():
        entry = registry.entries.get(name)
        if entry is None:  # not imported, or refused as broken
            continue
        there, home = entry.factory, sys.modules.get(module)
        own = (there.__module__, there.__qualname__) == (module, factory) and getattr(home, factory, None) is there
        if not own:
            yield _replaced(f"{registry.kind} {name!r}", there)


@lru_cache(maxsize=16)
def _shipped(package: str) -> dict[str, tuple[str, str]]:
    """What the files of a package register: by name, the module and the name there of the class or function."""
    found: dict[str, tuple[str, str]] = {}
    for folder in importlib.import_module(package).__path__:
        for file in sorted(Path(folder).glob("*.py")):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            for node in tree.body:
                if isinstance(node, ast.ClassDef | ast.FunctionDef):
                    found |= dict.fromkeys(_registered(node.decorator_list), (f"{package}.{file.stem}", node.name))
    return found


def _registered(decorators: Iterable[ast.expr]) -> Iterator[str]:
    for call in decorators:
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "register" and call.args:
            yield ast.literal_eval(call.args[0])
