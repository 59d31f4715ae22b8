"""Teaches Griffe the habits of this project's docstrings (extension of Griffe, see ``mkdocs.yml``).

Roles: ``:class:`~bench.attack.Target``` becomes a link to the place where ``Target`` is documented, or plain code if it
is documented nowhere. A name is looked up where the docstring stands, then outwards, as Python would.

Shared lines: ``mean, std: statistics of the data`` under ``Args:`` is read as a line for each of the names.

Registration: the name and the source that ``@register`` gives end the description.

Passed on: parameters that go through ``**kwargs`` may be documented; elsewhere one that does not exist is an error.
"""

from __future__ import annotations

import ast
import re
from typing import Any, cast

import griffe

_ROLE = re.compile(r":[a-z]+:`(?P<tilde>~?)(?P<name>[\w.]+)(?P<rest>[^`]*)`")
_SHARED = re.compile(r"^( +)(\*{0,2}\w+(?:, \*{0,2}\w+)+)(:.*(?:\n\1 +.*)*)", flags=re.MULTILINE)


class HouseStyle(griffe.Extension):
    """Rewrites docstrings before they are parsed."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **_: Any) -> None:
        self._rewrite(pkg, pkg)

    def _rewrite(self, thing: griffe.Object, package: griffe.Module) -> None:
        if thing.docstring is not None:
            text = _SHARED.sub(_each, thing.docstring.value) + _registration(thing)
            thing.docstring.value = _ROLE.sub(lambda role: _reference(role, thing, package), text)
            if isinstance(thing, griffe.Class | griffe.Function) and any(
                parameter.kind is griffe.ParameterKind.var_keyword for parameter in thing.parameters
            ):
                passed_on = {"warn_unknown_params": False, "warn_missing_types": False}
                options = {**thing.docstring.parser_options, **passed_on}
                thing.docstring.parser_options = cast(griffe.GoogleOptions, options)
        for member in thing.members.values():
            if isinstance(member, griffe.Object):
                self._rewrite(member, package)


def _each(line: re.Match[str]) -> str:
    """``a, b: text`` as one line for ``a`` and one for ``b``."""
    indent, names, text = line.groups()
    return "\n".join(f"{indent}{name}{text}" for name in names.split(", "))


def _registration(thing: griffe.Object) -> str:
    if not isinstance(thing, griffe.Class | griffe.Function):
        return ""
    for decorator in thing.decorators:
        call = ast.parse(str(decorator.value), mode="eval").body
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "register":
            name, source = call.args[0], {keyword.arg: keyword.value for keyword in call.keywords}.get("source")
            told = f" Source: {source.value!s}." if isinstance(source, ast.Constant) else ""
            return f"\n\nRegistered as `{ast.literal_eval(name)}`.{told}"
    return ""


def _reference(role: re.Match[str], where: griffe.Object, package: griffe.Module) -> str:
    name = role["name"]
    shown = name.rpartition(".")[2] if role["tilde"] else name
    path = _find(name, where, package)
    code = f"<code>{shown}{role['rest']}</code>"
    return f'<autoref identifier="{path}" optional>{code}</autoref>' if path else f"`{shown}{role['rest']}`"


def _find(name: str, where: griffe.Object, package: griffe.Module) -> str | None:
    """Full path of what a name stands for, seen from an object."""
    head, *rest = name.split(".")
    if head == package.name:
        return name
    scope: griffe.Object | None = where
    while scope is not None:
        members = scope.all_members if scope.is_class else scope.members
        if head in members:
            return ".".join([members[head].canonical_path, *rest])
        scope = scope.parent
    return None
