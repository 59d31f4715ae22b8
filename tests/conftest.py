"""Fixtures shared by the tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from kit.commands import Answer
from kit.gray import GRAY_GRID

torch.set_num_threads(min(2, torch.get_num_threads()))


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
