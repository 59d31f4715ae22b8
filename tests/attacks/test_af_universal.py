"""The universal framing attack: the same learned border around every clip."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kit.draws import draw
from kit.framing import attacked
from kit.networks import Corner
from safetensors.torch import save_file
from torch import nn

from bench import BenchError, Budget
from bench.attacks.af_universal import UniversalFramingAttack
from bench.run.judge import violation
from bench.threat.framing import UniversalFraming, framed
from bench.training.recipes import RECIPES


def border_file(folder: Path, width: int = 2, size: int = 16) -> Path:
    border = UniversalFraming(None, width, size, size)
    nn.init.constant_(border.picture, 9.0)
    file = folder / "border.safetensors"
    save_file({k: v.detach().contiguous() for k, v in border.state_dict().items()}, file)
    return file


def test_the_attack_puts_the_same_learned_border_around_every_clip(tmp_path: Path) -> None:
    clips = draw(3, 3, 2, 16, 16)
    found = attacked(UniversalFramingAttack(str(border_file(tmp_path))), clips, 2)
    torch.testing.assert_close(found, framed(clips, torch.full((3, 1, 16, 16), 9.0).sigmoid(), 2))
    assert Corner()(found).argmax(1).tolist() == [1, 1, 1]
    assert torch.equal(attacked(UniversalFramingAttack("black"), clips, 2), framed(clips, torch.zeros(1), 2))
    random = attacked(UniversalFramingAttack("random"), clips, 2)
    assert torch.equal(random[:, :, 0, 0], random[:, :, 1, 0])  # the same in all frames
    assert not torch.equal(random[0, :, :, 0], random[1, :, :, 0])
    assert torch.equal(attacked(UniversalFramingAttack("random"), clips, 0), clips)
    for clean, adversarial in zip(clips, random, strict=True):
        assert violation(clean, adversarial, Budget("framing", 2.0)) is None


def test_bad_input(tmp_path: Path) -> None:
    clips = draw(1, 3, 2, 16, 16)
    with pytest.raises(BenchError, match="leaves nothing of frames of 16 x 16"):
        attacked(UniversalFramingAttack("black"), clips, 8)
    with pytest.raises(BenchError, match=r"No framing 9 pixels wide is shipped.*--recipe framing_9"):
        attacked(UniversalFramingAttack(), draw(1, 3, 2, 64, 64), 9)
    with pytest.raises(BenchError, match="whole number of pixels"):
        attacked(UniversalFramingAttack("black"), clips, 1.5)
    with pytest.raises(BenchError, match="takes framing budgets, not linf"):
        UniversalFramingAttack().check(Budget())
    with pytest.raises(BenchError, match="There is no checkpoint"):
        attacked(UniversalFramingAttack(str(tmp_path / "none.safetensors")), clips, 2)
    assert RECIPES["framing_4"].options == {"width": 4}
