"""YAML that means what it says: what two readers read in two ways is refused, with its line."""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node, ScalarNode

from bench.errors import BenchError

# Far more than any grid has.
_DEEPEST, _LONGEST, _LONGEST_TEXT, _MOST_VALUES = 40, 1 << 20, 20_000, 100_000

_NUMBER = r"[-+]?(?:0|[1-9][0-9]{0,29})(?:\.[0-9]*)?(?:[eE][-+]?[0-9]{1,3})?|[-+]?\.[0-9]+"
_TWOFOLD: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"[-+]?0[0-9_]+"), "a number in base 8 or in base 10"),
    (re.compile(r"[-+]?0[box][0-9a-fA-F_]+"), "a number in another base or a text"),
    (re.compile(r"[-+]?[0-9][0-9_]*(?::[0-9]{1,2})+(?:\.[0-9_]*)?"), "a number in base 60 or a text"),
    (re.compile(r"[-+]?[0-9][0-9]*_[0-9_]*(?:\.[0-9_]*)?"), "a number or a text"),
    (re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}.*"), "a date or a text"),
    (re.compile(r"yes|no|on|off|y|n", re.IGNORECASE), "a truth value or a text"),
)


class _Loader(yaml.SafeLoader):
    """The safe loader, without the meanings that YAML 1.1 sees and YAML 1.2 does not."""

    depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise ConstructorError(None, None, "it is nested too deeply", self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str | int | float | bool):
                raise ConstructorError(None, None, "a key must be a word", key_node.start_mark)
            if key in seen:
                raise ConstructorError(
                    None, None, f"{key!r} stands in line {seen[key]} and again in line {line}", key_node.start_mark
                )
            seen[key] = line
        found: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return found

    def refuse_twofold(self, node: ScalarNode) -> str:
        """A plain text, if nobody takes it for anything else."""
        if len(node.value) > _LONGEST_TEXT:
            problem = f"a text of {len(node.value)} characters, and {_LONGEST_TEXT} are the most"
            raise ConstructorError(None, None, problem, node.start_mark)
        for pattern, meanings in _TWOFOLD:
            if node.style is None and pattern.fullmatch(node.value):
                raise ConstructorError(
                    None,
                    None,
                    f"{node.value} may be read as {meanings}: write it in quotes, or as the number that is meant",
                    node.start_mark,
                )
        return str(self.construct_scalar(node))

    def plain_number(self, node: ScalarNode) -> int | float:
        """An integer of decimal digits."""
        return int(node.value)


# By the first character, as PyYAML looks them up; those of the parent are shared by all loaders and stay as they are.
_Loader.yaml_implicit_resolvers = {}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?(?:0|[1-9][0-9]{0,29})$"), list("-+0123456789")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(rf"(?:{_NUMBER})$"), list("-+0123456789."))
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"<<$"), ["<"])
_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.refuse_twofold)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.plain_number)


def read_yaml(text: str, what: str) -> Any:
    """The value of a YAML text.

    Args:
        what: is read, for messages.

    Raises:
        BenchError: it is not YAML, a key stands twice, a value can be read in two ways, or it is larger or deeper than
            anything that a person writes.
    """
    if len(text) > _LONGEST:
        raise BenchError(f"{what} has {len(text)} characters, and {_LONGEST} are the most: it is no settings file.")
    try:
        value = yaml.load(text, Loader=_Loader)  # a safe loader: see above
    except RecursionError as error:
        raise BenchError(f"{what} is not YAML that can be read: it is nested too deeply.") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error)
        raise BenchError(f"{what} is not YAML that can be read: {where}{_cut(problem)}.") from error
    _check_size(value, what)
    return value


def _cut(text: str) -> str:
    line = " ".join(text.split()).rstrip(".")
    return line if len(line) <= 300 else f"{line[:200]} ... {line[-80:]}"


def _check_size(value: Any, what: str) -> None:
    """Refuses what references to other places blow up: each alone is short."""
    left, values = [(value, 0)], 0
    while left:
        inner, depth = left.pop()
        values += 1
        if depth > _DEEPEST or values > _MOST_VALUES:
            raise BenchError(f"{what} is not YAML that can be read: its references to other places have no end.")
        if isinstance(inner, dict):
            left += [(item, depth + 1) for item in inner.values()]
        elif isinstance(inner, list):
            left += [(item, depth + 1) for item in inner]
