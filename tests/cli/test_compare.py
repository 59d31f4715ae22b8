"""``bench compare`` names rows and compares them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from kit.cells import cell
from kit.commands import Answer

Bench = Callable[..., Answer]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Results of a grid with four rows."""
    grid = tmp_path / "r" / "g"
    grid.mkdir(parents=True)
    right = {"jpeg": "11110", "blur(sigma=1)": "00000", "Pure A": "00001", "Pure B": "00001"}
    for defense, of_row in right.items():
        for made in (cell(defense, "clean", "clean", "11111"), cell(defense, "PGD", "adaptive", of_row)):
            (grid / made.file_name).write_text(made.to_text(), encoding="utf-8")
    return tmp_path / "r"


def test_two_rows(bench: Bench, folder: Path) -> None:
    answer = bench("compare", "g:jpeg", "g:BLUR", "--results", folder, "--json")
    (compared,) = json.loads(answer.out)
    assert (compared["first"], compared["second"]) == ("g:jpeg@m", "g:blur(sigma=1)@m")
    clean, pgd = sorted(compared["columns"], key=lambda column: str(column["budget"]))
    assert (clean["p"], pgd["p"], pgd["adjusted"]) == (1, 0.125, 0.25)  # 2 / 2^4
    printed = bench("compare", "g:jpeg@m", "g:blur(sigma=1)", "--results", folder).out
    assert "only A is right on 0, 1, 2, 3." in printed
    assert "+80.0" in printed


def test_two_folders_and_two_files(bench: Bench, folder: Path) -> None:
    compared = json.loads(bench("compare", folder / "g", "g", "--results", folder, "--json").out)
    assert len(compared) == 4
    assert {column["difference"] for row in compared for column in row["columns"]} == {0}
    files = [folder / "g" / cell(d, "PGD", "adaptive", "0").file_name for d in ("jpeg", "Pure A")]
    (compared,) = json.loads(bench("compare", *files, "--json").out)
    assert compared["columns"][0]["difference"] == 60


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("g:pure", "may be any of g:Pure A@m, g:Pure B@m"),
        ("g:jpg", "did you mean 'jpeg'"),
        ("h:jpeg", "no results of 'h'"),
        ("", "no results of ''"),
    ],
)
def test_what_is_no_row_is_refused(bench: Bench, folder: Path, name: str, words: str) -> None:
    answer = bench("compare", name, "g:jpeg", "--results", folder)
    assert answer.code == 2
    assert words in answer.err.replace("\n", " ")
