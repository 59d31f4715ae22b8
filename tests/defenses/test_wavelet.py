"""Wavelet denoising against scikit-image."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from kit.pictures import frames_of, scene
from skimage.restoration import denoise_wavelet

from bench import BenchError, ClipRandom
from bench.defenses.wavelet import Wavelet
from bench.registry import DEFENSES


@pytest.mark.parametrize("sigma", [0.01, 0.03])
@pytest.mark.parametrize("wavelet", ["db1", "db2"])
@pytest.mark.parametrize("size", [(64, 64), (45, 50)])
def test_wavelet_is_scikit_image_frame_by_frame(sigma: float, wavelet: str, size: tuple[int, int]) -> None:
    clips = scene(1, 2, *size)
    found = Wavelet(sigma, wavelet).purify(clips, ClipRandom([0]))
    expected = [
        denoise_wavelet(
            frame.astype(np.float64),
            sigma=sigma,
            wavelet=wavelet,
            mode="soft",
            method="BayesShrink",
            convert2ycbcr=True,
            rescale_sigma=True,
            channel_axis=-1,
        ).clip(0, 1)
        for frame in frames_of(clips)
    ]
    assert found.dtype == torch.float32
    assert found.shape == clips.shape
    np.testing.assert_allclose(frames_of(found), np.stack(expected), rtol=0, atol=1e-5)
    assert float((found - clips).abs().mean()) > 0.1 * sigma  # it did something


def test_wavelet_removes_the_noise_it_expects() -> None:
    clean, noisy = scene(1, 2, 64, 64, noise=0), scene(1, 2, 64, 64, noise=0)
    noisy = (noisy + 0.03 * torch.randn(noisy.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    denoised = Wavelet(0.03, "db2").purify(noisy, ClipRandom([0]))
    assert (denoised - clean).square().mean() < 0.5 * (noisy - clean).square().mean()


def test_wavelet_treats_each_frame_by_itself() -> None:
    clips = scene(2, 2, 32, 32)
    together = Wavelet(0.03).purify(clips, ClipRandom([0, 1]))
    for b, t in np.ndindex(2, 2):
        alone = Wavelet(0.03).purify(clips[b : b + 1, :, t : t + 1], ClipRandom([0]))
        torch.testing.assert_close(together[b : b + 1, :, t : t + 1], alone, rtol=0, atol=1e-6)


def test_wavelet_leaves_a_flat_clip_alone() -> None:
    clips = torch.tensor([0.2, 0.6, 0.9]).reshape(1, 3, 1, 1, 1).expand(1, 3, 2, 32, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(Wavelet().purify(clips, ClipRandom([0])), clips, rtol=0, atol=1e-6)


@pytest.mark.parametrize("wavelet", ["db1", "db2"])
def test_wavelet_has_the_derivative_of_threshold_and_coefficients(wavelet: str) -> None:
    """Central differences in double precision, on frames whose sides are odd."""
    clips, weights = 0.3 + 0.4 * scene(1, 2, 19, 22).double(), scene(1, 2, 19, 22, seed=1).double() - 0.5
    defense, rng = Wavelet(0.03, wavelet), ClipRandom([0])
    leaf = clips.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad((weights * defense.purify(leaf, rng)).sum(), leaf)
    assert float((gradient - weights).abs().mean()) > 0.1 * float(weights.abs().mean())  # not the identity's
    for seed in range(3):
        direction = torch.randn(clips.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        ahead, behind = ((weights * defense.purify(clips + step * direction, rng)).sum() for step in (1e-6, -1e-6))
        assert float((ahead - behind) / 2e-6) == pytest.approx(float((gradient * direction).sum()), rel=1e-4)


def test_wavelet_threshold_follows_the_data() -> None:
    """Haar, one level, one sub-band with two coefficients that are not zero: the derivative by hand.

    A gray frame of 4x4 whose left column of 2x2 blocks carries a vertical edge. With w = (a, 0, b, 0) in the band,
    m = (a^2 + b^2) / 4, t = s^2 / sqrt(m - s^2), and d(a - t)/da = 1 + s^2 (m - s^2)^(-3/2) a / 4.
    """
    sigma = 0.03
    scale = float(np.linalg.norm([65.481, 128.553, 24.966]))
    level = 65.481 + 128.553 + 24.966  # of a gray value of 1 in luma; its chroma is constant

    def frame(a: float, b: float) -> torch.Tensor:
        gray = torch.full((4, 4), 0.5, dtype=torch.float64)
        for rows, w in ((slice(0, 2), a), (slice(2, 4), b)):
            gray[rows, 0] += w / 2
            gray[rows, 1] -= w / 2
        return gray.expand(1, 3, 1, 4, 4)

    a, b, s = 0.2 * level, 0.1 * level, sigma * scale
    m = (a**2 + b**2) / 4
    t = s**2 / np.sqrt(m - s**2)
    found = Wavelet(sigma).purify(frame(0.2, 0.1), ClipRandom([0]))
    assert float(found[0, 0, 0, 0, 0] - 0.5) == pytest.approx((a - t) / level / 2)
    leaf = frame(0.2, 0.1).clone().requires_grad_(True)
    shown = Wavelet(sigma).purify(leaf, ClipRandom([0]))
    edge = shown[0, 0, 0, 0, 0] - shown[0, 0, 0, 0, 1]  # the first coefficient, in gray values
    (gradient,) = torch.autograd.grad(edge, leaf)
    moves = frame(1.0, 0.0) - 0.5
    expected = 1 + s**2 * (m - s**2) ** -1.5 * a / 4
    assert float((gradient * moves).sum()) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text", ["wavelet(sigma=0)", "wavelet(sigma=-0.1)", "wavelet(wavelet='mexh')", "wavelet(wavelet='nope')"]
)
def test_wavelet_refuses(text: str) -> None:
    with pytest.raises(BenchError, match=r"defense 'wavelet' refuses its parameters: (sigma|wavelet)"):
        DEFENSES.create(text)
