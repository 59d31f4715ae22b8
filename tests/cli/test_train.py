"""``bench train``: resumed, and exported with what the manifest says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from kit.commands import Answer

Bench = Callable[..., Answer]


@pytest.mark.slow
def test_train_resumes_and_exports_what_the_manifest_says(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from safetensors.torch import load_file

    from bench.training import loop
    from bench.training.objectives.classifier import Classification
    from bench.training.recipes import RECIPES, Recipe
    from bench.weights.files import sha256_of

    monkeypatch.setitem(RECIPES, "short", Recipe("short", steps=4, batch=2, warmup=1))
    arguments = ("train", "--model", "nl_tiny", "--recipe", "short", "--curves", tmp_path / "curves")
    for name, value in (("clean_clips", 12), ("attacked_clips", 2), ("trials", 1)):
        monkeypatch.setattr(Classification, name, value)
    whole = bench(*arguments, "--work", tmp_path / "w", "--out", tmp_path / "whole")
    assert whole.code == 0, whole.err
    entry = json.loads(whole.out)
    file = tmp_path / "whole" / "nl_tiny-motion12.safetensors"
    assert entry["sha256"] == sha256_of(file)
    assert entry["figures"]["clean"]["clips"] == 12

    # Stopped after two steps, continued by the same command: the same weights.
    class Stop(Exception):
        pass

    clock = {"seconds": 0.0}

    def stop(state: loop.TrainingState) -> None:
        clock["seconds"] = state.seconds if state.step == 2 else clock["seconds"]
        if state.step == 3:
            raise Stop

    with pytest.raises(Stop):
        loop.train(
            "nl_tiny",
            "motion12",
            RECIPES["short"],
            seed=0,
            work=tmp_path / "v",
            device=torch.device("cpu"),
            report=stop,
            save_every=2,
        )
    again = bench(*arguments, "--work", tmp_path / "v", "--out", tmp_path / "resumed")
    assert again.code == 0, again.err
    resumed = load_file(tmp_path / "resumed" / "nl_tiny-motion12.safetensors")
    for name, tensor in load_file(file).items():
        assert torch.equal(tensor, resumed[name]), name

    stored = torch.load(tmp_path / "v" / "state.pt", weights_only=True)
    assert stored["seconds"] > clock["seconds"] > 0  # the first sitting counts too

    finished = bench(*arguments, "--work", tmp_path / "v", "--out", tmp_path / "once_more")
    assert finished.code == 0, finished.err
    assert json.loads(finished.out)["sha256"] == entry["sha256"]

    other = bench(*arguments, "--seed", 1, "--work", tmp_path / "v")
    assert other.code == 2
    assert "other settings" in other.err
