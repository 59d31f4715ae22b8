"""The swirl against scikit-image, and its draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kit.draws import draw
from kit.pictures import planes
from skimage.transform import swirl
from torch import Tensor

from bench import ClipRandom
from bench.defenses.swirl import Swirl


@pytest.mark.parametrize(
    ("strength", "radius", "x", "y"), [(2.0, 15.0, 11.0, 9.0), (0.3, 40.0, 3.2, 17.9), (3.0, 8.0, 0.0, 5.0)]
)
def test_swirl_is_scikit_image(strength: float, radius: float, x: float, y: float) -> None:
    clips = draw(1, 3, 2, 19, 24)
    found = Swirl.twist(clips, *(torch.tensor([number]) for number in (strength, radius, x, y)))
    expected = [
        swirl(plane, center=(x, y), strength=strength, radius=radius, order=1, mode="symmetric")
        for plane in planes(clips)
    ]
    np.testing.assert_allclose(planes(found), expected, rtol=0, atol=1e-4)


def test_swirl_of_no_strength_is_none_and_the_centre_stays() -> None:
    clips = draw(2, 3, 2, 15, 16)
    at = torch.tensor([4.0, 9.0]), torch.tensor([7.0, 2.0])
    radius = torch.tensor([20.0, 5.0])
    torch.testing.assert_close(Swirl.twist(clips, torch.zeros(2), radius, *at), clips, rtol=0, atol=1e-5)
    twisted = Swirl.twist(clips, torch.tensor([2.0, 3.0]), radius, *at)
    torch.testing.assert_close(twisted[0, :, :, 7, 4], clips[0, :, :, 7, 4], rtol=0, atol=1e-5)
    torch.testing.assert_close(twisted[1, :, :, 2, 9], clips[1, :, :, 2, 9], rtol=0, atol=1e-5)
    # Four times the radius away, nothing is left of the twist.
    torch.testing.assert_close(twisted[1, :, :, :, -1][..., -1], clips[1, :, :, :, -1][..., -1], rtol=0, atol=1e-3)


def test_swirl_draws_within_its_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Tensor] = []
    monkeypatch.setattr(Swirl, "twist", lambda self, clips, *numbers: drawn.append(torch.stack(numbers)) or clips)
    clips = torch.zeros(2000, 3, 1, 32, 64)
    Swirl(strength=3, radius=0.5).purify(clips, ClipRandom(range(2000)))
    ranges = [(0.01, 3), (32 * 10 / 256, 16), (0, 63), (0, 31)]
    for numbers, (low, high) in zip(drawn[0], ranges, strict=True):
        assert low <= float(numbers.min()) < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < float(numbers.max()) <= high
        assert float(numbers.mean()) == pytest.approx((low + high) / 2, abs=0.03 * (high - low))


def test_swirl_replays_its_draws_backwards() -> None:
    clips = draw(2, 3, 2, 12, 12)
    defense = Swirl()
    assert torch.equal(defense.bpda(clips, ClipRandom([5, 6])), defense.purify(clips, ClipRandom([5, 6])))
