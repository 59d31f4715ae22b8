"""What every diffusion backbone promises."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kit.diffusion import GaussianWorld
from kit.rendered import clips_of

from bench import BenchError
from bench.diffusion.backbones import BACKBONES, build_backbone

NAMES = list(BACKBONES)


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
