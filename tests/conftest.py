"""Fixtures shared by the tests."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # so that grids can name helpers:Thing

torch.set_num_threads(min(2, torch.get_num_threads()))


@dataclass
class Answer:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def bench(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Runs the command line in this process."""

    def call(*arguments: object) -> Answer:
        from bench.cli import main

        code = 0
        try:
            main([str(a) for a in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return call


GRAY_GRID = """
title: Gray clips
dataset: {name: "helpers:GrayClips", length: 6}
models: ["helpers:level_classifier"]
defenses: [none, "helpers:Identity"]
budgets: [{norm: linf, size: 0.15, steps: 4}]
attacks: [clean, noise, PGD, PGD+BPDA, PGD+exact]
"""


@pytest.fixture
def gray_grid(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small grid, with some of its text replaced."""

    def write(*replacements: tuple[str, str], name: str = "gray") -> Path:
        text = GRAY_GRID
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / f"{name}.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write
