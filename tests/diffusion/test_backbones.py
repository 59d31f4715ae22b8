"""Diffusion backbones: the interface's promises, the samplers on a model with a known answer, the shipped weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bench import BenchError, ClipRandom
from bench.data.procedural import render
from bench.diffusion.backbones import BACKBONES, build_backbone, load_backbone
from bench.diffusion.base import DiffusionBackbone
from bench.diffusion.sampling import denoise_ddim, denoise_ddpm, invert_ddim, noise_to
from bench.diffusion.schedule import add_noise, predict_clean, timesteps
from bench.diffusion.tiny import PixelTiny, Preconditioned, TinyAutoencoder
from bench.weights.zoo import load_shipped, manifest

NAMES = list(BACKBONES)


class GaussianWorld(DiffusionBackbone):
    """Clips whose values are independent normals of mean ``m`` and deviation ``s``: the best noise predictor is known.

    ``E[e | x] = (x - sqrt(a) E[x0 | x]) / sqrt(1 - a)`` with the posterior mean of a Gaussian.
    """

    pixel_space = True
    frames_at_once = 3

    def __init__(self, m: float = 0.2, s: float = 0.3) -> None:
        super().__init__(clean_level=1.0)
        self.m, self.s = m, s
        self.calls: list[int] = []

    def encode_frames(self, frames: Tensor) -> Tensor:
        self.calls.append(len(frames))
        return frames

    def decode_frames(self, latents: Tensor) -> Tensor:
        self.calls.append(len(latents))
        return latents

    def noise(self, latents: Tensor, t: Tensor) -> Tensor:
        a = self._levels(t, latents)
        clean = self.m + a.sqrt() * self.s**2 / (a * self.s**2 + 1 - a) * (latents - a.sqrt() * self.m)
        return (latents - a.sqrt() * clean) / (1 - a).sqrt()


def clips_of(count: int, frames: int = 16) -> Tensor:
    return torch.stack([render("test", i, frames=frames).clip for i in range(count)])


# --- the interface ----------------------------------------------------------------------------------------------


def test_encoding_and_decoding_are_bounded_in_frames_and_undo_each_other() -> None:
    world = GaussianWorld()
    clips = torch.rand(2, 3, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    latents = world.encode(clips)
    torch.testing.assert_close(latents, 2 * clips - 1)
    torch.testing.assert_close(world.decode(latents), clips)
    assert max(world.calls) == 3
    assert sum(world.calls) == 20


def test_parts_computed_again_give_the_same_gradient() -> None:
    backbone = build_backbone("latent_tiny").eval()
    clips = clips_of(1, 4).requires_grad_(True)
    gradients = []
    for at_once in (64, 3):
        backbone.frames_at_once = at_once
        (gradient,) = torch.autograd.grad(backbone.decode(backbone.encode(clips)).square().sum(), clips)
        gradients.append(gradient)
    assert float(gradients[0].abs().max()) > 0
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-3 * float(gradients[0].abs().max()))


def test_decoding_clamps() -> None:
    assert GaussianWorld().decode(torch.full((1, 3, 1, 2, 2), 7.0)).max() == 1


def test_levels() -> None:
    world, latent = GaussianWorld(), build_backbone("latent_tiny")
    assert world.level(-1) == 1.0  # pixel space: nothing of the noise is left
    assert latent.level(-1) == latent.level(0) == pytest.approx(0.99915)  # ModelScope's convention
    assert world.level(101) == pytest.approx(0.89298, abs=1e-5)
    assert world.half().alphas_cumprod.dtype == torch.float64


@pytest.mark.parametrize("t", [-1, 1000, 3.5])
def test_timesteps_outside_the_schedule_are_refused(t: Any) -> None:
    with pytest.raises(BenchError, match="0 to 999"):
        GaussianWorld().predict_noise(torch.zeros(1, 3, 1, 2, 2), t)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_timesteps_and_independence_of_clips(name: str) -> None:
    backbone = build_backbone(name).eval()
    with torch.no_grad():
        for parameter in backbone.parameters():  # the last layers start at zero: nothing would be seen
            if not parameter.any():
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
        clips = clips_of(2, 4)
        latents = backbone.encode(clips)
        assert backbone.decode(latents).shape == clips.shape
        noise = backbone.predict_noise(latents, 100)
        assert noise.shape == latents.shape
        mixed = backbone.predict_noise(latents, torch.tensor([100, 700]))
        torch.testing.assert_close(mixed[0], noise[0], rtol=1e-3, atol=1e-4)
        assert float((mixed[1] - noise[1]).abs().mean()) > 1e-4
        alone = backbone.predict_noise(latents[1:], 100)
        torch.testing.assert_close(alone[0], noise[1], rtol=1e-3, atol=1e-4)
        changed = latents.clone()
        changed[:, :, 2] += 0.3
        moved = (backbone.predict_noise(changed, 100) - noise).abs().amax(dim=(0, 1, 3, 4)) > 1e-5
    assert moved.tolist() == ([False, False, True, False] if backbone.per_frame else [True] * 4)


def test_frames_of_odd_sizes_are_refused() -> None:
    with pytest.raises(BenchError, match="multiples of 8 pixels, not 60x64"):
        build_backbone("pixel_tiny").encode(torch.rand(1, 3, 2, 60, 64))
    with pytest.raises(BenchError, match=r"\(B, 3, T, H, W\)"):
        build_backbone("pixel_tiny").encode(torch.rand(3, 2, 64, 64))


def test_unknown_backbones_get_the_nearest_name() -> None:
    with pytest.raises(BenchError, match=r"no diffusion backbone 'pixel_tyny' \(did you mean 'pixel_tiny'\?\)"):
        load_backbone("pixel_tyny")


# --- samplers on a world with a known answer ----------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_sampling_from_pure_noise_gives_the_distribution(sampler: str) -> None:
    """With the exact noise predictor, 200 steps turn noise into normals of the right mean and deviation."""
    world, rng = GaussianWorld(0.2, 0.3), ClipRandom(range(4))
    noisy = rng.normal(3, 4, 16, 16)
    times = timesteps(999, 200)
    clean = denoise_ddim(world, noisy, times) if sampler == "ddim" else denoise_ddpm(world, noisy, times, rng)
    assert float(clean.mean()) == pytest.approx(0.2, abs=0.03)
    assert float(clean.std()) == pytest.approx(0.3, abs=0.03)


def test_inversion_and_back_returns_the_clip() -> None:
    world, rng = GaussianWorld(), ClipRandom([0])
    clean = 0.2 + 0.3 * rng.normal(3, 2, 8, 8)
    times = timesteps(500, 100)
    up = invert_ddim(world, clean, times)
    assert float(up.std()) == pytest.approx((world.level(500) * 0.09 + 1 - world.level(500)) ** 0.5, abs=0.05)
    torch.testing.assert_close(denoise_ddim(world, up, times), clean, rtol=0, atol=0.03)


def test_noise_belongs_to_the_clip() -> None:
    world = GaussianWorld()
    latents = torch.zeros(3, 3, 2, 4, 4)
    together = noise_to(world, latents, 100, ClipRandom([5, 6, 7]))
    alone = noise_to(world, latents[1:2], 100, ClipRandom([6]))
    torch.testing.assert_close(together[1:2], alone)
    assert float(together.std()) == pytest.approx((1 - world.level(100)) ** 0.5, rel=0.1)


def test_checkpointed_trajectories_have_the_exact_gradient() -> None:
    """Against finite differences, in double precision."""
    backbone = build_backbone("pixel_tiny").double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    clip = clips_of(1, 2)[..., :16, :16].double()
    direction, weight = torch.randn(2, *clip.shape, generator=generator, dtype=torch.float64)

    def purified(x: Tensor) -> Tensor:
        rng = ClipRandom([3])
        noisy = noise_to(backbone, backbone.encode(x), 100, rng)
        return (denoise_ddpm(backbone, noisy, timesteps(100, 3), rng) * weight).sum()

    x = clip.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(purified(x), x)
    step = 1e-5
    slope = (purified(clip + step * direction) - purified(clip - step * direction)) / (2 * step)
    assert float((gradient.detach() * direction).sum()) == pytest.approx(float(slope.detach()), rel=1e-4)


# --- the shipped weights --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_shipped_backbones_denoise(name: str) -> None:
    """One step beats the linear filter that the network starts from, wherever purification and inversion go."""
    backbone = load_backbone(name)
    assert isinstance(backbone, Preconditioned)
    with torch.no_grad():
        latents = backbone.encode(clips_of(4))
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
        for t in (10, 50, 100, 250):
            level = backbone.level(t)
            noisy = add_noise(latents, noise, level)
            found = predict_clean(noisy, backbone.predict_noise(noisy, t), level)
            left = (backbone.linear(noisy, t) - latents).square().mean()
            assert (found - latents).square().mean() < 0.9 * left, t


def test_the_linear_filter_is_wieners() -> None:
    """On latents of the variance that is written down, its error is that of theory, and a network that puts out zero
    changes nothing about it."""
    backbone = PixelTiny().eval()  # its network starts at zero
    generator = torch.Generator().manual_seed(0)
    backbone.variance.copy_(0.01 + torch.rand(48, generator=generator) * 0.2)
    channels = torch.randn(8, 48, 4, 8, 8, generator=generator) * backbone.variance.sqrt()[:, None, None, None]
    latents, level = backbone.synthesise(channels), backbone.level(100)
    noisy = add_noise(latents, torch.randn(latents.shape, generator=generator), level)
    found = backbone.linear(noisy, 100)
    noise = (1 - level) / level
    expected = float((1 / (1 / noise + 1 / backbone.variance.double())).mean())
    assert float((found - latents).square().mean()) == pytest.approx(expected, rel=0.03)
    with torch.no_grad():
        torch.testing.assert_close(found, backbone.clean(noisy, torch.full((8,), 100)), rtol=1e-4, atol=1e-5)


def test_the_shipped_autoencoder_is_faithful() -> None:
    """At least 30 dB, and latents of about unit variance, which the noise schedule assumes."""
    coder = TinyAutoencoder().eval()
    load_shipped(coder, "autoencoder_tiny")
    with torch.no_grad():
        frames = 2 * clips_of(4).transpose(1, 2).flatten(0, 1) - 1
        latents = coder.encode(frames)
        error = float((coder.decode(latents) - frames).square().mean()) / 4  # in units of [0, 1]
    assert error < 1e-3
    assert 0.7 < float(latents.std()) < 1.4


def test_backbones_say_how_they_were_made() -> None:
    for name in NAMES:
        (entry,) = (e for e in manifest().values() if e["model"] == name)
        assert entry["kind"] == "diffusion"
        assert set(entry["figures"]["denoising"]) == {"10", "25", "50", "100", "250", "500"}
