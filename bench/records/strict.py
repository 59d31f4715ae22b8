"""JSON that means what it says."""

from __future__ import annotations

import json
import math
from typing import Any


def strict_json(text: str) -> Any:
    """The value of a JSON text, in which no key stands twice and every number is finite.

    Raises:
        ValueError: it is no such text.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(key for key, _ in pairs if [k for k, _ in pairs].count(key) > 1)
            raise ValueError(f"{twice!r} stands there twice")
        return found

    def finite(number: str) -> float:
        value = float(number)
        if not math.isfinite(value):
            raise ValueError(f"{number} is no number that a run writes")
        return value

    return json.loads(text, object_pairs_hook=once, parse_constant=finite, parse_float=finite)
