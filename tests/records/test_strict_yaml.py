"""YAML that means what it says."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench import BenchError
from bench.grids.grid import shipped_grids
from bench.records.strict_yaml import read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 10", {"a": 10}),
        ("a: -0", {"a": 0}),
        ("a: 1.5e-3", {"a": 0.0015}),
        ("a: 1e5", {"a": 100000.0}),
        ("a: .5", {"a": 0.5}),
        ("a: 4/255", {"a": "4/255"}),
        ("a: true\nb: False", {"a": True, "b": False}),
        ("a: null\nb: ~\nc:", {"a": None, "b": None, "c": None}),
        ("a: nl_tiny\nb: none\nc: Noise", {"a": "nl_tiny", "b": "none", "c": "Noise"}),
        ("a: 'yes'\nb: \"010\"", {"a": "yes", "b": "010"}),
        ("a: trueish\nb: 3d\nc: 1.2.3", {"a": "trueish", "b": "3d", "c": "1.2.3"}),
        ("a: &x [1, 2]\nb: *x", {"a": [1, 2], "b": [1, 2]}),
        ("a: &x {b: 1}\nc: {<<: *x, d: 2}", {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
        ("{ a: 1,\n  2: b }", {"a": 1, 2: "b"}),
    ],
)
def test_values_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    assert read_yaml(text, "It") == value


def test_shipped_grids_mean_what_the_safe_loader_reads() -> None:
    for path in shipped_grids().values():
        text = path.read_text(encoding="utf-8")
        assert read_yaml(text, path.name) == yaml.safe_load(text)


# Ten references to ten references to ...: a billion values in a few hundred characters.
LAUGHS = "a0: &a0 [1]\n" + "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: 'a' stands in line 1 and again in line 3"),
        ("x:\n  - {steps: 5, size: 1, steps: 50}", "'steps' stands in line 2 and again in line 2"),
        ("size: 010", "line 1: 010 may be read as a number in base 8 or in base 10"),
        ("size: 0x1F", "another base"),
        ("size: 1:30", "a number in base 60 or a text"),
        ("size: 1_000", "a number or a text"),
        ("timed: yes", "a truth value or a text"),
        ("a: {on: 1}", "a truth value or a text"),
        ("title: 2026-11-27", "a date or a text"),
        ("a: [", "line 1"),
        ("a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a: \u0000", "special characters are not allowed"),
        ("? [1]\n: 2", "a key must be a word"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("a: &x [*x]", "no end"),
        ("- " * 100_000, "nested too deeply"),
        ("x" * (1 << 21), "no settings file"),
        (LAUGHS, "no end"),
        ("a: " + "-" * 100_000, "a text of 100000 characters"),
    ],
    ids=lambda value: value[:40],
)
def test_what_is_not_clear_or_no_settings_is_refused_quickly(text: str, words: str) -> None:
    begun = time.monotonic()
    with pytest.raises(BenchError) as raised:
        read_yaml(text, "It")
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 500
    assert time.monotonic() - begun < 20


def test_numbers_without_end_are_texts() -> None:
    assert read_yaml("a: " + "9" * 5000, "It") == {"a": "9" * 5000}


def test_no_file_is_one_sentence(tmp_path: Path) -> None:
    from bench.grids.grid import read_grid

    (tmp_path / "g.yaml").mkdir()
    with pytest.raises(BenchError, match="Cannot read grid file"):
        read_grid(tmp_path / "g.yaml")
    (tmp_path / "h.yaml").write_bytes(b"title: \xff")
    with pytest.raises(BenchError, match="is not UTF-8 text"):
        read_grid(tmp_path / "h.yaml")
