"""Every registered classifier, the flow networks and the diffusion backbones run on a GPU as on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kit.flows import raft_network
from kit.pretend import assert_same
from pipelines import save_guided_diffusion, save_modelscope, save_stable_diffusion
from torch import Tensor, nn

from bench.diffusion import backbones
from bench.diffusion.backbones import load_backbone
from bench.flow.estimators import load_flow
from bench.flow.raft import Raft
from bench.registry import MODELS, Spec
from bench.weights.zoo import build_classifier

# Those that cannot be made without parameters, and the smallest clips that others take: frames, height and width.
PARAMS: dict[str, dict[str, Any]] = {"i3d_flow": {"flow": "tiny"}}
SHAPES = {
    "i3d_flow": (9, 32, 32),
    "flow_stream_tiny": (4, 16, 16),
    "transformer_tiny": (16, 64, 64),
    "resnext3d101": (4, 16, 16),
}
SAVE: dict[str, Callable[[Path], Path]] = {
    "modelscope": save_modelscope,
    "stable_diffusion": save_stable_diffusion,
    "guided_diffusion": save_guided_diffusion,
}


def clips_of(count: int, *shape: int) -> Tensor:
    return torch.rand(count, 3, *shape, generator=torch.Generator().manual_seed(1))


def answers(network: nn.Module, clips: Tensor, device: torch.device) -> list[Tensor]:
    """What a network answers, and the gradient of it."""
    x = clips.to(device).requires_grad_(True)
    found = network.to(device)(x)
    return [found, *torch.autograd.grad(found.square().sum(), x)]


# The trained robust networks have the layers of those in `tests/device/test_defenses.py`, and this one of resnext3d101.
ALIKE = {"wrn3d50", *(name for name in MODELS.names() if name.startswith("resnet3d_tiny_") and "multibn" not in name)}
NAMES = [name for name in MODELS.names() if name not in ALIKE]


@pytest.mark.parametrize("name", NAMES)
def test_a_classifier_is_what_it_is_on_the_cpu(name: str) -> None:
    clips = clips_of(1, *SHAPES.get(name, (16, 32, 32)))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # published networks draw their weights from the global generator
        network = build_classifier(Spec(name, PARAMS.get(name, {})), None).eval().requires_grad_(False)
    assert_same(lambda device: answers(network, clips, device))


@pytest.mark.parametrize("weights", [torch.float32, torch.float64])
def test_flow_is_what_it_is_on_the_cpu(weights: torch.dtype) -> None:
    clips = clips_of(1, 3, 16, 24).to(weights)

    def run(device: torch.device) -> list[Tensor]:
        flow = load_flow().to(weights)
        return [*answers(_Flow(flow), clips, device)]

    assert_same(run)


class _Flow(nn.Module):
    """The flow of a clip, as a network."""

    def __init__(self, flow: Any) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, clips: Tensor) -> Tensor:
        return self.flow.clip_flow(clips)


def test_raft_is_what_it_is_on_the_cpu() -> None:
    clips = clips_of(1, 2, 128, 128)  # the smallest that it takes
    assert_same(lambda device: answers(_Flow(Raft(raft_network(), 2).eval().requires_grad_(False)), clips, device))


def purified(backbone: Any, clips: Tensor, device: torch.device) -> list[Tensor]:
    """There and back through a backbone, and its noise on the way, with the gradient."""
    x = clips.to(device).requires_grad_(True)
    model = backbone.to(device)
    latents = model.encode(x)
    noise = model.predict_noise(latents, 101)
    found = model.decode(latents - 0.1 * noise)
    return [latents, noise, found, *torch.autograd.grad(found.square().sum(), x)]


@pytest.mark.parametrize("name", backbones.BACKBONES)
def test_a_shipped_backbone_is_what_it_is_on_the_cpu(name: str) -> None:
    clips = clips_of(1, 3, 16, 16)
    assert_same(lambda device: purified(load_backbone(name), clips, device))


@pytest.mark.parametrize("name", SAVE)
def test_a_published_backbone_is_what_it_is_on_the_cpu(name: str, tmp_path: Path) -> None:
    folder, clips = SAVE[name](tmp_path / name), clips_of(1, 3, 32, 40)

    def run(device: torch.device) -> list[Tensor]:
        backbones._shared.cache_clear()  # what was moved stays there
        return purified(load_backbone(name, str(folder)), clips, device)

    try:
        assert_same(run)
    finally:
        backbones._shared.cache_clear()
