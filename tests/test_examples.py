"""The scripts in ``examples/``, run as a reader would run them, and what they print."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
THEIRS = """
import json
from bench.registry import REGISTRIES
print(json.dumps({kind: [e.name for e in r if "bench-example-plugin" in e.origin] for kind, r in REGISTRIES.items()}))
"""
CHANCE = 100 / 12  # both use data of twelve classes, each as frequent


def run(folder: Path, *command: str, also: Path | None = None) -> str:
    """What a command prints, run away from the repository with the examples to be imported.

    Args:
        also: another folder of packages.
    """
    places = os.pathsep.join(str(place) for place in (FOLDER, also) if place is not None)
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": places},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_defence_of_ones_own(tmp_path: Path) -> None:
    printed = run(tmp_path, str(FOLDER / "own_defense.py"), "--clips", "4", "--steps", "4")
    clips = re.findall(r"^clip-\d+ +(\d+) +(\d+) +(\d+) +(True|False) +([\d.]+)$", printed, flags=re.MULTILINE)
    assert len(clips) == 4
    assert all((label == prediction) == (correct == "True") for label, _, prediction, correct, _ in clips)
    assert all(float(linf) <= 4 / 255 + 1e-6 for *_, linf in clips)
    rows = re.findall(r"^(.+?) +([\d.]+) +([\d.]+)$", printed.partition("Accuracy in percent:")[2], flags=re.MULTILINE)
    shares = {name: (float(clean), float(attacked)) for name, clean, attacked in rows}
    assert len(shares) == 3
    assert all(clean > 4 * CHANCE for clean, _ in shares.values())
    assert all(attacked <= clean for clean, attacked in shares.values())
    # The last row's figures are those of the clips above it.
    clean, attacked = shares["temporal mean, adaptive"]
    assert clean == 100 * sum(label == before for label, before, *_ in clips) / 4
    assert attacked == 100 * sum(correct == "True" for *_, correct, _ in clips) / 4


def test_the_command_line_takes_the_defence_from_its_file(tmp_path: Path) -> None:
    command = "from bench.cli.main import main; main()"
    how = ["--defense", "own_defense:TemporalMean", "--clips", "2", "--steps", "1", "--attack", "PGD+BPDA"]
    printed = run(tmp_path, "-c", command, "run", *how)
    assert re.search(r"own_defense:\s*TemporalMean +[\d.]+ ", printed), printed
    assert list((tmp_path / "results").glob("*/*own_defense*.json"))


def test_a_classifier_of_ones_own(tmp_path: Path) -> None:
    how = ["--clips", "12", "--train-clips", "120", "--epochs", "10"]
    printed = run(tmp_path, str(FOLDER / "own_classifier.py"), *how)
    before, gray_box, adaptive = re.split(r"^(?:Gray-box|Adaptive):$", printed, flags=re.MULTILINE)
    assert not before.strip()
    standards = []
    for text in (gray_box, adaptive):
        rows = dict(re.findall(r"^ *(none|jpeg) +([\d.]+) ", text, flags=re.MULTILINE))
        said = re.search(r"^(\d+) of (\d+) clips that were right are broken", text, flags=re.MULTILINE)
        assert said is not None, text
        broken, right = map(int, said.groups())
        assert float(rows["none"]) > 2 * CHANCE
        assert float(rows["jpeg"]) == pytest.approx(100 * right / 12, abs=0.05)
        assert 0 <= broken <= right
        standards.append(rows)
    # What clean clips give does not depend on what the attacker knows.
    assert standards[0] == standards[1]


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example package, built and installed into a folder of its own."""
    source, site = tmp_path_factory.mktemp("plugin"), tmp_path_factory.mktemp("site")
    shutil.copytree(
        FOLDER / "plugin", source / "plugin", ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
    )
    how = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(site)]
    run(source, "-m", "pip", "install", *how, str(source / "plugin"))
    return site


def test_an_installed_package_adds_components_of_every_kind(plugin: Path, tmp_path: Path) -> None:
    def python(code: str, *arguments: str) -> str:
        return run(tmp_path, "-c", code, *arguments, also=plugin)

    assert json.loads(python(THEIRS)) == {
        "attack": ["example-brighten"],
        "defense": ["example-median-of-three"],
        "dataset": ["example-bars"],
        "model": ["example-bar-reader"],
    }
    data = ["--dataset", "example-bars", "--model", "example-bar-reader", "--clips", "4", "--steps", "3"]
    rows = ["--defense", "example-median-of-three", "--attack", "example-brighten", "--attack", "PGD"]
    printed = python("from bench.cli.main import main; main()", "run", *data, *rows)
    # A bar that is one pixel wide is gone in the median of three frames: half of the clips are right by luck.
    assert re.search(r"^ *none +100\.0 ", printed, flags=re.MULTILINE), printed
    assert re.search(r"^ *example-median-of-three +50\.0 ", printed, flags=re.MULTILINE), printed
