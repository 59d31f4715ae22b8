"""Gaussian noise: its size, and the clip that it belongs to."""

from __future__ import annotations

import pytest
import torch

from bench import ClipRandom
from bench.defenses.gaussian_noise import GaussianNoise


def test_gaussian_noise_has_its_size_and_belongs_to_the_clip() -> None:
    clips = torch.full((3, 3, 4, 32, 32), 0.5)
    noise = GaussianNoise(0.1)
    together = noise.purify(clips, ClipRandom([4, 5, 6]))
    assert float((together - clips).std()) == pytest.approx(0.1, rel=0.03)
    torch.testing.assert_close(noise.purify(clips[1:2], ClipRandom([5])), together[1:2])
    assert noise.purify(clips * 2, ClipRandom([4, 5, 6])).max() <= 1
