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


@pytest.mark.parametrize(
    "text", ["wavelet(sigma=0)", "wavelet(sigma=-0.1)", "wavelet(wavelet='mexh')", "wavelet(wavelet='nope')"]
)
def test_wavelet_refuses(text: str) -> None:
    with pytest.raises(BenchError, match=r"defense 'wavelet' refuses its parameters: (sigma|wavelet)"):
        DEFENSES.create(text)
