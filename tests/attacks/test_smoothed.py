"""Averages over the attacker's own noise, computed afresh."""

from __future__ import annotations

import pytest
import torch
from kit.draws import draw
from kit.networks import Ordered, gradient_of, right
from torch import Tensor, nn

from bench import BenchError, Budget, ClipRandom, DefendedClassifier, Purifier, Target
from bench.attack.losses import cross_entropy
from bench.attacks.smoothed import Surroundings
from bench.registry import ATTACKS


class Rounded(Purifier):
    """Thirty-two levels."""

    differentiable = False

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return (clips.detach() * 32).round() / 32


class Steps(nn.Module):
    """Two classes; the second leads by the mean of the clip above a level: behind a rounding, a staircase."""

    def forward(self, clips: Tensor) -> Tensor:
        score = 40 * (clips.mean((1, 2, 3, 4)) - 0.5)
        return torch.stack([-score, score], 1)


def test_the_gradient_is_the_mean_around_the_iterate_and_the_answer_is_of_the_iterate() -> None:
    net, x = Ordered().double(), draw(3, 3, 4, 6, 6).double()
    x[0, :, 0] = 1.0  # noise would leave the range
    labels = torch.tensor([0, 3])
    rows = torch.tensor([2, 0])
    inner = Target.of(net, 3)
    target = Surroundings(inner, 4, 0.2, ClipRandom([7, 8, 9]))
    value, found, decision = target.gradient(x[rows], rows, labels, cross_entropy)

    near = [x[rows]]
    streams = ClipRandom([9, 7])
    for _ in range(4):
        near.append((x[rows] + 0.2 * streams.normal(3, 4, 6, 6).double()).clamp(0, 1))
    expected = torch.stack([gradient_of(net, point, labels) for point in near]).mean(0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(value, nn.functional.cross_entropy(net(x[rows]), labels, reduction="none"))
    assert decision.tolist() == net(x[rows]).argmax(1).tolist()
    assert inner.forwards.tolist() == inner.backwards.tolist() == [5, 0, 5]
    assert torch.equal(target(x), net(x))
    assert inner.forwards.tolist() == [6, 1, 6]


def test_noise_shows_how_a_rounding_answers() -> None:
    """A classifier that looks at the rounded clip once more: its own gradient is that of the level it stands on."""

    class Teeth(nn.Module):
        """Behind 32 levels it sees their mean only; between them it has been given a slope that leads astray."""

        def forward(self, clips: Tensor) -> Tensor:
            astray = 0.5 * torch.sin(2 * torch.pi * 32 * (clips - 0.25 / 32)).mean((1, 2, 3, 4)) / 32
            score = 40 * (clips.mean((1, 2, 3, 4)) - 0.5 + astray)
            return torch.stack([-score, score], 1)

    x = draw(1, 3, 2, 8, 8, low=0.4, high=0.6)
    labels = torch.tensor([1])
    plain = Target.of(Teeth(), 1)
    truth = gradient_of(Steps(), x, labels).mean()
    alone = plain.gradient(x, None, labels, cross_entropy).gradient
    averaged = Surroundings(plain, 40, 2 / 32, ClipRandom([0])).gradient(x, None, labels, cross_entropy).gradient
    assert float((alone.sign() == truth.sign()).double().mean()) < 0.7
    assert float((averaged.sign() == truth.sign()).double().mean()) > 0.85


@pytest.mark.parametrize("inner", ["pgd", "apgd", "tt(shifts=1)", "roa(candidates=2, frame_size=[16, 16])"])
def test_any_attack_runs_and_costs_what_it_says(inner: str) -> None:
    attack = ATTACKS.create({"name": "smoothed", "attack": inner, "copies": 3, "noise": "4/255"})
    norm, size = ("rectangle", 5) if inner.startswith("roa") else ("linf", 0.02)
    budget = Budget(norm, size, steps=3)
    x, net = draw(2, 3, 4, 16, 16), Ordered()
    labels = right(net, x)
    target = Target(lambda clips, rows, then=None: net(clips if then is None else then(clips)), 2, stochastic=True)
    result = attack(target, x, labels, budget, ClipRandom([0, 1]))
    most = attack.passes(budget)
    assert float((result.clips - x).abs().max()) > 0
    assert target.backwards.tolist() == [most[1]] * 2
    assert max(target.forwards.tolist()) <= most[0]
    assert most[1] == 4 * ATTACKS.create(inner).passes(budget)[1]


def test_it_is_another_attack_than_the_one_inside() -> None:
    x = draw(2, 3, 4, 6, 6)
    defended, labels = DefendedClassifier(Ordered(), Rounded(), "bpda"), torch.tensor([0, 3])
    budget = Budget(size=0.05, steps=3)
    found = [
        ATTACKS.create(text)(defended.target(ClipRandom([1, 2])), x, labels, budget, ClipRandom([3, 4])).clips
        for text in (
            "pgd(keep='last')",
            "smoothed(attack='pgd(keep=\\'last\\')')",
            "smoothed(noise=1e-9, attack='fab')",
        )
    ]
    assert not torch.equal(found[0], found[1])
    assert float((found[1] - x).abs().max()) <= 0.05 + 1e-6


@pytest.mark.parametrize(
    ("text", "why"), [("smoothed(copies=0)", "copies must be"), ("smoothed(noise=0)", "noise must be above 0")]
)
def test_bad_parameters_are_refused(text: str, why: str) -> None:
    with pytest.raises(BenchError, match=why):
        ATTACKS.create(text)
