"""``bench list`` and ``bench show``: every component and grid explains itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from kit.commands import Answer
from PIL import Image

from bench.defense.defended import GRADIENTS
from bench.records.identity import Gradient

Bench = Callable[..., Answer]


@pytest.mark.parametrize("what", ["attacks", "defenses", "datasets", "models", "gradients", "grids", "weights"])
def test_lists_are_also_json(bench: Bench, what: str) -> None:
    plain, listed = bench("list", what), json.loads(bench("list", what, "--json").out)
    assert isinstance(listed, list)
    assert listed
    for item in listed:
        assert item["name"] in plain.out
        assert item["summary"], item["name"]


@pytest.mark.parametrize("name", ["pgd", "jpeg", "motion12", "nl_tiny", "demo"])
def test_show_explains_a_component(bench: Bench, name: str) -> None:
    (item,) = json.loads(bench("show", name, "--json").out)
    assert item["name"] == name
    plain = bench("show", name).out
    assert name in plain
    for parameter in item.get("parameters", []):
        assert parameter["name"] in plain
        assert parameter["help"], f"{parameter['name']} is not documented"


@pytest.mark.parametrize("name", [g for g in GRADIENTS if g != "none"])  # which nobody asks for
def test_show_explains_a_gradient(bench: Bench, name: Gradient) -> None:
    """It is no attack by itself, but what users call one."""
    (item,) = json.loads(bench("show", name, "--json").out)
    assert (item["name"], item["kind"]) == (name, "gradient")
    plain = bench("show", name).out
    assert GRADIENTS[name] in " ".join(plain.split())
    assert ("--attack adaptive" if name == "strongest" else f"+{name}") in plain
    assert bench("show", name.upper()).out == plain


@pytest.mark.parametrize(
    ("name", "has", "has_not"),
    [
        ("bpda", "temporal_shuffle", "halftone"),
        ("bpda-lowpass", "diffpure_ddim", "jpeg"),
        ("surrogate", "videopure", "mean"),
        ("diffattack", "diffpure_ddpm", "temporal_shuffle"),
    ],
)
def test_a_gradient_says_which_defences_have_one_of_their_own(bench: Bench, name: str, has: str, has_not: str) -> None:
    (item,) = json.loads(bench("show", name, "--json").out)
    assert has in item["defenses"]
    assert has_not not in item["defenses"]
    assert item["source"] or name == "bpda-lowpass"


def test_a_gradient_that_is_misspelt_is_suggested(bench: Bench) -> None:
    answer = bench("show", "diffatack")
    assert answer.code == 2
    assert "did you mean 'diffattack'?" in answer.err


def test_every_registered_component_documents_its_parameters() -> None:
    from bench.registry import REGISTRIES

    for registry in REGISTRIES.values():
        for entry in registry:
            assert entry.summary, entry.name
            for parameter in entry.parameters:
                assert parameter.help, f"{entry.kind} {entry.name}: parameter {parameter.name}"


def test_a_shipped_grid_is_shown_as_it_is_written(bench: Bench) -> None:
    from bench.grids.grid import shipped_grids

    path = shipped_grids()["demo"]
    assert bench("show", "demo").out.strip() == f"# {path}\n{path.read_text().strip()}"


def test_show_draws_clips(bench: Bench, tmp_path: Path) -> None:
    sheet, moving = tmp_path / "a.png", tmp_path / "a.gif"
    answer = bench("show", "motion12", "--sheet", sheet, "--animate", moving, "--count", 2)
    assert answer.code == 0, answer.err
    with Image.open(sheet) as picture:
        assert picture.size == (80 + 8 * 68, 2 * 68)
    with Image.open(moving) as picture:
        assert picture.n_frames == 16  # type: ignore[attr-defined]


@pytest.mark.slow
def test_show_clips_writes_all_classes_into_this_folder(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = bench("show", "actions12", "--clips")
    assert answer.code == 0, answer.err
    assert "wrote actions12.gif" in answer.out
    with Image.open("actions12.gif") as picture:
        assert picture.size == (6 * 68, 2 * (68 + 14))  # two rows of six clips and their names
        assert picture.n_frames == 16  # type: ignore[attr-defined]
    assert [p.name for p in tmp_path.iterdir()] == ["actions12.gif"]


def test_adaptive_is_shown_with_its_list_for_every_kind(bench: Bench) -> None:
    """What a row's headline is made of can be read without opening a file; each list begins with a plain attack."""
    (item,) = json.loads(bench("show", "adaptive", "--json").out)
    assert len(item["lists"]) == 8
    for kind, moves in item["lists"].items():
        assert "passes forward" in kind
        assert moves[0].startswith("pgd+")
    text = bench("show", "adaptive").out
    assert "Against a deterministic diffusion purifier" in text
    assert "apgd(loss='dlr')+exact (5 x steps)" in text


@pytest.mark.parametrize(("columns", "widest"), [("60", 60), (None, 120), ("", 120)])
def test_tables_in_a_pipe_are_as_wide_as_columns_says(columns: str | None, widest: int) -> None:
    told = {} if columns is None else {"COLUMNS": columns}
    done = subprocess.run(
        [sys.executable, "-m", "bench.cli", "list", "attacks"],
        env={**os.environ, **told},
        capture_output=True,
        text=True,
        check=True,
    )
    assert max(map(len, done.stdout.splitlines())) == widest
