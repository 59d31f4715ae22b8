"""Answers of the command line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Answer:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str
