"""Noise that is uniform in a ball."""

from __future__ import annotations

import pytest
import torch

from bench import ClipRandom
from bench.defenses.random_noise import RandomNoise

BOUND = 12 / 255


def test_noise_is_uniform_in_the_ball_and_in_the_range() -> None:
    clips = torch.full((2, 3, 4, 16, 16), 0.5)
    found = RandomNoise().purify(clips, ClipRandom([3, 4]))
    moved = found - clips
    assert float(moved.abs().max()) == pytest.approx(BOUND, rel=1e-2)
    assert float(moved.std()) == pytest.approx(BOUND / 3**0.5, rel=3e-2)
    assert torch.equal(RandomNoise().purify(clips[1:], ClipRandom([4])), found[1:])
    assert not torch.equal(found[0], found[1])
    for end in (0.0, 1.0):
        noisy = RandomNoise("12/255").purify(torch.full_like(clips, end), ClipRandom([3, 4]))
        assert (noisy >= 0).all()
        assert (noisy <= 1).all()
        assert float((noisy == end).double().mean()) == pytest.approx(0.5, abs=0.03)
    assert RandomNoise.stochastic
