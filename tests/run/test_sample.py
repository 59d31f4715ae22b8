"""Samples of adversarial clips beside results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from kit.running import run_plan

from bench.grids.grid import read_grid
from bench.plan.expand import make_plan
from bench.run.sample import Sample, write_sample
from bench.run.store import Store

Write = Callable[..., Path]


def test_clips_come_back_bit_for_bit_and_as_few_as_there_is_room_for(
    gray_grid: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(read_grid(gray_grid()))
    run_plan(plan, tmp_path / "store")
    units, folder = plan.units, tmp_path / "results"
    with Store(tmp_path / "store", writable=False) as store:
        size = write_sample(store, units, plan.refs, folder, 4, "salt")
        sample, stored = Sample(folder), Sample(tmp_path / "nothing", store)
        assert size == sum(path.stat().st_size for path in folder.rglob("*.advclip"))
        chosen = {tuple(sample.numbers(unit, plan.refs)) for unit in units}
        assert len(chosen) == 1  # the same clips of each, so that columns can be compared
        assert len(next(iter(chosen))) == 4
        for unit in units:
            assert stored.numbers(unit, plan.refs) == list(range(len(plan.refs)))
            for number in sample.numbers(unit, plan.refs):
                ref, clean = plan.refs[number], plan.dataset.load(plan.refs[number])
                clip, kept = sample.load(unit, number, ref, clean), stored.load(unit, number, ref, clean)
                assert clip is not None
                assert kept is not None
                assert torch.equal(clip, kept)
                assert sample.load(unit, number, ref, clean + 0.1) is None  # of another clean clip
        monkeypatch.setattr("bench.run.sample._MOST_BYTES", 1)
        write_sample(store, units, plan.refs, folder, 4, "salt")
        assert [len(sample.numbers(unit, plan.refs)) for unit in units] == [1] * len(units)
