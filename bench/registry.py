"""One generic registry: a decorator and a name.

Four registries exist: ``ATTACKS``, ``DEFENSES``, ``DATASETS`` and ``MODELS``. Each finds its entries on
first use, never before: every module of its folder (``attacks/``, ``defenses/``, ``datasets/``,
``bench/models/``) and every entry point that another installed package declares in its group
(``videorobustbench.attacks``, ...). Modules whose name starts with an underscore are helpers and skipped.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.metadata
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from bench import code, userfiles
from bench.errors import BenchError, nearest, short
from bench.modes import float32_by_default

F = TypeVar("F", bound=Callable[..., Any])


class NameClash(BenchError):
    """Two entries of one registry have the same name."""


@dataclass(frozen=True)
class Spec:
    """A component as a grid or the command line names it: a registered name and its parameters.

    Written ``jpeg``, ``jpeg(quality=50)`` or, in YAML, ``{name: jpeg, quality: 50}``, where ``label: mild JPEG`` gives
    it a shorter or clearer name in tables. A name with a colon, ``package.module:attribute``, is imported instead of
    looked up; ``FILE.py:attribute`` is loaded from that file, whose path is made absolute here and left out in tables.
    """

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""

    @classmethod
    def parse(cls, text: str | Mapping[str, Any] | Spec) -> Spec:
        """Reads any of the written forms.

        Raises:
            BenchError: the text is none of them.
        """
        if isinstance(text, Spec):
            return text
        if isinstance(text, Mapping):
            params = dict(text)
            name, label = params.pop("name", None), params.pop("label", "")
            if not isinstance(name, str):
                raise BenchError(f"A component needs a 'name': {dict(text)!r} has none.")
            if not isinstance(label, str):
                raise BenchError(f"The label of {name} must be a text, not {label!r}.")
            return cls(userfiles.absolute(name), params, label)
        match = _NAMED.fullmatch(str(text)) or _FILED.fullmatch(str(text)) or _ADAPTED.fullmatch(str(text))
        if match is None:
            raise BenchError(
                f"Cannot read component {short(text)}: write a name, name(parameter=value) or FILE.py:Class."
            )
        name = userfiles.absolute(match[1])
        if match[2] is None:
            return cls(name)
        try:
            call = ast.parse(f"_{match[2]}", mode="eval").body
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
                raise ValueError("not one call with named parameters")
            params = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords if k.arg is not None}
            if len(params) < len(call.keywords):
                raise ValueError("a parameter is repeated or has no name")
        except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
            raise BenchError(
                f"Cannot read the parameters of {short(text)}: write name(parameter=value, ...) with plain values."
            ) from error
        return cls(name, params)

    @property
    def is_imported(self) -> bool:
        """Whether it is imported, or loaded from a file, instead of looked up."""
        return ":" in self.name or userfiles.split(self.name) is not None

    def __str__(self) -> str:
        if self.label:
            return self.label
        inner = ", ".join(f"{k}={v!r}" for k, v in self.params.items())
        name = userfiles.shown(self.name)
        return f"{name}({inner})" if inner else name


# A name, and a path with spaces and the like in it, each with its parameters.
_NAMED = re.compile(r"\s*([\w.:\-]+)\s*(\(.*\))?\s*", flags=re.DOTALL)
_FILED = re.compile(r"\s*(.+?\.py(?::[\w.\-]+)?)\s*(\(.*\))?\s*", flags=re.DOTALL)
# Adapters of classifiers: a folder behind the colon may hold anything but parentheses.
ADAPTERS = ("hf", "pytorchvideo", "timm", "torchvision")
_ADAPTED = re.compile(rf"\s*((?:{'|'.join(ADAPTERS)}):[^()]+?)\s*(\(.*\))?\s*", flags=re.DOTALL)
_WRAP = "wrap"


@dataclass(frozen=True)
class Parameter:
    """One constructor parameter: its name, annotation, default (``inspect.Parameter.empty`` if none), help."""

    name: str
    annotation: str
    default: Any
    help: str

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty


@dataclass(frozen=True)
class Entry:
    """One registered component.

    Attributes:
        name: what users type.
        factory: class or function that makes it.
        kind: ``attack``, ``defense``, ``dataset`` or ``model``.
        source: the publication it implements, or an empty string.
        origin: file and line (and distribution, if from an entry point), for error messages.
        fixed: plain values that the factory was made with, which are neither in its parameters nor in its code.
    """

    name: str
    factory: Callable[..., Any]
    kind: str
    source: str
    origin: str
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def doc(self) -> str:
        return inspect.getdoc(self.factory) or ""

    @property
    def summary(self) -> str:
        """First sentence of the docstring."""
        return " ".join(self.doc.split("\n\n")[0].split())

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        helps = _parse_args_section(self.doc)
        signature = inspect.signature(self.factory)
        return tuple(
            Parameter(p.name, _annotation(p.annotation), p.default, helps.get(p.name, ""))
            for p in signature.parameters.values()
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        )

    def create(self, params: Mapping[str, Any]) -> Any:
        """Makes the component.

        Raises:
            BenchError: a parameter is unknown or missing, or the component refuses its value or fails otherwise.
        """
        self.check(params)
        try:
            with float32_by_default():
                return self._made(params)
        except BenchError:
            raise
        except ValueError as error:
            raise BenchError(f"{self.kind} {self.name!r} refuses its parameters: {error}") from error
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            given = f" with {', '.join(f'{k}={v!r}' for k, v in params.items())}" if params else ""
            raise BenchError(
                f"{self.kind} {self.name!r} cannot be made{given}: {type(error).__name__}: {error} ({self.origin})"
            ) from error

    def _made(self, params: Mapping[str, Any]) -> Any:
        if not self._is_wrapped(params):
            return self.factory(**params)
        network = self.factory(**{key: value for key, value in params.items() if key != _WRAP})
        return importlib.import_module("bench.models.adapters._wrapped").wrap(network, params[_WRAP])

    def _is_wrapped(self, params: Mapping[str, Any]) -> bool:
        """Whether a classifier is put behind what ``wrap`` says (``docs/classifiers.md``)."""
        return self.kind == "model" and _WRAP in params and all(p.name != _WRAP for p in self.parameters)

    @cached_property
    def open_ended(self) -> bool:
        """Whether it takes parameters that it does not name, and refuses by itself those that it does not know."""
        kinds = {p.kind for p in inspect.signature(self.factory).parameters.values()}
        return inspect.Parameter.VAR_KEYWORD in kinds

    def check(self, params: Mapping[str, Any]) -> None:
        names = [p.name for p in self.parameters]
        for key in params:
            if key not in names and not self.open_ended and not (key == _WRAP and self._is_wrapped(params)):
                takes = ", ".join(names) or "none"
                raise BenchError(
                    f"{self.kind} {self.name!r} has no parameter {key!r}{nearest(key, names)}; it takes: {takes}."
                )
        missing = [p.name for p in self.parameters if p.required and p.name not in params]
        if missing:
            raise BenchError(f"{self.kind} {self.name!r} needs a value for {', '.join(missing)}.")

    def settings(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters with their defaults filled in: what a cell's identity is made of."""
        self.check(params)
        return {**{p.name: p.default for p in self.parameters}, **params}

    @cached_property
    def code(self) -> str:
        """Digest of what the component's code means, see :mod:`bench.code`.

        It is part of a cell's identity: editing a defence, or the sampler it calls, makes its stored outcomes
        stale instead of silently passing them off as results of the new code.
        """
        return code.digest(self.factory)


def _annotation(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return ""
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def _parse_args_section(doc: str) -> dict[str, str]:
    """Reads the ``Args:`` section of a Google-style docstring: ``{parameter: help}``."""
    match = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", doc, flags=re.MULTILINE)
    if match is None:
        return {}
    helps: dict[str, str] = {}
    names: list[str] = []
    for line in textwrap.dedent(match[1]).splitlines():
        head = re.match(r"([\w, *]+?)(?:\s*\(.*?\))?:\s*(.*)", line)
        if head and not line.startswith(" "):
            names = [n.strip(" *") for n in head[1].split(",")]
            helps.update(dict.fromkeys(names, head[2]))
        elif line.strip():
            helps.update({n: f"{helps[n]} {line.strip()}" for n in names})
    return helps


class Registry:
    """Names of one kind of component, discovered lazily.

    Args:
        kind: singular, used in messages: ``defense``.
        package: import name of the folder that is searched: ``bench.defenses``.
        group: entry-point group that other packages use.
    """

    def __init__(self, kind: str, package: str, group: str) -> None:
        self.kind, self.package, self.group = kind, package, group
        self._entries: dict[str, Entry] = {}
        self._discovered = False
        self._distribution: str | None = None
        self.broken: dict[str, str] = {}
        """Modules and entry points that could not be imported, with the reason; the command line shows them."""

    def add(
        self, name: str, factory: Callable[..., Any], source: str = "", fixed: Mapping[str, Any] | None = None
    ) -> Entry:
        """Registers a factory; ``source`` and ``fixed`` are as in :class:`Entry`.

        Raises:
            NameClash: another factory has the name; the message names both origins.
            BenchError: the name cannot be typed on a command line.
        """
        if not re.fullmatch(r"[a-z0-9][a-z0-9_\-.]*", name):
            raise BenchError(
                f"{self.kind} name {name!r} is not usable: use lower-case letters, digits, '_', '-' and '.'."
            )
        entry = Entry(
            name=name,
            factory=factory,
            kind=self.kind,
            source=source,
            origin=self._origin(factory),
            fixed=dict(fixed or {}),
        )
        known = self._entries.get(name)
        if known is not None and known.origin.rpartition(":")[0] != entry.origin.rpartition(":")[0]:
            raise NameClash(
                f"Two {self.kind}s are called {name!r}: one in {known.origin}, one in {entry.origin}. Rename one."
            )
        if known is not None and known.factory.__qualname__ != factory.__qualname__:
            raise NameClash(
                f"Two {self.kind}s are called {name!r}: one in {known.origin}, one in {entry.origin}. Rename one."
            )
        self._entries[name] = entry
        return entry

    def _origin(self, factory: Callable[..., Any]) -> str:
        unwrapped = inspect.unwrap(factory)
        try:
            place = f"{inspect.getsourcefile(unwrapped)}:{inspect.getsourcelines(unwrapped)[1]}"
        except (OSError, TypeError):
            place = f"{factory.__module__}:0"
        return f"{self._distribution} ({place})" if self._distribution else place

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Those that are known so far, by name."""
        return MappingProxyType(self._entries)

    def discover(self) -> None:
        """Imports every module of the folder and every entry point, once.

        A module that fails to import is recorded in :attr:`broken` and does not take the others down; a
        name clash does, because then no result could be attributed.
        """
        if self._discovered:
            return
        self._discovered = True
        package = importlib.import_module(self.package)
        for module in sorted(m.name for m in pkgutil.iter_modules(package.__path__)):
            if not module.startswith("_"):
                self._import(f"{self.package}.{module}", importlib.import_module)
        for point in sorted(importlib.metadata.entry_points(group=self.group), key=lambda p: p.name):
            self._distribution = point.dist.name if point.dist else point.value
            try:
                self._import(point.value, partial(self._load_point, point))
            finally:
                self._distribution = None

    def only(self, name: str, module: str) -> None:
        """Imports one module in place of :meth:`discover`, where that is enough: a process that needs one component
        need not read all.

        Args:
            name: of the component. If the module does not register it, everything is looked through as usual.
            module: in which its factory is defined.
        """
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
        self._discovered = self._discovered or name in self._entries or Spec(name).is_imported

    def _load_point(self, point: importlib.metadata.EntryPoint, _: str) -> None:
        loaded = point.load()
        registered = {id(e.factory) for e in self._entries.values()}
        if callable(loaded) and id(loaded) not in registered:
            self.add(point.name, loaded)

    def _import(self, what: str, load: Callable[[str], Any]) -> None:
        try:
            load(what)
        except NameClash:
            self._discovered = False
            raise
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - somebody else's module, which may even exit; shown, never hidden
            self.broken[what] = f"{type(error).__name__}: {error}"

    def __iter__(self) -> Iterator[Entry]:
        self.discover()
        return iter(sorted(self._entries.values(), key=lambda e: e.name))

    def names(self) -> list[str]:
        return [entry.name for entry in self]

    def get(self, name: str) -> Entry:
        """Looks a name up, imports ``package.module:attribute`` or loads ``FILE.py:attribute``.

        Raises:
            BenchError: there is no such entry; the message gives the nearest name and any module that
                failed to import.
        """
        self.discover()
        if name in self._entries:
            return self._entries[name]
        if userfiles.split(name) is not None:
            return self._from_file(name)
        if self.kind == "model" and name.partition(":")[0] in ADAPTERS and ":" in name:
            return self._adapted(name)
        if ":" in name:
            return self._import_attribute(name)
        # Labels of attacks are read with underscores, as papers write MI-FGSM.
        alike = [entry for known, entry in self._entries.items() if known.replace("-", "_") == name]
        if len(alike) == 1:
            return alike[0]
        broken = "".join(f" Note: {what} could not be imported ({why})." for what, why in self.broken.items())
        raise BenchError(
            f"There is no {self.kind} {name!r}{nearest(name, self._entries)}; known: {', '.join(self.names())}.{broken}"
        )

    def _import_attribute(self, name: str) -> Entry:
        module_name, _, attribute = name.partition(":")
        try:
            module = importlib.import_module(module_name)
        except (ImportError, ValueError, TypeError) as error:
            raise BenchError(
                f"Cannot import {module_name!r} for {self.kind} {name!r}: {error}; "
                "is it installed, or its folder on PYTHONPATH?"
            ) from error
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise BenchError(
                f"Importing {module_name!r} for {self.kind} {name!r} fails: {type(error).__name__}: {error}"
            ) from error
        factory = getattr(module, attribute, None)
        if not callable(factory):
            raise BenchError(f"Module {module_name!r} has no class or function {attribute!r}.")
        return Entry(name=name, factory=factory, kind=self.kind, source="", origin=self._origin(factory))

    def _adapted(self, name: str) -> Entry:
        prefix, _, rest = name.partition(":")
        factory = importlib.import_module(f"bench.models.adapters.{prefix}").factory(rest)
        return Entry(userfiles.shown(name), factory, self.kind, "", self._origin(factory))

    def _from_file(self, name: str) -> Entry:
        place, attribute = userfiles.split(userfiles.absolute(name)) or ("", "")
        path = Path(place)
        module = userfiles.load(path)
        registered = {n: e for n, e in self._entries.items() if e.factory.__module__ == module.__name__}
        if attribute:
            factory = getattr(module, attribute, None)
            factory = registered[attribute].factory if factory is None and attribute in registered else factory
            if not callable(factory):
                raise BenchError(f"{path} has no class or function {attribute!r}.")
        else:
            found = userfiles.candidates(module, self.kind, {n: e.factory for n, e in registered.items()})
            if len(found) != 1:
                which = f"several {self.kind}s: {', '.join(found)}" if found else f"no {self.kind}"
                raise BenchError(f"{path} holds {which}; name the one that is meant, {path.name}:NAME.")
            [(attribute, factory)] = found.items()
        known = next((e for e in registered.values() if e.factory is factory), None)
        return Entry(
            name=f"{path.name}:{attribute}",
            factory=factory,
            kind=self.kind,
            source=known.source if known else "",
            origin=self._origin(factory),
            fixed=known.fixed if known else {},
        )

    def create(self, spec: str | Mapping[str, Any] | Spec) -> Any:
        """Shorthand: parse, look up and make a component."""
        parsed = Spec.parse(spec)
        return self.get(parsed.name).create(parsed.params)


ATTACKS = Registry("attack", "bench.attacks", "videorobustbench.attacks")
DEFENSES = Registry("defense", "bench.defenses", "videorobustbench.defenses")
DATASETS = Registry("dataset", "bench.datasets", "videorobustbench.datasets")
MODELS = Registry("model", "bench.models", "videorobustbench.models")

REGISTRIES: dict[str, Registry] = {r.kind: r for r in (ATTACKS, DEFENSES, DATASETS, MODELS)}


def register(
    name: str, *, source: str = "", kind: str | None = None, fixed: Mapping[str, Any] | None = None
) -> Callable[[F], F]:
    """Puts a class (or factory function) into its registry.

    Args:
        name: what users type: lower-case letters, digits, ``_``, ``-``, ``.``.
        source: the publication it implements: authors, title, venue and year, or an arXiv id.
        kind: ``attack``, ``defense``, ``dataset`` or ``model``; read from the base class if not given.
        fixed: plain values that a factory made at run time was made with. They identify outcomes as its code does.

    Raises:
        NameClash: the name is taken.

    Example:
        >>> from bench import Purifier, register
        >>> @register("my-blur")
        ... class MyBlur(Purifier):
        ...     '''Averages each frame with the one before it.'''
        ...     def purify(self, clips, rng):
        ...         return (clips + clips.roll(1, dims=2)) / 2
    """

    def decorate(factory: F) -> F:
        which = kind or getattr(factory, "kind", None)
        if which not in REGISTRIES:
            raise BenchError(
                f"Cannot register {name!r}: derive it from Attack, Purifier, RobustModel or Dataset, "
                "or say kind='model' for a classifier."
            )
        REGISTRIES[which].add(name, factory, source, fixed)
        return factory

    return decorate
