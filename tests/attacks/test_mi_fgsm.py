"""MI-FGSM: its momentum."""

from __future__ import annotations

import torch
from kit.draws import draw
from kit.networks import Ordered, gradient_of, right, transfer

from bench import Budget
from bench.registry import ATTACKS


def test_momentum_is_one_scale_per_clip() -> None:
    net, x = Ordered(), draw(2, 3, 4, 6, 6, seed=2)
    labels = right(net, x)
    found = ATTACKS.create("mi_fgsm(decay=0.7)")(transfer(net, 2), x, labels, Budget(size=0.03, steps=3)).clips
    here, g = x.clone(), torch.zeros_like(x)
    for _ in range(3):
        grad = gradient_of(net, here, labels)
        for clip in range(2):
            g[clip] = 0.7 * g[clip] + grad[clip] / (grad[clip].abs().sum() / grad[clip].numel())
        here = torch.minimum(torch.maximum(here + 0.01 * g.sign(), x - 0.03), x + 0.03).clamp(0, 1)
    torch.testing.assert_close(found, here, rtol=0, atol=1e-6)
