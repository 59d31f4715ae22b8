"""Grids that are damaged, odd or invented: refused in one sentence, or read as what they say.

``BENCH_FUZZ=20`` tries twenty times as many.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from kit.fuzz import cases, lines, mutated, torn

from bench import BenchError, Budget
from bench.grids.grid import Grid, override, read_grid, shipped_grids
from bench.plan.components import budgets_of
from bench.records.strict_yaml import read_yaml
from bench.registry import Spec

SHIPPED = {name: path.read_bytes() for name, path in shipped_grids().items()}
SEEDS = st.integers(0, 2**32)


def read(content: bytes, folder: Path) -> Grid | None:
    """A grid of that content, if it is one; all of its parts can be read then, too."""
    file = folder / "fuzzed.yaml"
    file.write_bytes(content)
    try:
        grid = read_grid(file)
        for section in grid.attack_sections:
            for budget in budgets_of(grid, section).values():
                assert 0 <= float(budget.size) < math.inf
                assert budget.norm not in ("linf", "one-frame", "flicker") or float(budget.size) <= 1
    except BenchError as error:
        text = str(error)
        assert "\n" not in text
        assert len(text) < 8000
        return None
    return grid


def doubled(node: Any) -> Iterator[str]:
    """Keys that stand twice in a mapping of a YAML text, by PyYAML's own nodes."""
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value]
        yield from (key for key in keys if keys.count(key) > 1)
        for key, value in node.value:
            yield from (*doubled(key), *doubled(value))
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from doubled(value)


@cases(300)
@given(seed=SEEDS)
def test_bytes_of_shipped_grids(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = random.Random(seed)
    content = torn(SHIPPED[rng.choice(sorted(SHIPPED))], rng)
    if read(content, folder_of(tmp_path_factory)) is not None:
        assert not list(doubled(yaml.compose(content.decode("utf-8-sig"), Loader=yaml.SafeLoader)))


@cases(400)
@given(seed=SEEDS)
def test_values_of_shipped_grids(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A grid that is read says the same once it is written and read again, and no number comes from a truth value."""
    rng = random.Random(seed)
    changed, _ = mutated(yaml.safe_load(SHIPPED[rng.choice(sorted(SHIPPED))]), rng)
    try:
        content = lines(changed).encode()  # JSON is YAML
    except ValueError:
        return
    grid = read(content, folder_of(tmp_path_factory))
    if grid is not None:
        for key in ("seed", "queries"):
            assert type(getattr(grid, key)) is int
        again = read(json.dumps(changed, indent=1).encode(), folder_of(tmp_path_factory))
        assert again == grid


@cases(300)
@given(text=st.text(max_size=60))
def test_any_text_as_yaml(text: str) -> None:
    """What is taken, the safe loader takes for the same, or for something that only YAML 1.1 sees in it."""
    try:
        value = read_yaml(text, "It")
    except BenchError as error:
        told = str(error)
        assert "\n" not in told
        return
    theirs = yaml.safe_load(text)
    assert value == theirs or isinstance(value, str | float) or isinstance(theirs, list | dict)


@cases(300)
@given(
    value=st.one_of(
        st.text(max_size=30),
        st.from_regex(r"[-+]?[0-9./eE ]{1,20}", fullmatch=True),
        st.floats(),
        st.integers(),
        st.booleans(),
        st.none(),
        st.lists(st.integers(), max_size=2),
    ),
    norm=st.sampled_from(["linf", "l2", "one-frame", "flicker", "border", "pixels", "mult-linf", "nonsense"]),
)
def test_sizes(value: Any, norm: str) -> None:
    try:
        size = float(Budget.parse({"norm": norm, "size": value}).size)
    except BenchError as error:
        told = str(error)
        assert "\n" not in told
        return
    assert 0 <= size < math.inf
    if isinstance(value, str):
        top, _, bottom = value.partition("/")
        assert size == pytest.approx(float(top) / float(bottom or 1))
    else:
        assert not isinstance(value, bool)
        assert size == value


@cases(300)
@given(text=st.one_of(st.text(max_size=40), st.from_regex(r"[a-z]{1,5}\([a-z=,0-9'\[\]{}()-]{0,30}\)", fullmatch=True)))
def test_components(text: str) -> None:
    try:
        spec = Spec.parse(text)
    except BenchError as error:
        told = str(error)
        assert "\n" not in told
        return
    assert text.strip().startswith(spec.name)
    assert Spec.parse(str(spec)) == spec


@cases(200)
@given(
    attacks=st.lists(st.text(max_size=20), max_size=2),
    defenses=st.lists(st.text(max_size=20), max_size=2),
    clips=st.one_of(st.none(), st.integers(-3, 3)),
)
def test_the_command_line(attacks: list[str], defenses: list[str], clips: int | None) -> None:
    try:
        grid = override(DEMO, attacks=attacks, defenses=defenses, clips=clips)
    except BenchError as error:
        told = str(error)
        assert "\n" not in told
        return
    assert str(grid.defense_specs[0]) == "none"
    assert grid.attack_sections[0].label == "clean"


DEMO = read_grid(shipped_grids()["demo"])
_FOLDERS: list[Path] = []


def folder_of(factory: pytest.TempPathFactory) -> Path:
    """One for all cases."""
    if not _FOLDERS:
        _FOLDERS.append(factory.mktemp("grids"))
    return _FOLDERS[0]
