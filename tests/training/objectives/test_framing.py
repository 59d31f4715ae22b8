"""A border is learned, exported and applied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from kit.draws import draw
from kit.framing import attacked
from kit.networks import Corner

from bench import BenchError
from bench.attacks.af_universal import UniversalFramingAttack
from bench.threat.framing import UniversalFraming
from bench.training.loop import export, train
from bench.training.objectives.framing import FramingObjective
from bench.training.recipes import Recipe


def test_the_objective_paints_what_fools_the_classifier() -> None:
    made = FramingObjective(2)
    network = UniversalFraming(Corner(), 2, 16, 16)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.3)
    clips, labels = 0.5 * draw(4, 3, 2, 16, 16), torch.zeros(4, dtype=torch.int64)
    for _ in range(30):
        loss, figures = made.loss(network, (clips, labels), torch.Generator())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert figures["accuracy"] == 0
    picture = network.picture.detach().sigmoid()
    assert (picture[..., :2, :2] > 0.9).all()
    assert (picture[..., 4:, 4:] == 0.5).all()  # nothing learned where nothing matters


def test_a_border_is_trained_exported_and_applied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FramingObjective, "test_clips", 4)
    what = Recipe("framing_3", "framing", {"width": 3}, steps=2, batch=2, lr=0.5, weight_decay=0.0, warmup=1)
    settings: dict[str, Any] = {"seed": 0, "device": torch.device("cpu")}
    network = train("resnet3d_tiny", "motion12", what, work=tmp_path / "work", report=lambda _: None, **settings)
    entry = export(network, "resnet3d_tiny", "motion12", what, seconds=1.0, out=tmp_path, **settings)
    assert (entry["kind"], entry["model"]) == ("framing", "resnet3d_tiny_framing_3")
    assert set(entry["figures"]) == {"clean", "black", "random", "learned"}
    assert entry["figures"]["clean"]["accuracy"] == 100.0  # the shipped classifier stands behind it
    (file,) = tmp_path.glob("*.safetensors")
    clips = draw(2, 3, 2, 64, 64)
    found = attacked(UniversalFramingAttack(str(file)), clips, 3)
    torch.testing.assert_close(found, network.frame(clips))  # type: ignore[operator]
    with pytest.raises(BenchError, match=r"is 3 pixels wide, and the budget's size is 2"):
        attacked(UniversalFramingAttack(str(file)), clips, 2)
