"""Every room has its tests; what tests share lies in the kit; benchmarks/ takes nothing from the tests."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))


def imported(path: Path) -> set[str]:
    """Every word of every import in a file, those inside of functions too."""
    words: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            words |= {word for alias in node.names for word in alias.name.split(".")}
        if isinstance(node, ast.ImportFrom):
            words |= set((node.module or "").split("."))
    return words


def rooms() -> set[str]:
    """The folders of bench/ that hold modules, and the three that stand beside it."""
    modules = [p.relative_to(ROOT / "bench") for p in (ROOT / "bench").rglob("*.py") if p.name != "__init__.py"]
    return {p.parent.as_posix() for p in modules if len(p.parts) > 1} | {"attacks", "datasets", "defenses"}


def test_imports_and_rooms_are_found(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("import os.path\ndef f():\n    from test_b import c\n    from . import conftest\n")
    assert imported(file) == {"os", "path", "test_b", "c", "", "conftest"}
    assert {"threat", "run", "training/objectives"} < rooms()


@pytest.mark.parametrize("room", sorted(rooms()))
def test_every_room_has_its_tests(room: str) -> None:
    assert list((TESTS / room).glob("test_*.py")), f"tests/{room} holds no test"


def test_no_test_file_imports_another() -> None:
    files = sorted(TESTS.rglob("*.py"))
    ours = {p.stem for p in files if p.stem.startswith("test_")} | {"conftest", "tests"}
    assert {p.name: imported(p) & ours for p in files if imported(p) & ours} == {}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_benchmarks_take_nothing_from_the_tests(script: Path) -> None:
    tests = {p.stem for p in TESTS.rglob("test_*.py")} | {"conftest", "kit", "tests"}
    assert not imported(script) & tests
    assert "tests" not in {n.value for n in ast.walk(ast.parse(script.read_text())) if isinstance(n, ast.Constant)}
