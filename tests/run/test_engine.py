"""Devices and batch sizes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from kit.running import run

from bench import BenchError
from bench.run.engine import pick_device
from bench.run.store import Store

Write = Callable[..., Path]


def test_devices_and_batch_sizes_are_checked(gray_grid: Write, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="choose auto, cpu or cuda"):
        pick_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(BenchError, match="use --device cpu"):
            pick_device("cuda")
    with pytest.raises(BenchError, match="--batch-size"):
        run(gray_grid(), tmp_path / "s", batch_size=0)


def test_the_chosen_batch_size_is_remembered(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.batch_size("k", lambda: 7) == 7
    store.close()
    again = Store(tmp_path)
    assert again.batch_size("k", lambda: 9) == 7
    again.close()
