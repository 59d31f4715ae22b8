"""Samplers on a world with a known answer."""

from __future__ import annotations

import pytest
import torch
from kit.diffusion import GaussianWorld
from kit.rendered import clips_of
from torch import Tensor

from bench import ClipRandom
from bench.diffusion.backbones import build_backbone
from bench.diffusion.sampling import denoise_ddim, denoise_ddpm, invert_ddim, noise_to
from bench.diffusion.schedule import timesteps


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
