"""FGSM takes one step."""

from __future__ import annotations

import torch
from kit.draws import draw
from kit.networks import Ordered, gradient_of, right, transfer

from bench import Budget
from bench.registry import ATTACKS


def test_fgsm_takes_one_step_whatever_the_budget_says() -> None:
    net, x = Ordered(), draw(2, 3, 4, 8, 8)
    labels = right(net, x)
    attack, budget = ATTACKS.create("fgsm"), Budget(size=0.02, steps=7, step_size=0.001, restarts=3)
    target = transfer(net, 2)
    found = attack(target, x, labels, budget).clips
    torch.testing.assert_close(found, (x + 0.02 * gradient_of(net, x, labels).sign()).clamp(0, 1), rtol=0, atol=1e-7)
    assert target.forwards.tolist() == target.backwards.tolist() == [1, 1]
