"""Results for other programs."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from kit.commands import Answer

import bench as package
from bench import BenchError
from bench.records.results import read_results
from bench.report.export import _escaped, check_format, exported, result_frame
from bench.report.rows import find_rows

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "results" / "demo"


def test_every_column_is_documented_and_no_other() -> None:
    text = (ROOT / "docs" / "frame.md").read_text()
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    documented = {name for cell in rows for name in re.findall(r"`(\w+)`", cell)}
    assert documented == set(result_frame(find_rows(str(DEMO))).columns)
    frame = package.to_frame(package.read_results(DEMO))
    assert set(frame.columns) == documented - {"grid"}


def test_the_files_say_what_the_frame_says(tmp_path: Path) -> None:
    """Each is read again by another program, and compared with the result files themselves."""
    rows = find_rows(str(DEMO))
    stored = {
        (r["defense"], r["attack"], o["clip"]): o
        for path in DEMO.glob("nl_tiny--*.json")
        for r in [json.loads(path.read_text())]
        for o in r["outcomes"]
    }
    as_csv = list(csv.DictReader(io.StringIO(exported(rows, "csv").decode())))
    as_json = json.loads(exported(rows, "json"))
    assert len(as_csv) == len(as_json) == len(stored)
    for text, line in zip(as_csv, as_json, strict=True):
        outcome = stored[text["defense"], text["attack"], text["clip"]]
        assert line["linf"] == pytest.approx(outcome.get("linf", 0.0))
        assert float(text["linf"]) == pytest.approx(outcome.get("linf", 0.0))
        assert json.loads(text["draws"]) == line["draws"] == outcome.get("draws", [])
        assert text["correct"] == str(outcome.get("correct", False))
    accuracy = pd.DataFrame(as_json).groupby(["defense", "attack"]).chance.mean() * 100
    scores = {(r.defense, r.attack): r.score.accuracy for r in read_results(DEMO)}
    assert {key: pytest.approx(value) for key, value in accuracy.items()} == scores


def test_latex_has_the_printed_figures_and_escapes_labels() -> None:
    text = exported(find_rows(str(DEMO)), "latex").decode()
    (line,) = [line for line in text.splitlines() if line.startswith("temporal\\_shuffle(window=0)")]
    assert "58.3 [32, 81]" in line
    assert text.count("\\toprule") == text.count("\\bottomrule") == 1
    assert _escaped(r"a_b & 50% of {x} \cmd $") == r"a\_b \& 50\% of \{x\} \textbackslash{}cmd \$"


def test_latex_counts_as_the_grid_says() -> None:
    """Lo and Patel's grids count the clean clips in Union: the figure of the leaderboard, and not another."""
    text = exported(find_rows(str(ROOT / "results" / "embedded_multibn")), "latex").decode()
    assert "Union with clean & Mean with clean" in text


def test_parquet_needs_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "fastparquet", None)
    with pytest.raises(BenchError, match=r"pip install 'videorobustbench\[parquet\]'"):
        exported(find_rows(str(DEMO))[:1], "parquet")
    with pytest.raises(BenchError, match=r"Unknown format 'cvs'.*csv"):
        check_format("cvs")


def test_the_command_writes_a_row_or_a_grid(bench: Callable[..., Answer], tmp_path: Path) -> None:
    one = bench("export", "demo:jpeg", "--results", DEMO.parent)
    assert one.code == 0, one.err
    assert {line["defense"] for line in csv.DictReader(io.StringIO(one.out))} == {"jpeg"}
    done = bench("export", "demo", "--format", "json", "--output", tmp_path / "demo.json", "--results", DEMO.parent)
    assert done.code == 0, done.err
    assert len(json.loads((tmp_path / "demo.json").read_text())) == 32 * 12
    refused = bench("export", "demo", "--output", tmp_path / "no" / "x.csv", "--results", DEMO.parent)
    assert (refused.code, "Cannot write" in refused.err) == (2, True)
