"""Fixtures shared by the tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from kit.commands import Answer
from kit.gray import GRAY_GRID
from kit.roost import Roost
from kit.running import exported

from bench.registry import REGISTRIES

# How wide tables are is not for whoever starts the tests to say.
os.environ.pop("COLUMNS", None)
# Two processes of pytest-xdist have a core each.
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, torch.get_num_threads()))
if "PYTEST_XDIST_WORKER" in os.environ:
    # Processes that tests start, too: threads that wait for one another in turn take many times as long.
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture
def bench(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Runs the command line in this process."""

    def call(*arguments: object) -> Answer:
        from bench.cli.main import main

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


@pytest.fixture
def roost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Roost]:
    """A folder of components, and a registry of its own."""
    monkeypatch.setitem(REGISTRIES, "defense", REGISTRIES["defense"])  # put back afterwards
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # files here are rewritten faster than clocks tick
    monkeypatch.syspath_prepend(tmp_path)
    roost = Roost(tmp_path)
    roost.renew()
    yield roost
    roost.renew()


@pytest.fixture
def results(gray_grid: Callable[..., Path], tmp_path: Path) -> Path:
    """A results folder with the gray grid in it."""
    folder = tmp_path / "results"
    exported(gray_grid(("kit.gray:Identity", "kit.gray:Lighten")), folder)
    return folder
