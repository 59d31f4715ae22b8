"""Stores that cannot be opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import BenchError
from bench.run.store import Store


def test_a_store_that_cannot_be_opened_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "outcomes.sqlite").write_text("this is no database, but it is long enough to be read as one" * 20)
    with pytest.raises(BenchError, match="Cannot open the store"):
        Store(tmp_path)
