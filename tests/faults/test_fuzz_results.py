"""Result folders that are damaged or changed: refused in one sentence, or the table stays what it was.

``BENCH_FUZZ=20`` tries twenty times as many.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.commands import Answer
from kit.fuzz import cases, lines, mutated, torn
from kit.running import exported

from bench import BenchError
from bench.records.audits import AuditedRow, Finding, write_audit
from bench.records.results import read_results
from bench.report.leaderboard import make_leaderboard
from bench.report.reported import shipped_folder
from bench.weights import zoo

SEEDS = st.integers(0, 2**32)
ATTACKS = '[clean, noise, PGD, PGD+BPDA, {attack: "kit.gray:Cheater", gradient: none}]'


class Folder:
    """A results folder that is put back."""

    def __init__(self, root: Path) -> None:
        self.root, self.files = root, {p: p.read_bytes() for p in sorted((root / "gray").glob("*.json"))}
        self.table = make_leaderboard(root)

    def told(self, file: Path, content: bytes) -> str | None:
        """What is said of the folder with another content of a file: its leaderboard, or nothing if it is refused.

        The sentence names the file, and is one.
        """
        file.write_bytes(content)
        try:
            return make_leaderboard(self.root)
        except BenchError as error:
            text = str(error)
            assert "\n" not in text
            assert str(self.root) in text
            assert text.endswith(".")
            return None
        finally:
            file.write_bytes(self.files[file])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    place = tmp_path_factory.mktemp("fuzz")
    grid = place / "gray.yaml"
    grid.write_text(
        "title: Gray clips\nsummary: Some words.\n"
        'dataset: {name: "kit.gray:GrayClips", length: 6}\nmodels: ["kit.gray:level_classifier"]\n'
        'defenses: [none, "kit.gray:Lighten", "kit.gray:Coin"]\nbudgets: [{norm: linf, size: 0.15, steps: 2}]\n'
        f"queries: 3\nattacks: {ATTACKS}\n"
    )
    exported(grid, place / "results")
    finding = Finding(check="flat", severity="warning", message="Some words.", cells=["PGD"], clips=["gray/0"])
    cells = read_results(place / "results" / "gray")
    mine = [c for c in cells if c.defense == "kit.gray:Lighten"]
    budget = next(c.budget for c in mine if c.budget)
    write_audit(
        place / "results" / "gray",
        [
            AuditedRow(
                model=mine[0].model,
                defense=mine[0].defense,
                budget=budget,
                grade="B",
                findings=[finding],
                measured=[c.cell for c in mine],
                salt="7",
            )
        ],
    )
    shutil.copytree(shipped_folder(), place / "results" / "reported")
    return Folder(place / "results")


@cases(400)
@given(seed=SEEDS)
def test_bytes(folder: Folder, seed: int) -> None:
    rng = random.Random(seed)
    file = rng.choice(list(folder.files))
    told = folder.told(file, torn(folder.files[file], rng))
    if not file.name.startswith("_"):
        assert told in (None, folder.table)


@cases(500)
@given(seed=SEEDS)
def test_values(folder: Folder, seed: int) -> None:
    """No figure of a table changes because somebody changed one value of a file."""
    rng = random.Random(seed)
    file = rng.choice([f for f in folder.files if not f.name.startswith("_")])
    changed, path = mutated(json.loads(folder.files[file]), rng)
    told = folder.told(file, lines(changed).encode())
    # What has no version is of the first one, whose outcomes are read as stale.
    if path[0] in ("stale", "version") or "stale_" in changed:
        return
    assert told in (None, folder.table), (path, changed)


@cases(150)
@given(seed=SEEDS)
def test_descriptions(folder: Folder, seed: int) -> None:
    """What they say is shown, as text: no figure changes, and no line begins what the file has no business to begin."""
    rng = random.Random(seed)
    file = folder.root / "gray" / rng.choice(["_grid.json", "_run.json", "_audit.json"])
    changed, _ = mutated(json.loads(folder.files[file]), rng)
    told = folder.told(file, lines(changed).encode())
    if told is not None:
        assert "<b>" not in told
    if told is not None and file.name != "_audit.json":  # whose grades stand in a column of their own
        assert figures(told) <= figures(folder.table) or "counts_clean" in lines(changed)


def figures(text: str) -> set[str]:
    """The rows of the measured tables."""
    measured = text.partition("## Measured")[2].partition("## Reported")[0]
    return {line for line in measured.splitlines() if line.startswith("| ") and "---" not in line}


@cases(200)
@given(seed=SEEDS)
def test_the_manifest_of_the_zoo(seed: int) -> None:
    rng = random.Random(seed)
    text = (Path(zoo.__file__).parent.parent / "zoo" / "manifest.json").read_bytes()
    content = torn(text, rng) if rng.random() < 0.5 else lines(mutated(json.loads(text), rng)[0]).encode()
    told = ""
    try:
        entries = zoo.parse_manifest(content, Path("manifest.json"))
        assert all(entry["sha256"] for entry in entries.values())
    except BenchError as error:
        told = str(error)
    assert "\n" not in told


def test_texts_of_a_grid_are_shown_and_do_nothing_else(folder: Folder) -> None:
    file = folder.root / "gray" / "_grid.json"
    content: dict[str, Any] = json.loads(folder.files[file])
    content["title"] = "x\n# Leaderboard of others | <img src=x onerror=alert(1)>"
    content["summary"] = "# First\n\n| all | 100.0 |\n<script>alert(1)</script> [click](javascript:alert(1)) &lt;"
    told = folder.told(file, lines(content).encode())
    assert told is not None
    assert "<script" not in told
    assert "<img" not in told
    assert "](javascript" not in told
    assert "\n# Leaderboard of others" not in told
    assert "\n| all" not in told
    assert r"\# First \| all \| 100.0 \| &lt;script>" in told


def test_results_without_a_description_are_told(folder: Folder, bench: Callable[..., Answer], tmp_path: Path) -> None:
    shutil.copytree(folder.root, tmp_path / "results")
    (tmp_path / "results" / "gray" / "_grid.json").unlink()
    answer = bench("leaderboard", "--results", tmp_path / "results", "--output", tmp_path / "leaderboard.md")
    assert answer.code == 2
    assert "no _grid.json" in answer.err
    assert not (tmp_path / "leaderboard.md").exists()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"correct": true', '"correct": false, "correct": true', "'correct' stands there twice"),
        ('"correct": true', '"correct": 1', "Input should be a valid boolean"),
        ('"label": 0', '"label": "0"', "Input should be a valid integer"),
        ('"linf": 0.15', '"linf": Infinity', "Infinity is no number"),
        ('"version": 4', '"version": true', "version True"),
        ('"version": 4', '"version": ' + "[" * 100_000, "nested too deeply"),
        ('"version": 4', '"version": ' + "1" * 5000, "Exceeds the limit"),
    ],
)
def test_what_json_takes_and_a_result_does_not(folder: Folder, old: str, new: str, words: str) -> None:
    file = next(f for f, content in folder.files.items() if old.encode() in content)
    text = folder.files[file].decode()
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(BenchError, match=words):
        make_leaderboard(folder.root)
    file.write_bytes(folder.files[file])
