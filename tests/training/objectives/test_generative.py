"""What the trainings of flow and diffusion minimise, on networks with known answers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench import BenchError
from bench.data.procedural import render
from bench.datasets.actions12 import Actions12
from bench.diffusion.schedule import scaled_linear
from bench.diffusion.tiny import PixelTiny, TinyAutoencoder
from bench.flow.tiny import TinyFlow
from bench.training.objectives.generative import Denoising, LatentDenoising, Reconstruction, psnr, small_times
from bench.training.objectives.mixture import load_mixed, rendered_mixed
from bench.training.objectives.motion import FlowSupervision


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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


def test_batches_mix_both_data_sets_in_blocks_of_twelve() -> None:
    data = Actions12("train", frames=2, size=16)
    refs = data.refs()[:24]
    rendered = rendered_mixed(data, refs)
    for index in (0, 11, 12, 23):
        recipe = "actions12" if index < 12 else "motion12"
        assert torch.equal(rendered[index].clip, render("train", index, frames=2, size=16, recipe=recipe).clip)
    assert torch.equal(load_mixed(data, refs[12:13])[0], rendered[12].clip)


class Known(TinyFlow):
    """Answers the same displacement everywhere, at every level."""

    def __init__(self, x: float, y: float) -> None:
        super().__init__()
        self.answer = nn.Parameter(torch.tensor([x, y]))

    def levels(self, first: Any, second: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        count, size = len(first[0]), int(first[4][0, 0])
        full = self.answer.view(1, 2, 1, 1).expand(count, 2, size, size)
        coarse = full[..., : size // 4, : size // 4] / 4
        return coarse, coarse, full[..., : size // 2, : size // 2] / 2, full


def test_the_flow_loss_is_the_end_point_error_of_every_level() -> None:
    """A uniform flow of (3, -4) that is answered with zero is 5 px off; weights .1, .3, .5 and 1 sum to 1.9."""
    clips = torch.rand(2, 3, 4, 16, 16, generator=generator())
    flow = torch.tensor([3.0, -4.0]).view(1, 2, 1, 1, 1).expand(2, 2, 3, 16, 16)
    objective = FlowSupervision()
    loss, figures = objective.loss(Known(0.0, 0.0), (clips, flow), generator())
    assert float(loss.detach()) == pytest.approx(1.9 * 5, rel=1e-5)
    assert figures == pytest.approx({"epe": 5, "zero": 5})


def test_mirrored_and_transposed_pairs_keep_their_flow() -> None:
    """A clip that moves by whole pixels: rolling the first frame by the pair's own flow gives the second."""
    frame = torch.rand(3, 12, 12, generator=generator())
    clip = torch.stack([frame.roll((t, 2 * t), (1, 2)) for t in range(7)], 1)
    flow = torch.tensor([2.0, 1.0]).view(2, 1, 1, 1).expand(2, 6, 12, 12)
    first, second, truth = FlowSupervision()._pairs(clip[None], flow[None], generator())
    assert len({tuple(t[:, 0, 0].tolist()) for t in truth}) > 2  # mirrored, transposed, both, neither
    for a, b, t in zip(first, second, truth, strict=True):
        x, y = (int(v) for v in t[:, 0, 0])
        assert torch.equal(a.roll((y, x), (1, 2)), b)


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
