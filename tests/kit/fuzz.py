"""Fuzzing: how many cases, and JSON that is changed in one place."""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, settings

MORE = int(os.environ.get("BENCH_FUZZ", "1"))
"""How many times as many cases as in the suite."""


def cases(count: int) -> settings:
    """So many examples, the same in every run."""
    return settings(
        max_examples=MORE * count,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to all values inside a JSON value."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for i in range(len(value)):
            yield from places(value[i], (*path, i))


# What one value may become: other kinds, other sizes, things that look alike.
_NUMBERS = (0, 1, -1, 2, 7, 0.5, -0.5, 1e300, 10**30)
_TEXTS = ("", "0", "1", "ok", "nan", "\u0000", "a|b", "<b>x</b>", "[/]", "x\ny", "x" * 400, "\ud800")
ODD: tuple[Any, ...] = (None, True, False, [], [0], [[]], {}, {"a": 1}, *_NUMBERS, *_TEXTS)


def mutated(value: Any, rng: random.Random) -> tuple[Any, tuple[Any, ...]]:
    """A JSON value that is another one in one place, and that place."""
    changed = copy.deepcopy(value)
    path = rng.choice([p for p in places(changed) if p])
    inner = changed
    for step in path[:-1]:
        inner = inner[step]
    old, how = inner[path[-1]], rng.randrange(5)
    if how == 0:
        del inner[path[-1]]
    elif how == 1 and isinstance(inner, list):
        inner.insert(path[-1], copy.deepcopy(old))
    elif how == 1:
        inner[f"{path[-1]}_"] = old
    elif how == 2 and isinstance(old, bool):
        inner[path[-1]] = not old
    elif how == 2 and isinstance(old, int | float):
        inner[path[-1]] = rng.choice([old + 1, old - 1, -old, old * 2, old * 0.999, float(old), str(old)])
    elif how == 3:
        others = [p for p in places(value) if p and type(p[-1]) is type(path[-1])]
        inner[path[-1]] = copy.deepcopy(at(value, rng.choice(others)))
    else:
        inner[path[-1]] = copy.deepcopy(rng.choice(ODD))
    return changed, path


def at(value: Any, path: tuple[Any, ...]) -> Any:
    """The value in a place."""
    for step in path:
        value = value[step]
    return value


def torn(data: bytes, rng: random.Random) -> bytes:
    """Bytes that are cut, turned, doubled, or written over."""
    spoiled = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        where = rng.randrange(len(spoiled) + 1) if spoiled else 0
        how = rng.randrange(6)
        if how == 0:
            del spoiled[where:]
        elif how == 1:
            del spoiled[where : where + rng.randrange(1, 30)]
        elif how == 2:
            spoiled[where:where] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9)))
        elif how == 3 and where < len(spoiled):
            spoiled[where] ^= 1 << rng.randrange(8)
        elif how == 4:
            spoiled[where:where] = spoiled[where : where + rng.randrange(1, 60)]
        else:
            spoiled[where:where] = rng.choice(
                (b"[" * 5000, b'{"a":' * 5000, b"1" * 6000, b"-" * 6000, b"\xff\xfe", b"\x00")
            )
    return bytes(spoiled)


def lines(value: Any) -> str:
    """JSON, with whatever Python makes of a value that is none."""
    return json.dumps(value, ensure_ascii=True)
