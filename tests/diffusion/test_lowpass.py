"""The filter that stands in for a denoiser: against the best linear denoiser, by hand and by Monte Carlo."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from kit.diffusion import GaussianWorld, miniature
from kit.rendered import clips_of
from torch import Tensor

from bench import ClipRandom, DefendedClassifier
from bench.defense.defended import why_not
from bench.defenses.diffpure import DiffPureDDIM
from bench.defenses.jpeg import JPEG
from bench.defenses.videopure import VideoPure
from bench.diffusion.lowpass import wiener


def wave(fx: int, fy: int, ft: int, size: float, side: int = 16, frames: int = 8) -> Tensor:
    t, y, x = (torch.arange(n, dtype=torch.float64) for n in (frames, side, side))
    turns = ft * t[:, None, None] / frames + fy * y[:, None] / side + fx * x / side
    return (size * (2 * math.pi * turns).cos()).expand(1, 2, frames, side, side)


@pytest.mark.parametrize("per_frame", [False, True])
def test_a_wave_keeps_the_share_of_its_power(per_frame: bool) -> None:
    """Of a wave of amplitude ``A`` along x, all power is in two of its ring's frequencies and, of a clip, one rate."""
    level, size = 0.8, 0.3
    coarse, fine = wave(1, 0, 1, size), wave(6, 0, 1, size / 3)
    rows = torch.fft.fftfreq(16, dtype=torch.float64) * 16
    radius = torch.hypot(rows[:, None], rows).round()
    found = wiener(coarse + fine, level, per_frame=per_frame)
    expected = torch.zeros_like(coarse)
    for part, amplitude, ring in ((coarse, size, 1), (fine, size / 3, 6)):
        # cos: one coefficient of A / 2 at each of (f, rate) and (-f, -rate), times the root of the number of values.
        power = amplitude**2 / 4 * 8 * 16 * 16 / float((radius == ring).sum())
        if per_frame:
            power *= 2 / 8  # both rates, over eight
        expected += part * power / (power + (1 - level) / level)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_it_is_the_posterior_mean_of_white_noise() -> None:
    """Independent normals of deviation ``s`` keep ``s^2 / (s^2 + noise)``: what an exact denoiser of them answers."""
    world, level = GaussianWorld(0.0, 0.3), 0.85
    clean = 0.3 * ClipRandom([1]).normal(3, 16, 32, 32)
    found = wiener(clean, level, per_frame=True)
    kept = float((found * clean).sum() / clean.square().sum())
    t = int((world.alphas_cumprod - level).abs().argmin())
    a = float(world.alphas_cumprod[t])
    noise = world.predict_noise(clean, t)  # linear: what it leaves of its input, scaled back
    exact = float(((clean - (1 - a) ** 0.5 * noise) * clean).sum() / clean.square().sum())  # of x, not of x / sqrt(a)
    assert kept == pytest.approx(exact, rel=0.02)


def test_the_filter_is_held_constant() -> None:
    """Linear in the latents: the gradient sends the filter's transpose, which is the filter, of what comes back."""
    generator = torch.Generator().manual_seed(0)
    z, upstream = torch.randn(2, 1, 2, 4, 8, 8, generator=generator, dtype=torch.float64)
    leaf = z.clone().requires_grad_(True)
    (found,) = torch.autograd.grad(wiener(leaf, 0.7, per_frame=False), leaf, upstream)
    basis = torch.eye(z.numel(), dtype=torch.float64)[:3]
    for row, unit in enumerate(basis):
        # The response of the filter of z to a unit, by adding little of it: its own spectrum hardly changes.
        step = 1e-6 * unit.view_as(z)
        leaf = z.clone().requires_grad_(True)
        (column,) = torch.autograd.grad(wiener(leaf, 0.7, per_frame=False), leaf, step)
        assert float((column * upstream).sum()) == pytest.approx(1e-6 * float(found.flatten()[row]), rel=1e-6)


@pytest.mark.parametrize("settings", [{}, {"optimise": False}, {"candidate": 2}])
def test_videopures_push_turns_around_what_is_lost(settings: dict[str, Any]) -> None:
    """``(1 + k) R - k x``: estimates move on by ``k`` distances, so what ``R`` loses comes back as ``-k``."""
    defense: Any = miniature(VideoPure(**settings))
    latents = torch.zeros(1, 4, 32, 28, 28, dtype=torch.float64)
    pushes = [0.278, 0.281, 0.288, 0.306, 0.421, 0.496, 0.496]  # of the paper's size, the last timestep's twice
    expected = {"optimise": 0.0, "candidate": pushes[-3]}.get(next(iter(settings), ""), sum(pushes) / 7)
    assert defense.push(latents) == pytest.approx(expected, abs=6e-4)


@pytest.mark.parametrize(("kind", "least", "identity"), [(DiffPureDDIM, 0.7, 0.6), (VideoPure, 0.7, -0.6)])
@torch.no_grad()
def test_the_filter_foretells_what_is_left_of_noise(kind: type[Any], least: float, identity: float) -> None:
    """On the shipped model, in cosines: what comes through resembles the filtered noise more than the noise itself."""
    defense, clips = kind(steps=2), clips_of(1, 8)
    noise = 4 / 255 * ClipRandom([5]).normal(*clips.shape[1:]).sign()
    noisy = (clips + noise).clamp(0, 1)

    def through(work: Any) -> Tensor:
        shown = [work(c, ClipRandom([3])) for c in (noisy, clips)]
        left: Tensor = (shown[0] - shown[1]).flatten()
        return left

    def mean_vote(c: Tensor, rng: ClipRandom) -> Tensor:
        found = defense.purify(c, rng)
        return found.mean(0) if found.ndim == 6 else found

    left = through(mean_vote)
    assert float(torch.cosine_similarity(left, through(defense.lowpass), 0)) > least
    assert float(torch.cosine_similarity(left, (noisy - clips).flatten(), 0)) < identity


def test_the_gradient_is_that_of_the_filter_between_encoder_and_decoder() -> None:
    defense: Any = miniature(DiffPureDDIM(steps=2))
    backbone = defense.backbone
    clips = 0.2 + 0.6 * torch.rand(1, 3, 3, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    class Bright(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x.flatten(1).square().sum(1), x[:, 0].flatten(1).sum(1)], 1)

    leaf = clips.clone().requires_grad_(True)
    logits = DefendedClassifier(Bright(), defense, "bpda-lowpass")(leaf, ClipRandom([3]))
    (found,) = torch.autograd.grad(logits[:, 0].sum(), leaf)
    purified = defense.purify(clips, ClipRandom([3])).detach()
    assert float(logits[0, 0].detach()) == pytest.approx(float(purified.square().sum()))

    again = clips.clone().requires_grad_(True)
    level = float(backbone.alphas_cumprod[101])
    shown = backbone.decode(wiener(backbone.encode(again), level, per_frame=False))
    (expected,) = torch.autograd.grad(shown, again, 2 * purified)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_who_has_none() -> None:
    assert why_not(JPEG(), "bpda-lowpass") == "JPEG has no filter for bpda-lowpass to differentiate; use bpda."
    assert why_not(miniature(DiffPureDDIM(steps=2)), "bpda-lowpass") is None
