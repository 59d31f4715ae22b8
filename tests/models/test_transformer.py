"""The video transformer: attention written out, in time and in space."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bench import BenchError
from bench.models.transformer import Attention, DividedBlock, VideoTransformer
from bench.registry import Spec
from bench.weights.zoo import build_classifier


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
