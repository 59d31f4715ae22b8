"""The small classifiers: the right arithmetic, clips in [0, 1], gradients that reach every frame."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bench import BenchError
from bench.models.resnet3d import ResNet3D
from bench.models.transformer import Attention, DividedBlock, VideoTransformer
from bench.registry import MODELS, Spec
from bench.weights.zoo import build_classifier

TINY = ["nl_tiny", "slowfast_tiny", "resnet3d_tiny", "transformer_tiny"]


@pytest.mark.parametrize("name", TINY)
def test_tiny_classifiers_take_clips_and_are_their_seed(name: str) -> None:
    torch.manual_seed(1)
    first, state = MODELS.create(Spec(name, {"seed": 3})), torch.get_rng_state()
    torch.manual_seed(2)
    second, other = MODELS.create(Spec(name, {"seed": 3})), MODELS.create(Spec(name, {"seed": 4, "num_classes": 5}))
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)
    ours, twin, theirs = first.state_dict(), second.state_dict(), other.state_dict()
    assert all(torch.equal(ours[k], twin[k]) for k in ours)
    weights = [k for k in ours if ours[k].ndim > 1 and ours[k].shape == theirs[k].shape]
    assert not any(torch.equal(ours[k], theirs[k]) for k in weights if float(ours[k].std()) > 0)

    clips = torch.rand(2, 3, 16, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    logits = first.eval()(clips)
    assert logits.shape == (2, 12)
    assert other.eval()(clips).shape == (2, 5)
    # Clips of a batch do not meet, and every frame matters.
    torch.testing.assert_close(first(clips[1:]), logits[1:], rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(logits[0, 0], clips)
    assert bool((gradient[0].abs().amax(dim=(0, 2, 3)) > 0).all())
    assert float(gradient[1].abs().max()) < 1e-6 * float(gradient[0].abs().max())
    with pytest.raises(BenchError, match=r"\(B, 3, T, H, W\)"):
        first(clips.transpose(1, 2))
    assert sum(p.numel() for p in first.parameters()) < 2e6


@pytest.mark.parametrize("name", TINY)
def test_tiny_classifiers_normalise_inside(name: str) -> None:
    model = build_classifier(Spec(name), None)
    clips = torch.rand(1, 3, 16, 64, 64, generator=torch.Generator().manual_seed(0))
    mean, std = (v.reshape(3, 1, 1, 1) for v in (model.mean, model.std))
    assert bool((mean > 0.3).all() and (mean < 0.6).all() and (std > 0.1).all() and (std < 0.4).all())
    torch.testing.assert_close(model(clips), model.logits((clips - mean) / std))
    assert not {"mean", "std"} & set(model.state_dict())


# --- 3D ResNet ------------------------------------------------------------------------------------------------


def test_r3d_18_is_the_network_of_torchvision() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchvision.models.video import r3d_18
    with torch.device("meta"):
        ours, theirs = MODELS.create("r3d_18"), r3d_18()
    shapes = [{k: tuple(v.shape) for k, v in net.state_dict().items()} for net in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert sum(p.numel() for p in ours.parameters()) == 33_371_472  # as published


def test_resnet_computes_what_torchvision_computes() -> None:
    """At an eighth of the width: torchvision's own stages, narrowed by slicing, on the same weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchvision.models.video.resnet import BasicBlock, Conv3DSimple, VideoResNet

    class Narrow(VideoResNet):
        def _make_layer(self, block, conv, planes, blocks, stride=1):  # type: ignore[no-untyped-def]
            self.inplanes = min(self.inplanes, planes // 8 if stride == 1 else planes // 16)
            return super()._make_layer(block, conv, planes // 8, blocks, stride)

    def stem() -> torch.nn.Sequential:
        conv = torch.nn.Conv3d(3, 8, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
        return torch.nn.Sequential(conv, torch.nn.BatchNorm3d(8), torch.nn.ReLU())

    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = Narrow(BasicBlock, [Conv3DSimple] * 4, [2, 2, 2, 2], stem)
        theirs.fc = torch.nn.Linear(64, 9)
        ours = ResNet3D(9, width=8)
    ours.load_state_dict(theirs.state_dict())
    clips = torch.rand(2, 3, 9, 40, 36, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours.eval().logits(clips), theirs.eval()(clips))


# --- transformer ----------------------------------------------------------------------------------------------


def test_attention_is_softmax_attention() -> None:
    rng = np.random.default_rng(0)
    layer = Attention(6, heads=2).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.from_numpy(rng.standard_normal(parameter.shape)))
    x = rng.standard_normal((2, 5, 6))
    weight, bias = (p.detach().numpy() for p in (layer.qkv.weight, layer.qkv.bias))
    out_weight, out_bias = (p.detach().numpy() for p in (layer.out.weight, layer.out.bias))
    expected = np.zeros_like(x)
    for n in range(2):
        q, k, v = np.split(x[n] @ weight.T + bias, 3, axis=1)
        mixed = np.zeros((5, 6))
        for head in range(2):
            part = slice(3 * head, 3 * head + 3)
            for i in range(5):
                scores = np.array([q[i, part] @ k[j, part] for j in range(5)]) / math.sqrt(3)
                share = np.exp(scores) / np.exp(scores).sum()
                mixed[i, part] = sum(share[j] * v[j, part] for j in range(5))
        expected[n] = mixed @ out_weight.T + out_bias
    np.testing.assert_allclose(layer(torch.from_numpy(x)).detach().numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("silent", "same_frame"), [("space", False), ("time", True)])
def test_time_and_space_are_attended_in_turn(silent: str, same_frame: bool) -> None:
    """With one of the attentions switched off, a token hears only from its own place, or only from its own frame."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = DividedBlock(8, heads=2, expansion=2)
    attention = block.get_submodule(silent)
    torch.nn.init.zeros_(attention.out.weight)  # type: ignore[union-attr,arg-type]
    x = torch.randn(1, 3, 4, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    (gradient,) = torch.autograd.grad(block(x)[0, 1, 2].square().sum(), x)
    heard = gradient[0].abs().sum(-1) > 0
    expected = torch.zeros(3, 4, dtype=torch.bool)
    if same_frame:
        expected[1] = True
    else:
        expected[:, 2] = True
    assert torch.equal(heard, expected)


def test_transformer_says_which_clips_it_takes() -> None:
    model = VideoTransformer(12, frames=4, size=16, stem_width=8, width=8, depth=1, heads=2)
    assert model(torch.rand(1, 3, 4, 16, 16)).shape == (1, 12)
    with pytest.raises(BenchError, match=r"takes clips of 4x16x16 \(frames, height, width\), not 8x16x16"):
        model(torch.rand(1, 3, 8, 16, 16))


def test_transformer_tells_the_order_of_frames() -> None:
    model = build_classifier(Spec("transformer_tiny"), None)
    clips = torch.rand(1, 3, 16, 64, 64, generator=torch.Generator().manual_seed(0))
    assert float((model(clips) - model(clips.flip(2))).abs().max()) > 1e-3
    assert F.cross_entropy(model(clips), torch.tensor([0])) < 10
