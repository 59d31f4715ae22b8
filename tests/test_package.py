"""The wheel is complete: installed elsewhere, it runs the benchmark from its own files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ["attacks", "bench", "datasets", "defenses", "pyproject.toml", "README.md", "LICENSE", "results/reported"]

MY_DEFENSE = '''"""My defence."""

from torch import Tensor

from bench import ClipRandom, Purifier, register


@register("mine")
class Mine(Purifier):
    """Averages each frame with the one before it."""

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return (clips + clips.roll(1, dims=2)) / 2
'''


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built from a copy of the tree so that no build folder is left in it."""
    source = tmp_path_factory.mktemp("source")
    for part in PARTS:
        origin = ROOT / part
        if origin.is_dir():
            shutil.copytree(origin, source / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (source / part).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(origin, source / part)
    built = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--no-deps",
            "--no-build-isolation",
            "-q",
            "-w",
            str(built),
            str(source),
        ],
        check=True,
        capture_output=True,
    )
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel unpacked into a folder of its own, as an installer would."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def call(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the installed command line, away from the repository."""
    code = (
        "import bench, sys; from bench.cli.main import main; "
        f"assert bench.__file__.startswith({str(site)!r}), bench.__file__; main(sys.argv[1:])"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_wheel_runs_the_default_grid(site: Path, tmp_path: Path) -> None:
    columns = ("--attack", "noise", "--attack", "PGD", "--attack", "PGD+BPDA")  # adaptive takes minutes
    done = call(site, tmp_path, "run", "--clips", "1", "--steps", "1", *columns)
    assert done.returncode == 0, done.stderr
    assert "VideoPure" in done.stdout
    assert len(list((tmp_path / "results" / "demo-clips1-steps1").glob("nl_tiny--*.json"))) == 32


def test_the_wheel_holds_typing_marker_weights_grids_and_reported_figures(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "bench/py.typed" in names
    assert any(n.startswith("bench/zoo/") and n.endswith(".safetensors") for n in names)
    assert "bench/grids/demo.yaml" in names
    assert "bench/reported/videopure_table1.csv" in names
    assert "bench/defenses/jpeg.py" in names
    # Nothing lands beside the package: installing us never shadows somebody's `datasets`.
    assert {n.split("/")[0] for n in names if not n.split("/")[0].endswith(".dist-info")} == {"bench"}


def test_a_file_dropped_into_defenses_is_a_defence(site: Path, tmp_path: Path) -> None:
    dropped = site / "bench" / "defenses" / "mine.py"
    dropped.write_text(MY_DEFENSE)
    try:
        listed = call(site, tmp_path, "list", "defenses")
        assert "mine" in listed.stdout
        done = call(site, tmp_path, "run", "--defense", "mine", "--attack", "PGD+exact", "--clips", "2", "--steps", "2")
        assert done.returncode == 0, done.stderr
        assert "mine" in done.stdout
    finally:
        dropped.unlink()


def test_another_package_adds_a_defence_by_entry_point_and_a_clash_names_both(site: Path, tmp_path: Path) -> None:
    package, info = site / "theirs.py", site / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[videorobustbench.defenses]\nmine = theirs:Mine\n")
    try:
        package.write_text(MY_DEFENSE)
        listed = call(site, tmp_path, "list", "defenses", "--json")
        assert '"mine"' in listed.stdout
        assert "theirs" in listed.stdout
        package.write_text(MY_DEFENSE.replace('register("mine")', 'register("jpeg")'))
        clash = call(site, tmp_path, "list", "defenses")
        assert clash.returncode == 2
        assert "theirs.py" in clash.stderr
        assert "jpeg.py" in clash.stderr
    finally:
        package.unlink()
        shutil.rmtree(info)
