"""What the defences say of themselves is true."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kit.pictures import scene

from bench import ClipRandom
from bench.defenses.jpeg import JPEG
from bench.defenses.none import NoDefense
from bench.defenses.temporal_shuffle import TemporalShuffle
from bench.defenses.wavelet import Wavelet


@pytest.mark.parametrize(
    ("defense", "differentiable", "stochastic", "identity"),
    [
        (NoDefense(), True, False, True),
        (JPEG(), False, False, False),
        (Wavelet(), True, False, False),
        (TemporalShuffle(), True, True, False),
    ],
)
def test_traits_are_true(defense: Any, differentiable: bool, stochastic: bool, identity: bool) -> None:
    clips = scene(2, 8, 16, 16).requires_grad_(True)
    first = defense.purify(clips, ClipRandom([1, 2]))
    second = defense.purify(clips, ClipRandom([3, 4]))
    assert first.requires_grad == defense.differentiable == differentiable
    assert (not torch.equal(first, second)) == defense.stochastic == stochastic
    assert torch.equal(first, clips) == defense.identity == identity
    assert first.min() >= 0
    assert first.max() <= 1
