"""The reduction of the bit depth, by hand."""

from __future__ import annotations

import pytest
import torch
from kit.pictures import apply
from scipy.stats import norm

from bench import ClipRandom
from bench.defenses.bit_depth import BitDepth


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        (1, [0, 0, 0, 1, 1, 1]),
        (2, [0, 0, 1 / 3, 2 / 3, 2 / 3, 1]),
        (3, [0, 1 / 7, 3 / 7, 4 / 7, 5 / 7, 1]),
        (5, [0, 3 / 31, 14 / 31, 17 / 31, 22 / 31, 1]),
    ],
)
def test_bit_depth_by_hand(bits: int, expected: list[float]) -> None:
    clips = torch.tensor([0, 0.1, 0.45, 0.55, 0.7, 1]).expand(1, 3, 1, 1, 6)
    torch.testing.assert_close(apply(f"bit_depth(bits={bits})", clips)[0, 1, 0, 0], torch.tensor(expected).float())


@pytest.mark.parametrize("bits", range(1, 9))
def test_bit_depth_has_its_levels_and_errs_by_half_a_step(bits: int) -> None:
    clips = torch.linspace(0, 1, 3 * 4000).reshape(1, 3, 1, 40, 100)
    found = apply(f"bit_depth(bits={bits})", clips)
    assert len(found.unique()) == 2**bits
    assert float((found - clips).abs().max()) <= 0.5 / (2**bits - 1) + 1e-6


@pytest.mark.parametrize(("bits", "spread"), [(1, 0.05), (2, 0.15), (5, 0.5), (8, 0.5)])
def test_bit_depth_goes_back_by_how_likely_noise_changes_the_level(bits: int, spread: float) -> None:
    clips = torch.linspace(0, 1, 48).reshape(1, 3, 1, 4, 4).requires_grad_(True)
    stand_in = BitDepth(bits).bpda(clips, ClipRandom([0]))
    assert torch.equal(stand_in.detach(), apply(f"bit_depth(bits={bits})", clips.detach()))
    (found,) = torch.autograd.grad(stand_in.sum(), clips)
    steps = 2**bits - 1
    thresholds = torch.arange(-6, steps + 6) + 0.5  # beyond 0 and 1, too: there the range ends, not the slope
    off = (thresholds - steps * clips.detach().flatten()[:, None]) / spread
    expected = torch.from_numpy(norm.pdf(off.double().numpy()).sum(1) / spread)
    torch.testing.assert_close(found.flatten().double(), expected, rtol=1e-3, atol=1e-3)
    if bits >= 5:
        torch.testing.assert_close(found, torch.ones_like(found), rtol=0, atol=0.02)
