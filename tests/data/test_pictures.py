"""Sheets of clips, where one of them is not there."""

from __future__ import annotations

from pathlib import Path

import pytest
from levels import GrayClips

from bench import BenchError
from bench.data.pictures import write_sheets


def test_a_clip_without_a_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no file"):
        write_sheets(GrayClips(absent=1), 2, tmp_path / "a.png", None)
    assert write_sheets(GrayClips(absent=1), 1, tmp_path / "a.png", None) == [tmp_path / "a.png"]
