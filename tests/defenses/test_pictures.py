"""Shipped defences against reference implementations: Pillow, scikit-image, and gathers done by hand."""

from __future__ import annotations

import io
import warnings
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.restoration import denoise_wavelet
from torch import Tensor, nn

from bench import BenchError, ClipRandom, DefendedClassifier
from bench.defenses.jpeg import JPEG
from bench.defenses.none import NoDefense
from bench.defenses.temporal_shuffle import TemporalShuffle
from bench.defenses.wavelet import Wavelet
from bench.registry import DEFENSES

few = settings(max_examples=30, deadline=None, derandomize=True, database=None)


def scene(batch: int, frames: int, height: int, width: int, noise: float = 0.03, seed: int = 0) -> Tensor:
    """Smooth coloured waves with noise, ``(B, 3, T, H, W)`` in ``[0, 1]``."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = np.zeros((batch, 3, frames, height, width))
    for b, c, t in np.ndindex(batch, 3, frames):
        fx, fy, phase = rng.uniform((0.02, 0.02, 0), (0.15, 0.15, 6))
        waves[b, c, t] = 0.5 + 0.35 * np.sin(fx * x + fy * y + phase)
    waves += noise * rng.standard_normal(waves.shape)
    return torch.from_numpy(waves.clip(0, 1)).float()


def frames_of(clips: Tensor) -> np.ndarray:
    return clips.permute(0, 2, 3, 4, 1).flatten(0, 1).numpy()


# --- JPEG -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quality", "subsampling"), [(75, "4:2:0"), (30, "4:4:4"), (90, "4:2:2"), (1, "4:2:0"), (95, "4:4:4")]
)
def test_jpeg_is_pillow_frame_by_frame(quality: int, subsampling: Any) -> None:
    clips = scene(2, 3, 20, 27)
    found = JPEG(quality, subsampling).purify(clips, ClipRandom([0, 1]))
    expected = []
    for frame in frames_of(clips):
        buffer = io.BytesIO()
        picture = Image.fromarray(np.rint(frame * 255).astype(np.uint8))
        picture.save(buffer, "JPEG", quality=quality, subsampling=subsampling)
        expected.append(np.asarray(Image.open(buffer), dtype=np.float32) / 255)
    assert found.dtype == torch.float32
    assert found.shape == clips.shape
    np.testing.assert_array_equal(frames_of(found), np.stack(expected))


def test_jpeg_error_grows_as_quality_falls() -> None:
    clips = scene(1, 2, 32, 32)
    errors = [float((JPEG(q).purify(clips, ClipRandom([0])) - clips).square().mean()) for q in (5, 20, 50, 80, 95)]
    assert all(worse > 1.1 * better for worse, better in pairwise(errors))


def test_jpeg_rounding() -> None:
    """A gray frame of 100.6 / 255 becomes byte 101 or 100, which quality 95 keeps exactly (DC quantum 2)."""
    clips = torch.full((1, 3, 1, 16, 16), 100.6 / 255)
    nearest = JPEG(95, rounding="nearest").purify(clips, ClipRandom([0]))
    truncated = JPEG(95, rounding="truncate").purify(clips, ClipRandom([0]))
    torch.testing.assert_close(nearest, torch.full_like(clips, 101 / 255))
    torch.testing.assert_close(truncated, torch.full_like(clips, 100 / 255))


def test_jpeg_subsampling_costs_chroma() -> None:
    """Columns that alternate in colour but not in luma survive 4:4:4 and are averaged away by 4:2:0."""
    clips = torch.zeros(1, 3, 1, 32, 32)
    for column in range(32):
        # Luma is .299 R + .587 G + .114 B = .5 for both colours.
        red = 0.5 + (0.2 if column % 2 else -0.2)
        clips[0, :, 0, :, column] = torch.tensor([red, 0.5 - 0.299 / 0.587 * (red - 0.5), 0.5])[:, None]
    error = {s: float((JPEG(95, s).purify(clips, ClipRandom([0])) - clips).abs().mean()) for s in ("4:4:4", "4:2:0")}
    assert error["4:4:4"] < 0.03
    assert error["4:2:0"] > 0.08
    flat = JPEG(95, "4:2:0").purify(clips, ClipRandom([0]))[0, 0, 0]
    assert float((flat[:, 0::2].mean() - flat[:, 1::2].mean()).abs()) < 0.02


def test_jpeg_treats_each_frame_by_itself() -> None:
    clips = scene(2, 3, 16, 16)
    other = clips.clone()
    other[1, :, 2] = 0.5
    before, after = (JPEG().purify(c, ClipRandom([0, 1])) for c in (clips, other))
    changed = (before != after).int().amax(dim=(1, 3, 4)).bool()
    assert changed.tolist() == [[False, False, False], [False, False, True]]


@pytest.mark.parametrize(
    "text", ["jpeg(quality=0)", "jpeg(quality=96)", "jpeg(subsampling='4:1:1')", "jpeg(rounding='up')"]
)
def test_jpeg_refuses(text: str) -> None:
    with pytest.raises(BenchError, match=r"defense 'jpeg' refuses its parameters: (quality|subsampling|rounding)"):
        DEFENSES.create(text)


# --- wavelet --------------------------------------------------------------------------------------------------


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


# --- temporal shuffle -----------------------------------------------------------------------------------------


@few
@given(st.integers(1, 20), st.integers(0, 9), st.integers(0, 1000))
def test_window_shuffle_permutes_inside_each_window(frames: int, window: int, seed: int) -> None:
    order = TemporalShuffle(window=window).order(frames, ClipRandom([seed, seed + 1]))
    assert order.shape == (2, frames)
    size = window or frames
    for row in order.tolist():
        for start in range(0, frames, size):
            inside = range(start, min(start + size, frames))
            assert sorted(row[start : start + size]) == list(inside)


def test_window_shuffle_draws_every_order_equally_often() -> None:
    order = TemporalShuffle(window=3).order(3, ClipRandom(range(3000)))
    counts = torch.unique(order, dim=0, return_counts=True)[1]
    assert len(counts) == 6
    assert counts.min() > 400  # 500 expected, standard deviation 20
    assert counts.max() < 600


def is_chunked(order: list[int], reach: int, length: int) -> bool:
    """Whether the rule of ``chunks`` can make this order: tried run by run, from the definition."""
    frames, at = len(order), 0
    while at < frames:
        start = order[at]
        if start - at == 0 or abs(start - at) > reach or not 0 <= start < frames:
            return False
        # `length` frames are copied, fewer only where the source or the clip ends.
        count = min(length, frames - start, frames - at)
        if order[at : at + count] != list(range(start, start + count)):
            return False
        at += count
    return True


@few
@given(st.integers(2, 24), st.integers(1, 4), st.integers(1, 6), st.integers(0, 1000))
def test_chunks_shuffle_copies_runs_from_nearby(frames: int, reach: int, length: int, seed: int) -> None:
    shuffle = TemporalShuffle("chunks", reach=reach, length=length)
    for row in shuffle.order(frames, ClipRandom(range(seed, seed + 4))).tolist():
        assert len(row) == frames
        assert is_chunked(row, reach, length), row
    assert not is_chunked(list(range(frames)), reach, length)


def test_chunks_shuffle_draws_each_offset_equally_often() -> None:
    order = TemporalShuffle("chunks").order(16, ClipRandom(range(2000)))
    # The first start has only +1 and +2 inside the clip; the second, at frame 4, has all four offsets.
    first = order[:, 0].bincount(minlength=16)
    second = order[:, 4].bincount(minlength=16)
    assert first.nonzero().flatten().tolist() == [1, 2]
    assert second.nonzero().flatten().tolist() == [2, 3, 5, 6]
    assert (first[[1, 2]] - 1000).abs().max() < 100
    assert (second[[2, 3, 5, 6]] - 500).abs().max() < 90


def test_single_frame_survives_a_chunks_shuffle() -> None:
    assert TemporalShuffle("chunks").order(1, ClipRandom([0])).tolist() == [[0]]


@pytest.mark.parametrize("shuffle", [TemporalShuffle(window=0), TemporalShuffle("chunks")])
def test_shuffle_order_belongs_to_the_clip(shuffle: TemporalShuffle) -> None:
    clips = torch.arange(16.0).reshape(1, 1, 16, 1, 1).expand(3, 3, 16, 2, 2) / 16
    together = shuffle.purify(clips, ClipRandom([1, 2, 3]))
    orders = (together[:, 0, :, 0, 0] * 16).round().long().tolist()
    assert len({tuple(o) for o in orders}) == 3
    assert torch.equal(together, shuffle.purify(clips, ClipRandom([1, 2, 3])))
    assert torch.equal(together[2:], shuffle.purify(clips[2:], ClipRandom([3])))
    rng = ClipRandom([1, 2, 3])
    shuffle.purify(clips, rng)
    assert not torch.equal(together, shuffle.purify(clips, rng))  # a fresh draw each time


@pytest.mark.parametrize("shuffle", [TemporalShuffle(window=3), TemporalShuffle("chunks")])
def test_shuffle_moves_whole_frames_and_scatters_gradients_back(shuffle: TemporalShuffle) -> None:
    clips = scene(2, 7, 3, 4).requires_grad_(True)
    rng = ClipRandom([5, 6])
    order = shuffle.order(7, rng.clone()).tolist()
    shuffled = shuffle.purify(clips, rng)
    weight = torch.randn(shuffled.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((weight * shuffled).sum(), clips)
    expected = torch.zeros_like(gradient)
    for b in range(2):
        for t, source in enumerate(order[b]):
            assert torch.equal(shuffled[b, :, t], clips[b, :, source])
            expected[b, :, source] += weight[b, :, t]
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("gradient", ["exact", "bpda"])
@pytest.mark.parametrize("shuffle", [TemporalShuffle(window=3), TemporalShuffle("chunks")])
def test_gradients_of_the_shuffle_equal_finite_differences(shuffle: TemporalShuffle, gradient: str) -> None:
    """Through a smooth classifier that cares about frame order, in double precision, the same draws replayed."""

    class Smooth(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            generator = torch.Generator().manual_seed(2)
            self.inner = nn.Parameter(torch.randn(5, 3 * 5 * 2 * 2, generator=generator, dtype=torch.float64))
            self.outer = nn.Parameter(torch.randn(3, 5, generator=generator, dtype=torch.float64))

        def forward(self, clips: Tensor) -> Tensor:
            return torch.tanh(clips.flatten(1) @ self.inner.T / 4) @ self.outer.T

    defended = DefendedClassifier(Smooth(), shuffle, gradient)
    clips = scene(2, 5, 2, 2).double().requires_grad_(True)
    rng = ClipRandom([3, 4])
    assert torch.autograd.gradcheck(lambda x: defended(x, rng.clone()), (clips,), eps=1e-6, atol=1e-7)
    plain = torch.autograd.grad(defended.classifier(clips)[:, 0].sum(), clips)[0]
    shuffled = torch.autograd.grad(defended(clips, rng.clone())[:, 0].sum(), clips)[0]
    assert not torch.allclose(plain, shuffled)


@pytest.mark.parametrize(
    "how",
    [
        {"variant": "blocks"},
        {"window": -1},
        {"variant": "chunks", "reach": 0},
        {"variant": "chunks", "length": 0},
    ],
)
def test_shuffle_refuses(how: dict[str, Any]) -> None:
    with pytest.raises(BenchError, match=r"'temporal_shuffle' refuses its parameters"):
        DEFENSES.create({"name": "temporal_shuffle", **how})


# --- what they say of themselves ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("defense", "differentiable", "stochastic", "identity"),
    [
        (NoDefense(), True, False, True),
        (JPEG(), False, False, False),
        (Wavelet(), False, False, False),
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
