"""The shipped diffusion models, and the names that they go by."""

from __future__ import annotations

import pytest
import torch
from kit.rendered import clips_of

from bench import BenchError
from bench.diffusion.backbones import BACKBONES, load_backbone
from bench.diffusion.schedule import add_noise, predict_clean
from bench.diffusion.tiny import PixelTiny, Preconditioned, TinyAutoencoder
from bench.weights.zoo import load_shipped, manifest

NAMES = list(BACKBONES)


def test_unknown_backbones_get_the_nearest_name() -> None:
    with pytest.raises(BenchError, match=r"no diffusion backbone 'pixel_tyny' \(did you mean 'pixel_tiny'\?\)"):
        load_backbone("pixel_tyny")


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
