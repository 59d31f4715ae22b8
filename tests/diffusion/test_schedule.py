"""Schedules and sampler steps against diffusers' schedulers, which share no code with ours."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from bench import BenchError
from bench.diffusion.schedule import (
    add_noise,
    at_time,
    ddim_step,
    ddpm_step,
    linear,
    predict_clean,
    scaled_linear,
    timesteps,
)

SCALED = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def draws(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, e, z = torch.randn(3, 2, 4, 3, 5, 5, generator=generator, dtype=torch.float64)
    return x, e, z


def test_levels_are_those_of_diffusers_and_of_the_published_table() -> None:
    assert scaled_linear().dtype == torch.float64
    torch.testing.assert_close(scaled_linear().float(), DDPMScheduler(**SCALED).alphas_cumprod, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(linear().float(), DDPMScheduler(1000).alphas_cumprod, rtol=1e-4, atol=1e-6)
    published = {0: 0.99915, 1: 0.99830, 21: 0.98038, 61: 0.93978, 101: 0.89298}
    for t, level in published.items():
        assert float(scaled_linear()[t]) == pytest.approx(level, abs=6e-6)


def test_continuous_time_of_evenly_spaced_betas_is_that_of_the_sde() -> None:
    """``beta(s) = .1 + 19.9 s`` and its integral, in closed form (Song et al., ICLR 2021, eq. 32)."""
    for s in (0.0, 1e-5, 0.1, 0.15, 0.7314, 1.0):
        beta, level = at_time(linear(), s)
        assert beta == pytest.approx(0.1 + 19.9 * s, rel=1e-9)
        assert level == pytest.approx(math.exp(-0.1 * s - 9.95 * s * s), rel=1e-9)


def test_continuous_time_of_other_betas_joins_them() -> None:
    """Betas whose roots are evenly spaced: a parabola, and its integral, but for the chords of a thousand pieces."""
    low, rise = 0.85**0.5, 12**0.5 - 0.85**0.5
    for s in (0.05, 0.5, 1.0):
        beta, level = at_time(scaled_linear(), s)
        assert beta == pytest.approx((low + s * rise) ** 2, rel=1e-5)
        assert math.log(level) == pytest.approx(-((low + s * rise) ** 3 - low**3) / (3 * rise), rel=1e-5)


def test_noising_and_its_inverse() -> None:
    x, e, _ = draws()
    for t in (0, 101, 999):
        level = float(scaled_linear()[t])
        noisy = add_noise(x, e, level)
        theirs = DDPMScheduler(**SCALED).add_noise(x.float(), e.float(), torch.tensor([t]))
        torch.testing.assert_close(noisy.float(), theirs, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(predict_clean(noisy, e, level), x)


def test_levels_may_differ_within_a_batch() -> None:
    x, e, _ = draws()
    levels = scaled_linear()[[3, 700]].view(2, 1, 1, 1, 1)
    together = add_noise(x, e, levels)
    alone = torch.stack([add_noise(x[i], e[i], float(levels[i])) for i in range(2)])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("spacing", [20, 50])
def test_ddim_steps_are_those_of_diffusers(spacing: int) -> None:
    """ModelScope's setting: leading timesteps off by one, and the last step ends at the level of timestep 0."""
    scheduler = DDIMScheduler(
        **SCALED, clip_sample=False, set_alpha_to_one=False, steps_offset=1, timestep_spacing="leading"
    )
    scheduler.set_timesteps(1000 // spacing)
    levels = scaled_linear()
    x, e, _ = draws()
    for t in (2 * spacing + 1, spacing + 1, 1):
        assert t in scheduler.timesteps
        target = float(levels[max(t - spacing, 0)])
        ours = ddim_step(x, e, float(levels[t]), target)
        theirs = scheduler.step(e, t, x, eta=0.0).prev_sample
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_ddim_backwards_undoes_ddim() -> None:
    x, e, _ = draws()
    up = ddim_step(x, e, 0.99, 0.6)
    torch.testing.assert_close(ddim_step(up, e, 0.6, 0.99), x)
    assert float((up - x).abs().mean()) > 0.1


@pytest.mark.parametrize("t", [999, 101, 2, 1])
def test_ddpm_steps_have_the_mean_and_the_variance_of_diffusers(t: int) -> None:
    scheduler = DDPMScheduler(**SCALED, variance_type="fixed_small", clip_sample=False)
    levels = scaled_linear()
    x, e, z = draws()
    level, target = float(levels[t]), float(levels[t - 1])
    mean = ddpm_step(x, e, level, target, torch.zeros_like(x))
    theirs = scheduler.step(e, t, x, generator=torch.Generator().manual_seed(5)).prev_sample
    spread = (ddpm_step(x, e, level, target, z) - mean) / z
    torch.testing.assert_close(
        spread, torch.full_like(spread, float(scheduler._get_variance(t)) ** 0.5), rtol=1e-3, atol=0
    )
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=x.dtype)
    torch.testing.assert_close(mean + spread * noise, theirs, rtol=1e-3, atol=1e-4)


def test_a_strided_ddpm_step_is_the_gaussian_posterior() -> None:
    """Between any two levels: conditioning ``x_s | x_0`` on ``x_t = sqrt(t/s) x_s + sqrt(1 - t/s) e``, by Bayes."""
    level, target = 0.5, 0.8
    x0, xt = 1.3, -0.4
    alpha = level / target
    precision = 1 / (1 - target) + alpha / (1 - alpha)
    mean = (target**0.5 * x0 / (1 - target) + alpha**0.5 * xt / (1 - alpha)) / precision
    noise = (xt - level**0.5 * x0) / (1 - level) ** 0.5
    one = torch.ones(1, dtype=torch.float64)
    found = ddpm_step(xt * one, noise * one, level, target, 0 * one)
    assert float(found) == pytest.approx(mean)
    assert float(ddpm_step(xt * one, noise * one, level, target, one) - found) == pytest.approx(precision**-0.5)


def test_a_ddpm_step_to_level_one_adds_no_noise() -> None:
    x, e, z = draws()
    torch.testing.assert_close(ddpm_step(x, e, 0.7, 1.0, z), predict_clean(x, e, 0.7))


def test_timesteps() -> None:
    assert timesteps(101, 6) == [101, 81, 61, 41, 21, 1]  # VideoPure's six
    assert timesteps(101, 101) == list(range(101, 0, -1))
    assert timesteps(100, 1) == [100]
    assert timesteps(100, 10) == [100, 89, 78, 67, 56, 45, 34, 23, 12, 1]
    for start, steps in ((0, 1), (100, 0), (10, 11)):
        with pytest.raises(BenchError, match="There are no"):
            timesteps(start, steps)
