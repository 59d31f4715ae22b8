"""What the trainings of diffusion minimise, on networks with known answers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from kit.draws import generator

from bench import BenchError
from bench.datasets.actions12 import Actions12
from bench.diffusion.schedule import scaled_linear
from bench.diffusion.tiny import PixelTiny, TinyAutoencoder
from bench.training.objectives.generative import Denoising, LatentDenoising, Reconstruction, psnr, small_times
from bench.training.objectives.mixture import load_mixed
from bench.training.objectives.motion import FlowSupervision


def test_psnr() -> None:
    assert psnr(0.01) == pytest.approx(20)
    assert psnr(0.01, peak=2) == pytest.approx(20 + 20 * math.log10(2))


def test_small_timesteps_are_drawn_most_and_none_is_left_out() -> None:
    """Of ``1000 u^2.5``: 0.1^0.4 = 40 % lie below 100 and 0.4^0.4 = 69 % below 400."""
    times = torch.cat([small_times(generator(s), 50, 1000) for s in range(400)])
    assert (int(times.min()), int(times.max())) == (0, 999)
    assert float((times < 100).double().mean()) == pytest.approx(0.1**0.4, abs=0.01)
    assert float((times < 400).double().mean()) == pytest.approx(0.4**0.4, abs=0.01)
    one = small_times(generator(), 10, 1000)  # stratified: one draw per tenth of u
    assert torch.equal(((one + 0.5) / 1000).pow(0.4).mul(10).long(), torch.arange(10))


def test_the_denoising_loss_of_an_idle_network_is_one() -> None:
    """The loss is relative to the Wiener estimate: on latents of just that variance, a network that puts out zero
    scores 1, whatever the timesteps."""
    backbone = PixelTiny()
    backbone.variance.copy_(0.05 + torch.rand(48, generator=generator()) * 0.2)
    channels = torch.randn(8, 48, 4, 8, 8, generator=generator(1)) * backbone.variance.sqrt()[:, None, None, None]
    clean = backbone.synthesise(channels)
    loss, _ = Denoising().loss(backbone, (clean,), generator(2))
    assert float(loss.detach()) == pytest.approx(1, abs=0.03)
    assert float(scaled_linear()[0]) == pytest.approx(0.99915)


@pytest.mark.slow
def test_reconstruction_tracks_the_scale_of_the_latents() -> None:
    coder = TinyAutoencoder()
    objective, clips = Reconstruction(), torch.rand(2, 3, 4, 16, 16, generator=generator())
    for _ in range(200):
        loss, figures = objective.loss(coder, (clips,), generator())
    with torch.no_grad():
        latents = coder.encode(2 * clips.transpose(1, 2).flatten(0, 1) - 1)
    assert float(latents.square().mean()) == pytest.approx(1, rel=0.02)
    torch.testing.assert_close(latents.square().mean(dim=(0, 2, 3)), coder.variance, rtol=0.05, atol=0.01)
    assert figures["psnr"] == pytest.approx(psnr(float(loss.detach()), 2.0), abs=0.2)


def test_latents_are_encoded_once_and_kept() -> None:
    objective = LatentDenoising()
    backbone: Any = objective.build("latent_tiny", "actions12")
    assert not any(p.requires_grad for p in backbone.autoencoder.parameters())
    data = Actions12("train", frames=2, size=32)
    refs = data.refs()[:2]
    (first,) = objective.batch(data, refs)
    with torch.no_grad():
        expected = backbone.encode(load_mixed(data, refs))
    torch.testing.assert_close(first, expected, rtol=1e-3, atol=2e-3)  # kept in half precision
    backbone.encode = None  # a second encoding would fail
    assert torch.equal(objective.batch(data, refs)[0], first)


@pytest.mark.parametrize(
    ("objective", "model", "why"),
    [
        (Reconstruction(), "latent_tiny", "trains autoencoder_tiny"),
        (Denoising(), "latent_tiny", "take another recipe"),
        (LatentDenoising(), "pixel_tiny", "trains latent models"),
        (FlowSupervision(), "flow_tyny", "did you mean 'flow_tiny'"),
    ],
)
def test_models_of_another_kind_are_refused(objective: Any, model: str, why: str) -> None:
    with pytest.raises(BenchError, match=why):
        objective.build(model, "actions12")
