"""Picture transforms as defences: known answers, plain loops, SciPy, scikit-image and finite differences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import convolve1d, median_filter, uniform_filter
from skimage.exposure import equalize_hist
from skimage.transform import swirl
from torch import Tensor

from bench import BenchError, ClipRandom, Purifier
from bench.defenses.swirl import Swirl
from bench.registry import DEFENSES

few = settings(max_examples=10, deadline=None, derandomize=True, database=None)

EXACT = ["bilateral", "fft", "gaussian_blur", "grayscale", "mean", "median", "nonlocal_means", "resize", "swirl"]
SHATTERED = ["bit_depth", "equalize", "halftone"]
ALL = EXACT + SHATTERED


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Uniform in ``[0, 1]``, independent values."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def apply(text: str, clips: Tensor) -> Tensor:
    defense: Purifier = DEFENSES.create(text)
    return defense.purify(clips, ClipRandom(range(len(clips))))


def planes(clips: Tensor) -> list[np.ndarray]:
    """Every channel of every frame, ``(H, W)``."""
    return list(clips.flatten(0, 2).double().numpy())


# --- what is true of all --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
@few
@given(st.integers(1, 2), st.integers(1, 3), st.integers(1, 17), st.integers(1, 17), st.integers(0, 99))
def test_any_size_goes_in_and_comes_out(name: str, batch: int, frames: int, height: int, width: int, seed: int) -> None:
    clips = noise(batch, 3, frames, height, width, seed=seed)
    before = clips.clone()
    found = apply(name, clips)
    assert found.shape == clips.shape
    assert found.dtype == torch.float32
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    assert torch.equal(clips, before)  # the clips given are not written to


@pytest.mark.parametrize("name", ALL)
def test_a_clip_does_not_depend_on_its_batch_nor_on_earlier_calls(name: str) -> None:
    defense = DEFENSES.create(name)
    clips = 0.4 + 0.1 * noise(3, 3, 4, 18, 15)  # little contrast: non-local means finds something alike
    together = defense.purify(clips, ClipRandom([1, 2, 3]))
    again = defense.purify(clips, ClipRandom([1, 2, 3]))
    alone = torch.cat([defense.purify(clips[i : i + 1], ClipRandom([i + 1])) for i in range(3)])
    assert torch.equal(together, again)
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-6)
    assert float((together - clips).abs().mean()) > 1e-4  # it did something


@pytest.mark.parametrize("name", ALL)
def test_all_frames_of_a_clip_are_treated_alike(name: str) -> None:
    """Equal frames stay equal, and a frame does not feel the others."""
    clips = noise(2, 3, 1, 16, 21).repeat(1, 1, 3, 1, 1)
    found = apply(name, clips)
    torch.testing.assert_close(found, found[:, :, :1].expand_as(found), rtol=0, atol=1e-6)
    other = clips.clone()
    other[:, :, 1] = noise(2, 3, 16, 21, seed=1)
    changed = apply(name, other)
    torch.testing.assert_close(changed[:, :, ::2], found[:, :, ::2], rtol=0, atol=1e-6)
    assert not torch.allclose(changed[:, :, 1], found[:, :, 1])


@pytest.mark.parametrize("name", ["bilateral", "equalize", "fft", "gaussian_blur", "mean", "median", "nonlocal_means"])
def test_a_flat_clip_stays_as_it_is(name: str) -> None:
    clips = torch.tensor([0.2, 0.6, 0.9]).reshape(1, 3, 1, 1, 1).expand(1, 3, 2, 9, 12)
    torch.testing.assert_close(apply(name, clips), clips, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["resize", "resize(scale=0.3)", "swirl"])
def test_flat_colours_survive_resampling(name: str) -> None:
    clips = torch.tensor([0.2, 0.6, 0.9]).reshape(1, 3, 1, 1, 1).expand(1, 3, 2, 9, 12)
    torch.testing.assert_close(apply(name, clips), clips, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", EXACT)
def test_exact_gradients_equal_finite_differences(name: str) -> None:
    """In double precision; away from 0 and 1, so that no clamp is met."""
    defense = DEFENSES.create("nonlocal_means(window=3, strength=0.1)" if name == "nonlocal_means" else name)
    assert defense.differentiable
    # A shuffled ramp: no two values are close, so the order that a median looks at does not change on the way.
    order = torch.randperm(3 * 2 * 5 * 6, generator=torch.Generator().manual_seed(3))
    clips = (0.4 + 0.2 * order.double() / len(order)).reshape(1, 3, 2, 5, 6).requires_grad_(True)
    weight = torch.randn(clips.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    def value(x: Tensor) -> Tensor:
        return (weight * defense.purify(x, ClipRandom([10]))).sum()

    assert torch.autograd.gradcheck(value, (clips,), eps=1e-6, atol=1e-6)
    (gradient,) = torch.autograd.grad(value(clips), clips)
    assert float((gradient - weight).abs().max()) > 0.1  # not that of the identity


@pytest.mark.parametrize("name", SHATTERED)
def test_without_an_exact_gradient_the_identity_stands_in(name: str) -> None:
    defense = DEFENSES.create(name)
    assert not defense.differentiable
    clips = noise(1, 3, 2, 8, 8).requires_grad_(True)
    assert not defense.purify(clips, ClipRandom([0])).requires_grad
    assert defense.bpda(clips, ClipRandom([0])) is clips


@pytest.mark.parametrize("name", ALL)
def test_only_the_swirl_draws(name: str) -> None:
    defense = DEFENSES.create(name)
    clips = noise(1, 3, 2, 20, 20)
    same = torch.equal(*(defense.purify(clips, ClipRandom([seed])) for seed in (0, 1)))
    assert defense.stochastic == (not same) == (name == "swirl")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("halftone(threshold=0)", "threshold must be between 0 and 1, not 0"),
        ("halftone(threshold=1.0)", "threshold must be between 0 and 1, not 1.0"),
        ("bit_depth(bits=0)", "bits must be a whole number, 1 to 8, not 0"),
        ("bit_depth(bits=2.5)", "bits must be a whole number, 1 to 8, not 2.5"),
        ("gaussian_blur(sigma=0)", "sigma must be positive, not 0"),
        ("gaussian_blur(size=4)", "size must be an odd number of pixels, not 4"),
        ("mean(size=2)", "size must be an odd number of pixels, not 2"),
        ("median(size=0)", "size must be a whole number of pixels, 1 or more, not 0"),
        ("bilateral(size=6)", "size must be an odd number of pixels, not 6"),
        ("bilateral(sigma_color=0)", "sigma_color must be positive, not 0"),
        ("bilateral(sigma_space=-1)", "sigma_space must be positive, not -1"),
        ("nonlocal_means(window=10)", "window must be an odd number of pixels, not 10"),
        ("nonlocal_means(patch=0)", "patch must be an odd number of pixels, not 0"),
        ("nonlocal_means(strength=0)", "strength must be positive, not 0"),
        ("resize(scale=1)", "scale must be above 0 and below 1, not 1"),
        ("swirl(strength=0)", "strength must be at least 0.01, not 0"),
        ("swirl(radius=0.01)", "radius must be at least 10/256 of the frame height, not 0.01"),
        ("equalize(bins=1)", "bins must be a whole number of 2 or more, not 1"),
        ("fft(keep=0)", "keep must be above 0 and at most 1, not 0"),
        ("fft(keep=1.5)", "keep must be above 0 and at most 1, not 1.5"),
    ],
)
def test_bad_parameters_are_told_in_a_sentence(text: str, why: str) -> None:
    with pytest.raises(BenchError) as caught:
        DEFENSES.create(text)
    assert str(caught.value) == f"defense {text.split('(')[0]!r} refuses its parameters: {why}"


# --- halftone -------------------------------------------------------------------------------------------------


def floyd_steinberg(plane: np.ndarray, threshold: float) -> np.ndarray:
    """Pixel by pixel in raster order; errors are handed on, not collected."""
    value, sixteenth = plane.astype(np.float32), np.float32(1 / 16)
    height, width = value.shape
    dots = np.zeros_like(value)
    for i in range(height):
        for j in range(width):
            dots[i, j] = value[i, j] >= np.float32(threshold)
            error = value[i, j] - dots[i, j]
            for down, right, share in ((0, 1, 7), (1, -1, 3), (1, 0, 5), (1, 1, 1)):
                if i + down < height and 0 <= j + right < width:
                    value[i + down, j + right] += error * (share * sixteenth)
    return dots


@few
@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from([0.5, 0.3]), st.integers(0, 99))
def test_halftone_is_the_double_loop(height: int, width: int, threshold: float, seed: int) -> None:
    clips = noise(2, 3, 2, height, width, seed=seed)
    found = apply(f"halftone(threshold={threshold})", clips)
    expected = [floyd_steinberg(plane, threshold) for plane in planes(clips)]
    np.testing.assert_array_equal(planes(found), expected)


def test_halftone_of_a_larger_frame() -> None:
    clips = noise(1, 3, 1, 37, 52)
    np.testing.assert_array_equal(planes(apply("halftone", clips)), [floyd_steinberg(p, 0.5) for p in planes(clips)])


@pytest.mark.parametrize("level", [0.0, 0.1, 0.25, 0.5, 0.8, 1.0])
def test_halftone_keeps_the_mean_with_two_values(level: float) -> None:
    dots = apply("halftone", torch.full((1, 3, 1, 64, 64), level))
    assert set(dots.unique().tolist()) <= {0.0, 1.0}
    assert float(dots.mean()) == pytest.approx(level, abs=0.01)


def test_halftone_by_hand() -> None:
    """0.6 becomes 1 and hands on -0.4: the right gets 0.6 - 0.175, below it 0.6 - 0.125."""
    clips = torch.full((1, 3, 1, 2, 2), 0.6)
    # (0, 0) 1, error -.4; (0, 1) .425 -> 0, error .425; (1, 0) .6 - .125 + .0796875 = .5546875 -> 1, error -.4453125;
    # (1, 1) .6 - .025 + .1328125 - .1948242 = .5129883 -> 1.
    assert apply("halftone", clips)[0, 0, 0].tolist() == [[1, 0], [1, 1]]


# --- bit depth, grayscale -------------------------------------------------------------------------------------


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


def test_grayscale_weights() -> None:
    clips = torch.eye(3).reshape(3, 3, 1, 1, 1).expand(3, 3, 2, 4, 5)  # a red, a green and a blue clip
    for clip, luma in zip(apply("grayscale", clips), (0.299, 0.587, 0.114), strict=True):
        torch.testing.assert_close(clip, torch.full_like(clip, luma))
    white = torch.ones(1, 3, 1, 2, 2)
    torch.testing.assert_close(apply("grayscale", white), white)


# --- smoothing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sigma", "size"), [(1.0, 5), (0.5, 3), (2.0, 9)])
def test_gaussian_blur_is_scipy(sigma: float, size: int) -> None:
    clips = noise(2, 3, 2, 13, 18)
    weights = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    expected = [
        convolve1d(convolve1d(p, weights, 0, mode="nearest"), weights, 1, mode="nearest") for p in planes(clips)
    ]
    found = apply(f"gaussian_blur(sigma={sigma}, size={size})", clips)
    np.testing.assert_allclose(planes(found), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_mean_is_scipy(size: int) -> None:
    clips = noise(2, 3, 2, 13, 18)
    expected = [uniform_filter(plane, size, mode="nearest") for plane in planes(clips)]
    np.testing.assert_allclose(planes(apply(f"mean(size={size})", clips)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_median_is_scipy(size: int) -> None:
    clips = noise(2, 3, 2, 13, 18)
    expected = [median_filter(plane, size, mode="nearest") for plane in planes(clips)]
    np.testing.assert_array_equal(planes(apply(f"median(size={size})", clips)), expected)


def test_median_removes_salt_and_keeps_an_edge() -> None:
    clean = torch.zeros(1, 3, 1, 12, 12)
    clean[..., 6:] = 0.5
    salted = clean.clone()
    salted[..., 4, 3] = salted[..., 8, 9] = salted[..., 0, 0] = 1.0
    assert torch.equal(apply("median", salted), clean)
    assert not torch.allclose(apply("mean", salted), clean, atol=0.05)


def test_bilateral_is_the_plain_loop() -> None:
    clips = noise(1, 3, 2, 6, 7) * 0.3
    found = apply("bilateral(size=3, sigma_color='25/255', sigma_space=1.5)", clips)
    for t in range(2):
        frame = clips[0, :, t].double().numpy()
        for i, j in np.ndindex(6, 7):
            total, weights = np.zeros(3), 0.0
            for di, dj in np.ndindex(3, 3):
                near = frame[:, min(max(i + di - 1, 0), 5), min(max(j + dj - 1, 0), 6)]
                far, unlike = (di - 1) ** 2 + (dj - 1) ** 2, np.abs(near - frame[:, i, j]).sum()
                weight = math.exp(-far / (2 * 1.5**2) - unlike**2 / (2 * (25 / 255) ** 2))
                total, weights = total + weight * near, weights + weight
            np.testing.assert_allclose(found[0, :, t, i, j].numpy(), total / weights, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["bilateral", "nonlocal_means(strength=0.1)"])
def test_noise_goes_and_edges_stay(name: str) -> None:
    clean = torch.full((1, 3, 1, 24, 24), 0.2)
    clean[..., 12:] = 0.8
    noisy = clean + 0.06 * (noise(*clean.shape) - 0.5)
    error = {what: float((apply(what, noisy) - clean).square().mean()) for what in (name, "mean")}
    assert error[name] < 0.3 * float((noisy - clean).square().mean())
    assert error["mean"] > 10 * error[name]  # which blurs the edge


def test_nonlocal_means_is_the_plain_loop() -> None:
    clips = 0.5 + 0.1 * noise(1, 3, 1, 7, 6)
    found = apply("nonlocal_means(window=5, patch=3, strength='10/255')", clips)
    frame = np.pad(clips[0, :, 0].double().numpy(), ((0, 0), (3, 3), (3, 3)), mode="edge")
    for i, j in np.ndindex(7, 6):
        total, weights = np.zeros(3), 0.0
        for k, m in np.ndindex(5, 5):
            row, column = i + 1 + k, j + 1 + m  # of the other pixel; this one is at i + 3, j + 3
            here = frame[:, i + 2 : i + 5, j + 2 : j + 5]
            there = frame[:, row - 1 : row + 2, column - 1 : column + 2]
            weight = math.exp(-((here - there) ** 2).mean() / (10 / 255) ** 2)
            total, weights = total + weight * frame[:, row, column], weights + weight
        np.testing.assert_allclose(found[0, :, 0, i, j].numpy(), total / weights, rtol=0, atol=1e-6)


# --- resampling -----------------------------------------------------------------------------------------------


def test_half_the_size_averages_squares_of_four() -> None:
    """A checkerboard becomes gray; a frame of one colour to the left and another to the right keeps its ends."""
    checkerboard = (torch.arange(8)[:, None] + torch.arange(10)) % 2
    clips = checkerboard.float().expand(1, 3, 2, 8, 10)
    torch.testing.assert_close(apply("resize", clips), torch.full_like(clips, 0.5))
    halves = torch.zeros(1, 3, 1, 8, 12)
    halves[..., 6:] = 1.0
    # Small: 0 0 0 1 1 1. Back: the pixels beside the edge lie a quarter of a small pixel from their own.
    expected = torch.tensor([0, 0, 0, 0, 0, 0.25, 0.75, 1, 1, 1, 1, 1])
    torch.testing.assert_close(apply("resize", halves)[0, 2, 0, 3], expected)


@pytest.mark.parametrize(
    ("strength", "radius", "x", "y"), [(2.0, 15.0, 11.0, 9.0), (0.3, 40.0, 3.2, 17.9), (3.0, 8.0, 0.0, 5.0)]
)
def test_swirl_is_scikit_image(strength: float, radius: float, x: float, y: float) -> None:
    clips = noise(1, 3, 2, 19, 24)
    found = Swirl.twist(clips, *(torch.tensor([number]) for number in (strength, radius, x, y)))
    expected = [
        swirl(plane, center=(x, y), strength=strength, radius=radius, order=1, mode="symmetric")
        for plane in planes(clips)
    ]
    np.testing.assert_allclose(planes(found), expected, rtol=0, atol=1e-4)


def test_swirl_of_no_strength_is_none_and_the_centre_stays() -> None:
    clips = noise(2, 3, 2, 15, 16)
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
    clips = noise(2, 3, 2, 12, 12)
    defense = Swirl()
    assert torch.equal(defense.bpda(clips, ClipRandom([5, 6])), defense.purify(clips, ClipRandom([5, 6])))


# --- histogram, frequencies -----------------------------------------------------------------------------------


def test_equalize_makes_all_values_equally_frequent() -> None:
    dark = noise(1, 3, 2, 48, 48) ** 3 * 0.4  # most values are near 0, none is above 0.4
    found = apply("equalize", dark)
    for before, after in zip(planes(dark), planes(found), strict=True):
        # The share of pixels up to a level is the level.
        shares = [(after <= level).mean() for level in (0.25, 0.5, 0.75, 0.95)]
        # Up to a tenth of the values of a cubed uniform fall into the first of 256 bins.
        np.testing.assert_allclose(shares[1:], (0.5, 0.75, 0.95), rtol=0, atol=0.02)
        order = np.argsort(before, axis=None)
        assert (np.diff(after.flatten()[order]) >= 0).all()  # brighter stays brighter
    assert float(found.max()) == 1


@pytest.mark.parametrize("bins", [2, 40, 256])
def test_equalize_is_scikit_image(bins: int) -> None:
    clips = noise(2, 3, 2, 13, 18) ** 2 * 0.7
    expected = [equalize_hist(plane, bins) for plane in planes(clips)]
    np.testing.assert_allclose(planes(apply(f"equalize(bins={bins})", clips)), expected, rtol=0, atol=1e-5)


def test_equalize_of_values_that_differ_in_the_last_bit() -> None:
    clips = torch.full((1, 3, 1, 2, 2), 0.5)
    clips[..., 0, 0] = torch.nextafter(torch.tensor(0.5), torch.tensor(1.0))
    assert apply("equalize", clips)[0, 0, 0].tolist() == [[1, 0.75], [0.75, 0.75]]


def test_equalize_by_hand() -> None:
    """Four bins over 0 to 0.8, their middles at 0.1, 0.3, 0.5 and 0.7."""
    clips = torch.tensor([0.0, 0.1, 0.15, 0.2, 0.5, 0.45, 0.7, 0.8])
    found = apply("equalize(bins=4)", clips.expand(1, 3, 1, 1, 8))[0, 0, 0, 0]
    # They hold 3, 1, 2 and 2 values (one on an edge belongs to the upper): up to each lie 3/8, 4/8, 6/8 and all.
    expected = [3 / 8, 3 / 8, 3 / 8 + 1 / 32, 3 / 8 + 2 / 32, 6 / 8, 6 / 8 - 1 / 16, 1, 1]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (32, 48), (16, 33)])
def test_fft_keeps_low_waves_and_removes_high_ones(height: int, width: int) -> None:
    y, x = torch.arange(height)[:, None] / height, torch.arange(width) / width
    slow = 0.2 * torch.sin(2 * math.pi * (2 * y + 3 * x))
    fast = 0.2 * torch.sin(2 * math.pi * (2 * y + (width // 2 - 2) * x))  # fast along one axis is enough
    clips = (0.5 + slow + fast).expand(2, 3, 2, height, width)
    found = apply("fft", clips)
    torch.testing.assert_close(found, (0.5 + slow).expand_as(found), rtol=0, atol=1e-5)
    torch.testing.assert_close(apply("fft(keep=1)", clips), clips, rtol=0, atol=1e-5)


def test_fft_cuts_where_it_says() -> None:
    """Of 32 pixels a quarter of the frequencies is 0 to 4 waves per frame."""
    for waves in range(1, 16):
        clips = (0.5 + 0.3 * torch.cos(2 * math.pi * waves * torch.arange(32) / 32)).expand(1, 3, 1, 8, 32)
        found = apply("fft(keep=0.25)", clips)
        expected: Any = clips if waves <= 4 else torch.full_like(clips, 0.5)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
