"""``bench plot``: figures of stored results."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from kit.commands import Answer

RESULTS = Path(__file__).parents[2] / "results"
HOW = ("--results", RESULTS)


def test_the_command_writes_the_figure_and_says_what_is_not_in_it(
    bench: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    where = ("--results", os.path.relpath(RESULTS, tmp_path))
    done = bench("plot", "demo:jpeg", "--kind", "loss", *where)
    assert done.code == 0, done.err
    assert "No losses are kept of noise" in done.err
    assert Path("demo-loss.svg").read_text().startswith("<?xml")
    rows = ("embedded_motion_flow:Random", "embedded_motion_flow:Defended")
    done = bench("plot", *rows, "--against", "lambdas", "--output", tmp_path / "a.png", *where)
    assert done.code == 0, done.err
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("demo",), "No two cells of these rows differ in one argument alone"),
        (("demo:jpge",), "did you mean 'jpeg'"),
        (("demo:jpeg", "--kind", "confusion", "--output", "a.txt"), "ends in .svg, .png or .pdf"),
    ],
)
def test_what_cannot_be_drawn_is_said(bench: Callable[..., Answer], arguments: tuple[str, ...], says: str) -> None:
    refused = bench("plot", *arguments, *HOW)
    assert refused.code == 2
    assert says in refused.err


def test_the_figures_of_papers_are_listed_and_drawn(
    bench: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = bench("figure", *HOW)
    assert listed.code == 0, listed.err
    lines = [line.split(maxsplit=1) for line in listed.out.splitlines() if not line.startswith(" ")]
    said = {name: words.strip() for name, words in lines}
    assert said["videopure-7"] == "VideoPure, Figure 7: not known here what it shows"
    assert said["motion-9"] == "Motion consistency, Figure 9: accuracy against the steps of the defence"
    assert "embedded_motion (has results)" in listed.out
    assert "(no results: bench run --grid motion_figure9)" in listed.out
    monkeypatch.chdir(tmp_path)
    done = bench("figure", "motion-5", "--results", os.path.relpath(RESULTS, tmp_path))
    assert done.code == 0, done.err
    assert Path("motion-5.svg").read_text().startswith("<?xml")
    assert "wrote motion-5.svg" in done.err
    refused = bench("figure", "slides-3", *HOW)
    assert refused.code == 2
    assert "is not known here" in refused.err
