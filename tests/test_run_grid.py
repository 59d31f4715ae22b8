"""``bench.run_grid``: what ``bench run`` does, from Python."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kit.commands import Answer

from bench import BenchError, run_grid


def test_a_grid_from_python_is_what_the_command_runs(
    gray_grid: Callable[..., Path], tmp_path: Path, bench: Callable[..., Answer]
) -> None:
    path = gray_grid()
    run = run_grid(path, attacks=["PGD"], clips=4, results=tmp_path / "python", progress=False)
    done = bench("run", "--grid", path, "--attack", "PGD", "--clips", 4, "--results", tmp_path / "command")
    assert done.code == 0, done.err

    def written(folder: Path) -> dict[str, Any]:
        files = {p.name: json.loads(p.read_text()) for p in sorted(folder.glob("*/*--*.json"))}
        return {name: {k: v for k, v in content.items() if k != "provenance"} for name, content in files.items()}

    assert written(tmp_path / "python") == written(tmp_path / "command") != {}
    assert len(run.frame) == sum(len(result.outcomes) for result in run.results) == run.computed
    again = run_grid(path, attacks=["PGD"], clips=4, results=tmp_path / "python", progress=False)
    assert again.computed == 0


def test_a_grid_as_a_mapping(gray_grid: Callable[..., Path], tmp_path: Path) -> None:
    content = yaml.safe_load(gray_grid().read_text())
    run = run_grid({**content, "name": "mine", "attacks": ["clean"]}, results=tmp_path, progress=False)
    assert [result.attack for result in run.results] == ["clean"] * len(run.results)
    assert (tmp_path / "mine").is_dir()
    with pytest.raises(BenchError, match="needs a 'name'"):
        run_grid({"models": []}, results=tmp_path)
    with pytest.raises(BenchError, match="There is no grid 'dmeo'"):
        run_grid("dmeo", results=tmp_path)
