"""Universal framing: the geometry, the judge, the learned border and what it is applied to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.draws import draw
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from bench import BenchError, Budget, ClipRandom
from bench.attacks.af_universal import UniversalFramingAttack
from bench.run.judge import violation
from bench.threat.budgets import norm_of
from bench.threat.framing import UniversalFraming, framed
from bench.training.loop import export, train
from bench.training.objectives.framing import FramingObjective
from bench.training.recipes import RECIPES, Recipe

few = settings(max_examples=20, deadline=None, derandomize=True, database=None)


def test_a_framed_clip_is_the_shrunken_one_with_a_border() -> None:
    clips, picture = draw(2, 3, 2, 12, 12), torch.full((3, 1, 12, 12), 0.25)
    found = framed(clips, picture, 3)
    border = torch.ones(12, 12, dtype=torch.bool)
    border[3:-3, 3:-3] = False
    assert (found[..., border] == 0.25).all()
    # Half the size: every new pixel is the mean of the four it covers.
    expected = clips.unflatten(3, (6, 2)).unflatten(5, (6, 2)).mean((4, 6))
    torch.testing.assert_close(found[..., 3:-3, 3:-3], expected)
    assert torch.equal(framed(clips, picture, 0), clips)


@few
@given(st.integers(5, 9), st.integers(5, 9), st.integers(0, 2), st.integers(0, 1000))
def test_starts_and_projections_satisfy_the_judge_and_one_pixel_more_does_not(
    height: int, breadth: int, width: int, seed: int
) -> None:
    clips = draw(2, 3, 2, height, breadth, seed=seed)
    geometry = norm_of("framing")
    start = geometry.random_start(clips, width, ClipRandom([seed + 5000, seed + 5001]))
    for found in (start, geometry.project(2 * draw(*clips.shape, seed=seed + 1) - 0.5, clips, width)):
        assert geometry.distance(found, clips).tolist() == [width, width]
        for clean, adversarial in zip(clips, found, strict=True):
            assert violation(clean, adversarial, Budget("framing", float(width))) is None
            wrong = adversarial.clone()
            wrong[0, 0, height // 2, breadth // 2] += 1e-3 if wrong[0, 0, height // 2, breadth // 2] < 0.5 else -1e-3
            assert violation(clean, wrong, Budget("framing", float(width))) is not None


def test_shrinking_is_that_of_pillow_up_to_its_rounding() -> None:
    """Pillow smooths where it shrinks, so a picture without fine detail is compared."""
    ramp = torch.linspace(0, 1, 40)[None, :].expand(40, 40)
    clip = ramp[None, None, None].expand(1, 3, 1, 40, 40).contiguous()
    inner = framed(clip, torch.zeros(3, 1, 40, 40), 4)[0, 0, 0, 4:-4, 4:-4]
    small = Image.fromarray((255 * ramp).numpy()).resize((32, 32), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(inner[4:-4, 4:-4], np.asarray(small)[4:-4, 4:-4] / 255, atol=2e-3)


class Corner(nn.Module):
    """Class 1 where the upper left corner is bright: only a border can say so."""

    def forward(self, clips: Tensor) -> Tensor:
        score = 20 * (clips[..., :2, :2].mean((1, 2, 3, 4)) - 0.9)
        return torch.stack([-score, score], 1)


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


def border_file(folder: Path, width: int = 2, size: int = 16) -> Path:
    border = UniversalFraming(None, width, size, size)
    nn.init.constant_(border.picture, 9.0)
    file = folder / "border.safetensors"
    save_file({k: v.detach().contiguous() for k, v in border.state_dict().items()}, file)
    return file


def attack(made: UniversalFramingAttack, clips: Tensor, size: float) -> Tensor:
    labels = torch.zeros(len(clips), dtype=torch.int64)
    found = made(Corner(), clips, labels, Budget("framing", size), ClipRandom(range(len(clips))))
    return found.clips


def test_the_attack_puts_the_same_learned_border_around_every_clip(tmp_path: Path) -> None:
    clips = draw(3, 3, 2, 16, 16)
    found = attack(UniversalFramingAttack(str(border_file(tmp_path))), clips, 2)
    torch.testing.assert_close(found, framed(clips, torch.full((3, 1, 16, 16), 9.0).sigmoid(), 2))
    assert Corner()(found).argmax(1).tolist() == [1, 1, 1]
    assert torch.equal(attack(UniversalFramingAttack("black"), clips, 2), framed(clips, torch.zeros(1), 2))
    random = attack(UniversalFramingAttack("random"), clips, 2)
    assert torch.equal(random[:, :, 0, 0], random[:, :, 1, 0])  # the same in all frames
    assert not torch.equal(random[0, :, :, 0], random[1, :, :, 0])
    assert torch.equal(attack(UniversalFramingAttack("random"), clips, 0), clips)
    for clean, adversarial in zip(clips, random, strict=True):
        assert violation(clean, adversarial, Budget("framing", 2.0)) is None


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
    found = attack(UniversalFramingAttack(str(file)), clips, 3)
    torch.testing.assert_close(found, network.frame(clips))  # type: ignore[operator]
    with pytest.raises(BenchError, match=r"is 3 pixels wide, and the budget's size is 2"):
        attack(UniversalFramingAttack(str(file)), clips, 2)


def test_bad_input(tmp_path: Path) -> None:
    clips = draw(1, 3, 2, 16, 16)
    with pytest.raises(BenchError, match="leaves nothing of frames of 16 x 16"):
        attack(UniversalFramingAttack("black"), clips, 8)
    with pytest.raises(BenchError, match=r"No framing 9 pixels wide is shipped.*--recipe framing_9"):
        attack(UniversalFramingAttack(), draw(1, 3, 2, 64, 64), 9)
    with pytest.raises(BenchError, match="whole number of pixels"):
        attack(UniversalFramingAttack("black"), clips, 1.5)
    with pytest.raises(BenchError, match="takes framing budgets, not linf"):
        UniversalFramingAttack().check(Budget())
    with pytest.raises(BenchError, match="There is no checkpoint"):
        attack(UniversalFramingAttack(str(tmp_path / "none.safetensors")), clips, 2)
    assert RECIPES["framing_4"].options == {"width": 4}
