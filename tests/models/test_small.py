"""The small classifiers: clips in [0, 1], gradients that reach every frame, weights that follow the seed."""

from __future__ import annotations

import pytest
import torch

from bench import BenchError
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
