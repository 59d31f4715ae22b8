"""What identifies code: the meaning of a component's source and of everything it reaches that can change a number.

Moving, reformatting or documenting a file changes no digest; changing a constant does. A digest is taken over syntax
trees without docstrings, comments, import statements, annotations of functions and the words of error messages, as a
set of top-level statements: so it knows neither the name of a module nor which of two modules a function stands in.
Of imports it keeps what a name that is used stands for, where another library could stand for it or an alias does.

Three lists below say to which identities a module of this package belongs. Everything else is followed from the
component that reaches it: a loss belongs to the attack, a geometry to the budget, a network to the classifier, and a
module of the user's own to whatever comes from it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import json
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

# Runs and judges every cell, whatever its components are: part of every identity, by `engine()`.
ENGINE = (
    "bench.attack.target",
    "bench.threat.budgets",
    "bench.defense.defended",
    "bench.defense.base",
    "bench.defense.nature",
    "bench.run.engine",
    "bench.run.judge",
    "bench.plan.cells",
    "bench.plan.expand",
    "bench.plan.probe",
    "bench.run.runner",
    "bench.run.schedule",
    "bench.run.work",
    "bench.seeds",
)
# Cannot change a number of an outcome: it reads, writes, names, shows or checks. Weights have digests of their own.
SILENT = (
    "bench",
    "bench.api",
    "bench.attack.known",  # the moves that a cell runs are written out in its identity
    "bench.audit",
    "bench.board",
    "bench.cli",
    "bench.code",
    "bench.errors",
    "bench.faults",
    "bench.data.pictures",
    "bench.files",
    "bench.grids",
    "bench.modes",
    "bench.origins",
    "bench.plan.classes",  # labels are in the identity of the data set
    "bench.plan.components",
    "bench.plan.cost",
    "bench.plan.moves",
    "bench.ready",
    "bench.records",
    "bench.registry",
    "bench.report",
    "bench.reported",
    "bench.run.alone",
    "bench.run.bank",
    "bench.run.cluster",
    "bench.run.coding",
    "bench.run.control",
    "bench.run.crew",
    "bench.run.export",
    "bench.run.guard",
    "bench.run.kept",
    "bench.run.leases",
    "bench.run.loading",
    "bench.run.pairs",
    "bench.run.provenance",
    "bench.run.remade",
    "bench.run.sample",
    "bench.run.store",
    "bench.run.watching",
    "bench.training",
    "bench.userfiles",
    "bench.weights",
    "bench.zoo",
)
# Enters with the components that reach it.
FOLLOWED = (
    "bench.attack",
    "bench.attacks",
    "bench.data",
    "bench.datasets",
    "bench.defense",
    "bench.defenses",
    "bench.diffusion",
    "bench.flow",
    "bench.models",
    "bench.plan.labels",
    "bench.plan.select",
    "bench.ranges",
    "bench.threat",
)


@lru_cache(maxsize=1024)
def kind_of(module: str) -> str:
    """``engine``, ``silent`` or ``followed``: the longest entry of the lists that is the module or a package around it.

    A module that stands in none of them is followed: what nobody thought of must not hide.
    """
    listed = {name: kind for kind, names in _LISTS.items() for name in names}
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        kind = listed.get(".".join(parts[:length]))
        # The package itself holds names alone; what stands in it has to be listed.
        if kind is not None and (length > 1 or len(parts) == 1):
            return kind
    return "followed"


_LISTS = {"engine": ENGINE, "silent": SILENT, "followed": FOLLOWED}


def digest(*things: Any) -> str:
    """Identity of the code of some classes or functions: 12 hex digits; ``unknown`` if one has no source.

    Args:
        things: classes or functions, or instances, which stand for their class.
    """
    return _hashed(sources(*things))


def sources(*things: Any) -> dict[str, Path] | None:
    """The modules whose meaning :func:`digest` is taken over, by name; ``None`` if a thing has no source."""
    found: dict[str, Path] = {}
    for thing in things:
        factory = inspect.unwrap(thing) if isinstance(thing, type) or inspect.isroutine(thing) else type(thing)
        try:
            file = inspect.getsourcefile(factory)
        except TypeError:  # built in
            file = None
        if file is None or not Path(file).is_file():
            return None
        _collect(factory.__module__, Path(file), factory.__module__.partition(".")[0], found)
    return found


@lru_cache(maxsize=1)
def engine() -> str:
    """Identity of what every cell has in common, as it is written: 12 hex digits. What runs is looked at, too, by
    :func:`bench.origins.engine`."""
    found = {}
    for name in ENGINE:
        spec = _find(name)
        assert spec is not None, f"{name} stands in the list of the engine and is nowhere"
        found[name] = Path(str(spec.origin))
    return _hashed(found)


def is_ours(thing: type) -> bool:
    """Whether a class comes from this package or from a user's own files, not from an installed library."""
    module = thing.__module__
    spec = _find(module)
    return module.partition(".")[0] == "bench" or (spec is not None and _is_users(spec))


def _hashed(modules: dict[str, Path] | None) -> str:
    if modules is None:
        return "unknown"
    # By file: a package that is reached under two names is one.
    read = [_module(_text(file)) for file in set(modules.values())]
    names = {_origin(*used) for module in read for used in module.names}
    statements = [s for module in read for s in module.statements]
    return hashlib.sha256(json.dumps([sorted(names), sorted(statements)]).encode()).hexdigest()[:12]


def _origin(name: str, level: int, module: str, attribute: str) -> tuple[str, str]:
    """What an imported name stands for, without the place of a module of ours or of the user's."""
    spec = None if level else _find(module.partition(".")[0])
    if level or module.partition(".")[0] == "bench" or (spec is not None and _is_users(spec)):
        return ("", "") if name == attribute else (name, attribute)
    return name, f"{module}.{attribute}"


def _collect(module: str, file: Path, package: str, found: dict[str, Path]) -> None:
    """Adds a module, and what it imports of its own ``package``, of this one and of the user's files, to ``found``."""
    found[module] = file
    here = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for level, base, attribute in _module(_text(file)).imports:
        name = importlib.util.resolve_name("." * level + base, here) if level else base
        for wanted in _meant(name, attribute):
            spec = _find(wanted)
            if spec is None or wanted in found or not (spec.origin or "").endswith(".py"):
                continue
            top = wanted.partition(".")[0]
            if kind_of(wanted) == "followed" if top == "bench" else top == package or _is_users(spec):
                _collect(wanted, Path(str(spec.origin)), package, found)


def _meant(name: str, attribute: str) -> Iterator[str]:
    """The modules that ``from name import attribute`` may read: ``name``, and ``name.attribute`` if that is one."""
    spec = _find(name)
    is_package = spec is not None and bool(spec.submodule_search_locations)
    if is_package and name.partition(".")[0] == "bench":
        # The files of our packages only say where their names are: what else is there is not meant.
        home = _home(name, attribute)
        if home != name:
            yield from _meant(home, attribute)
            return
    yield name
    if is_package and attribute:
        yield f"{name}.{attribute}"


def _home(package: str, attribute: str) -> str:
    """The module from which a package of ours takes a name, or the package itself."""
    if package == "bench":  # on first use
        return str(importlib.import_module(package)._HOME.get(attribute, package))
    spec = _find(package)
    imports = _module(_text(Path(str(spec.origin)))).imports if spec is not None else ()
    return next((module for _, module, known in imports if known == attribute), package)


@lru_cache(maxsize=4096)
def _found(module: str, path: tuple[str, ...]) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):  # an optional import that is not there: nothing to digest
        return None


def _find(module: str) -> ModuleSpec | None:
    return _found(module, tuple(sys.path))


@lru_cache(maxsize=1)
def _installed() -> tuple[Path, ...]:
    """Folders of the standard library and of installed distributions."""
    paths = sysconfig.get_paths()
    return tuple(Path(paths[key]).resolve() for key in ("stdlib", "platstdlib", "purelib", "platlib") if key in paths)


def _is_users(spec: ModuleSpec) -> bool:
    """Whether a module is a file of the user's: neither built in nor installed."""
    if spec.origin is None or spec.name.partition(".")[0] in sys.stdlib_module_names:
        return False
    file = Path(spec.origin).resolve()
    if {"site-packages", "dist-packages"} & set(file.parts):  # Debian's, and those of other environments
        return False
    return not any(folder in file.parents for folder in _installed())


@dataclass(frozen=True)
class _Source:
    """A module's text, read.

    Attributes:
        statements: the meaning of its top-level statements.
        imports: all that it imports when it runs: ``(level, module, attribute)``.
        names: of those, what is used: ``(name, level, module, attribute)``.
    """

    statements: tuple[str, ...]
    imports: tuple[tuple[int, str, str], ...]
    names: tuple[tuple[str, int, str, str], ...]


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8")


@lru_cache(maxsize=1024)
def _module(text: str) -> _Source:
    tree = ast.parse(text)
    checked = {id(inner) for node in ast.walk(tree) for inner in _type_checked(node)}
    imports = [i for node in ast.walk(tree) if id(node) not in checked for i in _imports(node)]
    meaning = _Meaning().visit(tree)
    used = {node.id for node in ast.walk(meaning) if isinstance(node, ast.Name)}
    return _Source(
        tuple(_statements(meaning.body)),
        tuple(dict.fromkeys((level, module, attribute) for _, level, module, attribute in imports)),
        tuple(i for i in dict.fromkeys(imports) if i[0] in used),
    )


def _imports(node: ast.AST) -> list[tuple[str, int, str, str]]:
    """``(name, level, module, attribute)`` of an import statement."""
    if isinstance(node, ast.Import):
        return [(a.asname or a.name.partition(".")[0], 0, a.name, "") for a in node.names]
    if isinstance(node, ast.ImportFrom):
        return [(a.asname or a.name, node.level, node.module or "", a.name) for a in node.names]
    return []


def _type_checked(node: ast.AST) -> Iterator[ast.AST]:
    """What only a type checker runs."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        for statement in node.body:
            yield from ast.walk(statement)


def _statements(body: Iterable[ast.stmt]) -> Iterator[str]:
    """Top-level statements, one string each, as they can be moved to another module; what cannot stays one piece.

    Definitions, and assignments to names that are bound once, mean the same wherever they stand. Anything else depends
    on what stands before it.
    """
    body = list(body)
    times = Counter(name for statement in body for name in _bound(statement))
    fixed = []
    for statement in body:
        names = _bound(statement)
        if names and all(times[name] == 1 for name in names):
            yield json.dumps(_plain(statement))
        else:
            fixed.append(_plain(statement))
    if fixed:
        yield json.dumps(fixed)


def _bound(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    targets = (
        statement.targets
        if isinstance(statement, ast.Assign)
        else [statement.target]
        if isinstance(statement, ast.AnnAssign | ast.AugAssign)
        else []
    )
    return [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]


def _plain(node: Any) -> Any:
    """A syntax tree as lists: the same under every version of Python, as fields that are empty are left out."""
    if isinstance(node, ast.AST):
        fields = [[name, _plain(value)] for name, value in ast.iter_fields(node) if name not in ("ctx", "kind")]
        return [type(node).__name__, *(f for f in fields if f[1] not in (None, []))]
    if isinstance(node, list):
        return [_plain(item) for item in node]
    return node if node is None or isinstance(node, str) else repr(node)


class _Meaning(ast.NodeTransformer):
    """Leaves out of a syntax tree what cannot change a number."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        for name in ("body", "orelse", "finalbody"):
            body = getattr(node, name, None)
            if isinstance(body, list):
                kept = [s for s in body if not _says_nothing(s)]
                setattr(node, name, kept or ([ast.Pass()] if body and name == "body" else []))
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        """That it is raised matters, and what; not in which words."""
        if isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
        node.cause = None
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "register":
            node.keywords = [k for k in node.keywords if k.arg != "source"]
        return node


def _says_nothing(statement: ast.AST) -> bool:
    """A string that stands alone is documentation wherever it stands; so is ``__all__``; an import only names."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return True
    if isinstance(statement, ast.Assign):
        return [ast.unparse(target) for target in statement.targets] == ["__all__"]
    if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
        return True
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
