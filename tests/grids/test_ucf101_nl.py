"""The real-data grid end to end, at 32x224x224, on files in the published formats."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from kit.commands import Answer
from PIL import Image

from bench.models.nl import NLResNet


@pytest.mark.slow
def test_ucf101_nl_simple_runs_on_frames_and_a_checkpoint_in_the_authors_layout(
    bench: Callable[..., Answer], tmp_path: Path
) -> None:
    clip = tmp_path / "ucf" / "17"
    clip.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for t in range(32):
        Image.fromarray(rng.integers(0, 256, (224, 224, 3), dtype=np.uint8)).save(clip / f"{t}.png")
    torch.manual_seed(0)
    state = NLResNet(400).state_dict()
    state["fc.bias"][17] = 100.0  # so that the clean clip is right and the attack has work to do
    # The authors' files hold some tensors twice, under a second name.
    for key in [k for k in state if ".nonlocal_block.W." in k or ".nonlocal_block.bn." in k]:
        alias = key.replace("_block.W.", "_block.W_bn.0.").replace("_block.bn.", "_block.W_bn.1.")
        state[alias] = state[key]
    state["head.1.weight"], state["head.1.bias"] = state["fc.weight"], state["fc.bias"]
    (tmp_path / "ucf" / "checkpoints").mkdir()
    torch.save({"state_dict": state}, tmp_path / "ucf" / "checkpoints" / "NL_res50.pth")

    answer = bench(
        *("run", "--grid", "ucf101_nl_simple", "--data-root", tmp_path / "ucf", "--results", tmp_path / "r"),
        *("--steps", 1, "--defense", "jpeg", "--attack", "PGD"),
    )
    assert answer.code == 0, answer.err
    assert "1 of the 1 clips looked at are right by nl_r50." in answer.err
    files = list((tmp_path / "r" / "ucf101_nl_simple-steps1").glob("*jpeg--PGD--*.json"))
    (outcome,) = json.loads(files[0].read_text())["outcomes"]
    assert outcome["label"] == outcome["clean_prediction"] == 17
    assert (outcome["forwards"], outcome["backwards"]) == (2, 1)
    assert 0 < outcome["linf"] <= 4 / 255 + 1e-6
