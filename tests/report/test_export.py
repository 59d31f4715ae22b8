"""Results for other programs."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from kit.cells import cell
from kit.commands import Answer
from scipy.stats import binomtest

import bench as package
from bench import BenchError
from bench.records.audits import AuditedRow, write_audit
from bench.records.description import GridFile
from bench.records.identity import Knowledge
from bench.records.results import CellResult, read_results
from bench.report.export import _escaped, check_format, exported, result_frame
from bench.report.rows import NamedRow, find_rows

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
    assert _escaped("n/a¹²") == r"n/a\textsuperscript{1}\textsuperscript{2}"  # LaTeX knows three raised digits alone
    assert _escaped(r"a_b & 50% of {x} \cmd $") == r"a\_b \& 50\% of \{x\} \textbackslash{}cmd \$"


def test_latex_counts_as_the_grid_says() -> None:
    """Lo and Patel's grids count the clean clips in Union: the figure of the leaderboard, and not another."""
    text = exported(find_rows(str(ROOT / "results" / "embedded_multibn")), "latex").decode()
    assert "Union with clean & Mean with clean" in text


# Clips of two defences: 1 is right. Counted below, and nowhere else.
RIGHT = {
    ("a_b", "clean"): "11111110",
    ("a_b", "noise"): "11101110",
    ("a_b", "PGD"): "11001100",
    ("a_b", "PGD+exact"): "10011000",
    ("none", "clean"): "11111111",
    ("none", "noise"): "11111111",
    ("none", "PGD"): "10000000",
}
OTHER = {("a_b", "PGD"): "11111110", ("a_b", "clean"): "11111111"}
KNOWS: dict[str, Knowledge] = {"clean": "clean", "noise": "noise", "PGD": "gray-box", "PGD+exact": "adaptive"}


def written(folder: Path, right: dict[tuple[str, str], str], **described: Any) -> list[CellResult]:
    """Results of a grid of two defences, as a run leaves them; the last clip of PGD on ``a_b`` is an invalid one."""
    folder.mkdir(parents=True)
    flaws = {("a_b", "PGD"): ".......x"}
    cells = [cell(d, a, KNOWS[a], clips, flaws.get((d, a), "")) for (d, a), clips in right.items()]
    for one in cells:
        for outcome, is_right in zip(one.outcomes, right[one.defense, "clean"], strict=True):
            outcome.clean_prediction = 0 if is_right == "1" else 1
        (folder / one.file_name).write_text(one.model_dump_json())
    order = [one.file_name for one in cells]
    file = GridFile(name=folder.name, title="", summary="", order=order, skipped=[], **described)
    (folder / "_grid.json").write_text(file.model_dump_json())
    return cells


def counted(clips: str) -> str:
    """Percent and Wilson's interval, by SciPy."""
    low, high = binomtest(clips.count("1"), len(clips)).proportion_ci(0.95, "wilson")
    return f"{100 * clips.count('1') / len(clips):.1f} [{100 * low:.0f}, {100 * high:.0f}]"


def test_latex_has_flaws_averages_seconds_and_grades(tmp_path: Path) -> None:
    across = {"Both grids": {"column": "PGD", "grids": ["mine", "other"]}}
    cells = written(tmp_path / "mine", RIGHT, averages={"Pair": ["clean", "PGD"]}, across=across, timed=True)
    written(tmp_path / "other", OTHER)
    seconds = {"finished": "2025-02-03", "clip_seconds_of_all_outcomes": 1.0, "seconds_of_a_pass": {"m": {"a_b": 0.25}}}
    (tmp_path / "mine" / "_run.json").write_text(json.dumps(seconds))
    measured = [one.cell for one in cells if one.defense == "a_b"]
    write_audit(
        tmp_path / "mine",
        [AuditedRow(model="m", defense="a_b", budget="linf 4/255", grade="B", findings=[], measured=measured)],
    )
    text = exported(find_rows(str(tmp_path / "mine")), "latex").decode()
    lines = [[c.strip() for c in line.removesuffix(r"\\").split(" & ")] for line in text.splitlines() if " & " in line]
    header, *rows = lines
    table = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    mine = {attack: clips for (defense, attack), clips in RIGHT.items() if defense == "a_b"}
    both = "".join(min(mine[attack][i] for attack in mine if attack != "clean") for i in range(8))
    pgd, exact, clean = (100 * mine[a].count("1") / 8 for a in ("PGD", "PGD+exact", "clean"))
    assert table[r"a\_b"] == {
        "Defence": r"a\_b",
        "Standard": counted(mine["clean"]),
        "Noise": counted(mine["noise"]),
        "Robust* PGD": f"{counted(mine['PGD'])} (1 invalid)",
        "Robust PGD+exact": counted(mine["PGD+exact"]),
        "Union": counted(both),
        "Mean": f"{(pgd + exact) / 2:.1f}",
        "Pair": f"{(clean + pgd) / 2:.1f}",
        "Both grids": f"{(pgd + 100 * OTHER['a_b', 'PGD'].count('1') / 8) / 2:.1f}",
        "Seconds": "0.25",
        "Audit": "B (outcomes)",
    }
    bare = table["none"]
    assert (bare["Robust PGD+exact"], bare["Mean"], bare["Both grids"]) == ("-", "-", "-")  # not run, or not in both
    assert (bare["Seconds"], bare["Audit"]) == ("-", "-")
    assert bare["Union"] == rf"$\leq$ {counted(RIGHT['none', 'PGD'])}"


def arrow_type(documented: str) -> str:
    """The type in Parquet of a column that is described so in docs/frame.md."""
    if documented.startswith("list of "):
        return f"list<{'int64' if 'classes' in documented else 'double'}>"
    if documented.startswith(("whole number", "class or none", "passes")):
        return "int64"
    if documented.startswith("true or false"):
        return "bool"
    return "double" if documented.startswith(("intensity", "share", "seconds", "0 to 1")) else "string"


def flawed() -> NamedRow:
    """A row of one cell: nothing measured a clip but the third, which a randomised defence saw."""
    seen = cell("d", "PGD", "adaptive", "001")
    lost, failed, third = seen.outcomes
    lost.status, lost.error, lost.prediction, lost.votes = "missing", "not there", None, []
    failed.status, failed.error, failed.linf, failed.clean_prediction = "failed", "x", None, None
    failed.votes, failed.trace = [None, 7], [None, 0.5]
    third.draws, third.measured, third.trace, third.changed = [0, 3], [0.1, -2.0], [1.5, None], 1 / 3
    return NamedRow("grid", "m", "d", (seen,))


@pytest.mark.parametrize("of", ["demo", "flawed"])
def test_parquet_read_again_is_the_frame_with_the_documented_types(of: str, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = find_rows(str(DEMO)) if of == "demo" else [flawed()]
    path = tmp_path / "a.parquet"
    path.write_bytes(exported(rows, "parquet"))
    lines = [line for line in (ROOT / "docs" / "frame.md").read_text().splitlines() if line.startswith("| `")]
    cells = [line.split("|")[1:3] for line in lines]
    documented = {name: arrow_type(kind.strip()) for names, kind in cells for name in re.findall(r"`(\w+)`", names)}
    schema = parquet.read_schema(path)
    written = {name: re.sub(r"<\w+: ", "<", str(kind)) for name, kind in zip(schema.names, schema.types, strict=True)}
    assert written == {name: documented[name] for name in schema.names}
    # Values: those of the outcomes, none for none.
    outcomes = [(row, c, o) for row in rows for c in row.cells for o in c.outcomes]
    stored = parquet.read_table(path).to_pylist()
    assert len(stored) == len(outcomes)
    for line, (row, c, outcome) in zip(stored, outcomes, strict=True):
        expected = {**outcome.model_dump(), "grid": row.grid, "chance": outcome.chance, "gradient": c.gradient}
        names = ("dataset", "model", "defense", "attack", "knowledge", "budget")
        assert line == {**expected, **{name: getattr(c, name) for name in names}}
    # And pandas reads what the frame held: a class that is none, and one of a list, is no number there.
    frame, read = result_frame(rows), pd.read_parquet(path)
    assert list(read.columns) == list(frame.columns)
    for name in frame.columns:
        assert [*map(plainly, frame[name])] == [*map(plainly, read[name])], name


def plainly(value: Any) -> Any:
    """A value with lists for arrays, and none for what is no number."""
    if isinstance(value, (list, np.ndarray)):
        return [plainly(one) for one in value]
    return None if value is None or value != value else value


def test_parquet_needs_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
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
