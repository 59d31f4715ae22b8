"""``bench leaderboard`` writes a file once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kit.commands import Answer

Bench = Callable[..., Answer]
Write = Callable[..., Path]


def test_leaderboard_is_written_once(bench: Bench, gray_grid: Write, tmp_path: Path) -> None:
    bench("run", "--grid", gray_grid(), "--results", tmp_path / "r")
    arguments = ("leaderboard", "--results", tmp_path / "r", "--output", tmp_path / "board.md")
    assert "written" in bench(*arguments).out
    before = (tmp_path / "board.md").read_bytes()
    assert "up to date" in bench(*arguments).out
    assert (tmp_path / "board.md").read_bytes() == before


def test_the_leaderboard_may_go_into_a_new_folder(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    assert bench("leaderboard", "--results", tmp_path / "r", "--output", tmp_path / "new" / "l.md").code == 0
    assert (tmp_path / "new" / "l.md").read_text().startswith("# Leaderboard")
