"""What is true of all picture transforms: sizes, batches, flat clips, gradients, refusals."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.draws import draw
from kit.pictures import apply
from torch import Tensor

from bench import BenchError, ClipRandom
from bench.registry import DEFENSES

few = settings(max_examples=10, deadline=None, derandomize=True, database=None)
EXACT = ["bilateral", "fft", "gaussian_blur", "grayscale", "mean", "median", "nonlocal_means", "resize", "swirl"]
SHATTERED = ["bit_depth", "equalize", "halftone"]
ALL = EXACT + SHATTERED


@pytest.mark.parametrize("name", ALL)
@few
@given(st.integers(1, 2), st.integers(1, 3), st.integers(1, 17), st.integers(1, 17), st.integers(0, 99))
def test_any_size_goes_in_and_comes_out(name: str, batch: int, frames: int, height: int, width: int, seed: int) -> None:
    clips = draw(batch, 3, frames, height, width, seed=seed)
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
    clips = 0.4 + 0.1 * draw(3, 3, 4, 18, 15)  # little contrast: non-local means finds something alike
    together = defense.purify(clips, ClipRandom([1, 2, 3]))
    again = defense.purify(clips, ClipRandom([1, 2, 3]))
    alone = torch.cat([defense.purify(clips[i : i + 1], ClipRandom([i + 1])) for i in range(3)])
    assert torch.equal(together, again)
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-6)
    assert float((together - clips).abs().mean()) > 1e-4  # it did something


@pytest.mark.parametrize("name", ALL)
def test_all_frames_of_a_clip_are_treated_alike(name: str) -> None:
    """Equal frames stay equal, and a frame does not feel the others."""
    clips = draw(2, 3, 1, 16, 21).repeat(1, 1, 3, 1, 1)
    found = apply(name, clips)
    torch.testing.assert_close(found, found[:, :, :1].expand_as(found), rtol=0, atol=1e-6)
    other = clips.clone()
    other[:, :, 1] = draw(2, 3, 16, 21, seed=1)
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
def test_without_an_exact_gradient_something_stands_in(name: str) -> None:
    defense = DEFENSES.create(name)
    assert not defense.differentiable
    clips = draw(1, 3, 2, 8, 8).requires_grad_(True)
    assert not defense.purify(clips, ClipRandom([0])).requires_grad
    (gradient,) = torch.autograd.grad(defense.bpda(clips, ClipRandom([0])).sum(), clips)
    assert float((gradient != 0).double().mean()) > 0.5


@pytest.mark.parametrize("name", ALL)
def test_only_the_swirl_draws(name: str) -> None:
    defense = DEFENSES.create(name)
    clips = draw(1, 3, 2, 20, 20)
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


@pytest.mark.parametrize("name", ["bilateral", "nonlocal_means(strength=0.1)"])
def test_noise_goes_and_edges_stay(name: str) -> None:
    clean = torch.full((1, 3, 1, 24, 24), 0.2)
    clean[..., 12:] = 0.8
    noisy = clean + 0.06 * (draw(*clean.shape) - 0.5)
    error = {what: float((apply(what, noisy) - clean).square().mean()) for what in (name, "mean")}
    assert error[name] < 0.3 * float((noisy - clean).square().mean())
    assert error["mean"] > 10 * error[name]  # which blurs the edge


@pytest.mark.parametrize("name", [*ALL, "jpeg", "jpeg(subsampling='4:2:2')", "wavelet", "wavelet(wavelet='db2')"])
@pytest.mark.parametrize("hook", ["purify", "bpda"])
def test_no_value_leaves_the_device(name: str, hook: str) -> None:
    """The device "meta" has shapes and no values: a copy to the CPU, or a look at a value, raises an error."""
    clips = torch.empty(2, 3, 3, 37, 50, device="meta")
    found = getattr(DEFENSES.create(name), hook)(clips, ClipRandom([0, 1]))
    assert found.device == clips.device
    assert found.shape == clips.shape
