"""The one exception that means "your input, not our bug"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BenchError(Exception):
    """Bad input. The message is one clear sentence (or list) that says what is wrong and what to do.

    The command line prints it and exits with code 2; anything else is a bug and keeps its traceback.
    """


class Impossible(BenchError):
    """A combination that does not exist, as only trying it shows: an attack on what this network does not have.

    A run leaves it out, with the sentence, and goes on.
    """


def nearest(word: object, known: Iterable[str]) -> str:
    """Returns `` (did you mean 'x'?)`` for the known word closest to ``word``, or an empty string."""
    by_lower = {k.lower(): k for k in known}
    match = difflib.get_close_matches(str(word).lower(), by_lower, n=1, cutoff=0.5)
    return f" (did you mean {by_lower[match[0]]!r}?)" if match else ""


def short(value: object, most: int = 80) -> str:
    """A value as a message shows it: its representation, cut in the middle where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # whole numbers of thousands of digits, what holds itself
        text = f"<{type(value).__name__} too long to print>"
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 4 :]}"


def at_least(name: str, value: object, least: int, otherwise: str = "") -> None:
    """Checks a whole number that somebody gave.

    Raises:
        BenchError: it is none, or too small.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise BenchError(f"{name} must be a whole number of at least {least}{otherwise}, not {value!r}.")
