"""Rooms stand on those below them, and each has its tests; what tests share lies in the kit; benchmarks/ takes nothing
from the tests."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
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


# From the ground up: a room may import what stands before it, and itself.
ORDER = (
    *("errors", "faults", "files", "modes", "seeds", "ranges", "code", "userfiles", "registry", "origins"),
    *("records", "grids", "data"),
    *("threat", "attack"),
    *("weights", "flow", "models", "defense", "diffusion", "training"),
    *("plan", "run", "report", "audit", "board"),
    *("api", "ready", "cli"),
)
SISTERS = ("attacks", "datasets", "defenses")
DATA = ("reported", "zoo")  # packages that hold files alone


def bench_imports(path: Path) -> set[str]:
    """The rooms of bench/ that a file imports from; a name that ``bench`` itself offers counts as of its own room."""
    import bench

    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names = [alias.name for alias in node.names]
            if node.module == "bench":
                found |= {bench._HOME.get(name, f"bench.{name}") for name in names}
            else:
                found.add(str(node.module))
    return {name.split(".")[1] for name in found if name.startswith("bench.")} - {"__version__"}


@pytest.mark.parametrize("room", ORDER)
def test_a_room_stands_on_those_below_it(room: str) -> None:
    place = ROOT / "bench" / room
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    assert files
    below = {*ORDER[: ORDER.index(room) + 1], *DATA}
    assert {p.relative_to(ROOT).as_posix(): bench_imports(p) - below for p in files if bench_imports(p) - below} == {}


def test_every_room_has_a_place_in_the_order() -> None:
    there = {p.stem for p in (ROOT / "bench").iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
    assert there - {"__init__", "__pycache__", *DATA} == set(ORDER)


def test_reports_are_views_over_records_alone() -> None:
    ground = {"errors", "files", "records", "report", "reported"}
    assert {p.name: bench_imports(p) - ground for p in (ROOT / "bench" / "report").glob("*.py")} == {
        p.name: set() for p in (ROOT / "bench" / "report").glob("*.py")
    }


def test_records_need_no_torch() -> None:
    names = [f"bench.records.{p.stem}" for p in (ROOT / "bench" / "records").glob("*.py") if p.stem != "__init__"]
    script = f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("folder", SISTERS)
def test_the_three_sisters_never_import_one_another(folder: str) -> None:
    for path in (ROOT / folder).glob("*.py"):
        assert not bench_imports(path) & {*SISTERS, "plan", "run", "report", "audit", "api", "cli", "training"}, path


@pytest.mark.parametrize(
    ("room", "names"),
    [
        ("bench.attack", "Answer Attack AttackResult Best GradientAttack Objective Target Transform Wrapped"),
        ("bench.defense", "Defense Purifier RobustModel changes_nothing"),
        ("bench", "Attack AttackResult BenchError Budget ClipRandom ClipRef Dataset DefendedClassifier GradientAttack"),
        ("bench", "Purifier RobustModel Target VideoClassifier evaluate register"),
    ],
)
def test_names_that_others_import_stay_where_they_are(room: str, names: str) -> None:
    """From before bench/ was cut into rooms: submitted attacks and defences begin with these."""
    module = importlib.import_module(room)
    assert [name for name in names.split() if not hasattr(module, name)] == []


def test_contributors_take_what_is_common_from_bench_alone() -> None:
    """What two attacks or more need of a room of attacks, or of the ground, is one of the names of ``bench``."""
    for path in (p for folder in SISTERS for p in (ROOT / folder).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not str(node.module).startswith(("bench.attack.", "bench.errors", "bench.seeds")), path
