"""Batches of two data sets."""

from __future__ import annotations

import torch

from bench.data.procedural import render
from bench.datasets.actions12 import Actions12
from bench.training.objectives.mixture import load_mixed, rendered_mixed


def test_batches_mix_both_data_sets_in_blocks_of_twelve() -> None:
    data = Actions12("train", frames=2, size=16)
    refs = data.refs()[:24]
    rendered = rendered_mixed(data, refs)
    for index in (0, 11, 12, 23):
        recipe = "actions12" if index < 12 else "motion12"
        assert torch.equal(rendered[index].clip, render("train", index, frames=2, size=16, recipe=recipe).clip)
    assert torch.equal(load_mixed(data, refs[12:13])[0], rendered[12].clip)
