"""Samplers on a world with a known answer."""

from __future__ import annotations

import math

import pytest
import torch
from kit.diffusion import GaussianWorld
from kit.rendered import clips_of
from torch import Tensor

from bench import ClipRandom
from bench.diffusion.backbones import build_backbone
from bench.diffusion.sampling import Trajectory, denoise_ddim, denoise_ddpm, denoise_sde, invert_ddim, noise_to
from bench.diffusion.schedule import linear, timesteps


def vp_sde(s: float) -> tuple[float, float]:
    """``beta(s)`` and ``exp(-int beta)`` of Song et al., ICLR 2021, eq. 32, with .1 and 20: DiffPure's."""
    return 0.1 + 19.9 * s, math.exp(-9.95 * s * s - 0.1 * s)


class ScoreWorld(GaussianWorld):
    """Its noise is the exact score at the SDE's own level, which is that of no timestep."""

    def noise(self, latents: Tensor, t: Tensor) -> Tensor:
        level = vp_sde(float(t[0]) / 1000)[1]
        return math.sqrt(1 - level) * latents / (level * self.s**2 + 1 - level)


@pytest.mark.parametrize("t_star", [100, 150])
@pytest.mark.parametrize(("kind", "deviation"), [(GaussianWorld, 0.0488), (ScoreWorld, 0.0506)])
def test_diffpure_is_the_published_sde_solved_by_euler(
    kind: type[GaussianWorld], deviation: float, t_star: int
) -> None:
    """``dx = -(beta / 2) x dt + sqrt(beta) dw`` run backwards from t*/1000 to 1e-5 in steps of 1/1000, same noise.

    The data are normals of deviation .05. Of a network that is exact for the timestep it is asked at, and of the exact
    score, in closed form.
    """
    world = kind(0.0, 0.05, linear())
    draws = ClipRandom([1])
    clean = 0.05 * draws.normal(3, 8, 32, 32).double()
    rng, same = ClipRandom([2]), ClipRandom([2])
    times = timesteps(t_star, t_star)
    found = denoise_sde(world, noise_to(world, clean, t_star, rng, short_by=1), times, rng)

    betas = torch.linspace(0.1 / 1000, 20 / 1000, 1000, dtype=torch.float64)
    abar = (1 - betas).cumprod(0)
    x = abar[t_star - 1].sqrt() * clean + (1 - abar[t_star - 1]).sqrt() * same.normal(3, 8, 32, 32).double()
    time = t_star / 1000
    while time > 1.5e-5:
        step = min(0.001, time - 1e-5)
        beta, level = vp_sde(time)
        k = round(1000 * time)
        known = float(abar[k]) if kind is GaussianWorld else level
        # e = sqrt(1 - a) x / (a s^2 + 1 - a): what is left once the posterior mean of the data is taken out.
        score = -math.sqrt(1 - known) * x / (known * 0.0025 + 1 - known) / math.sqrt(1 - level)
        x = x - step * (-beta / 2 * x - beta * score) + math.sqrt(step * beta) * same.normal(3, 8, 32, 32).double()
        time -= step
    assert float((found - x).square().mean().sqrt()) < 1e-6
    assert float(found.std()) == pytest.approx(deviation, abs=4e-4)


def test_both_ways_of_the_sde_are_compared_at_the_same_level() -> None:
    """Its noise falls a timestep short of the table at every timestep, so the way up does too."""
    world, path = GaussianWorld(), Trajectory()
    clean = torch.full((1, 3, 2, 4, 4), 0.5)
    top = noise_to(world, clean, 100, ClipRandom([5]), short_by=1, below=[50, 1], path=path)
    noise = ClipRandom([5]).normal(3, 2, 4, 4)
    for t, latents in (*path.up.items(), (100, top)):
        level = 1.0 if t == -1 else float(world.alphas_cumprod[t - 1])
        torch.testing.assert_close(latents, level**0.5 * clean + (1 - level) ** 0.5 * noise, rtol=0, atol=1e-6)
    assert set(path.up) == {50, 1, -1}


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


class Bent(GaussianWorld):
    """Its derivative depends on the place."""

    def noise(self, latents: Tensor, t: Tensor) -> Tensor:
        return super().noise(latents, t) + 0.1 * latents.square().tanh()


@pytest.mark.parametrize("sampler", ["ddpm", "sde"])
def test_many_steps_in_pixel_space_keep_few_latents_and_the_exact_gradient(sampler: str) -> None:
    """Against finite differences, which keep nothing; value and draws are those of the walk without a gradient."""
    world, times = Bent(), timesteps(400, 82)
    denoise = denoise_ddpm if sampler == "ddpm" else denoise_sde
    noisy, weight, direction = ClipRandom([0]).normal(3, 3, 2, 4, 4)[0].double()
    kept: list[int] = []

    def walked(x: Tensor) -> tuple[Tensor, list[int]]:
        rng = ClipRandom([3, 4])
        return denoise(world, torch.stack([x, -x]), times, rng), [int(rng.select([i]).integers(10**9)) for i in (0, 1)]

    leaf = noisy.clone().requires_grad_(True)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):  # type: ignore[func-returns-value]
        found, after = walked(leaf)
    assert sum(kept) <= 10 * 2 * noisy.numel()  # and not 82
    plain, same = walked(noisy)
    assert torch.equal(found.detach(), plain)
    assert after == same
    (gradient,) = torch.autograd.grad((weight * found).sum(), leaf)
    step = 1e-6
    ahead, behind = (float((weight * walked(noisy + s * step * direction)[0]).sum()) for s in (1, -1))
    assert float((gradient * direction).sum()) == pytest.approx((ahead - behind) / (2 * step), rel=1e-5)
