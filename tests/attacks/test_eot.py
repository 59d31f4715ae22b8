"""The expectation over a defence's draws, each average computed afresh."""

from __future__ import annotations

import pytest
import torch
from kit import selection
from kit.climbs import climb
from kit.draws import draw
from kit.gray import Coin, LevelClassifier
from kit.networks import Ordered, gradient_of, right
from torch import Tensor, nn

from bench import Budget, ClipRandom, DefendedClassifier, Purifier, Target
from bench.attack.losses import cross_entropy
from bench.registry import ATTACKS


class Noisy(Purifier):
    """Adds noise that is linear in nothing: the draw decides."""

    stochastic = True

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        noise = rng.normal(*clips.shape[1:], device=clips.device).to(clips.dtype)
        return clips + 0.1 * noise


@pytest.mark.parametrize("average", ["logits", "losses", "gradients"])
@pytest.mark.parametrize("at_once", [1, 3, 8])
def test_eot_averages_what_it_says(average: str, at_once: int) -> None:
    from bench.attacks.eot import Expectation

    net, x = Ordered().double(), draw(2, 3, 4, 6, 6).double()
    defended = DefendedClassifier(net, Noisy())
    labels = torch.tensor([0, 3])
    streams = ClipRandom([7, 8])
    target = Expectation(defended.target(streams), 7, average, at_once)
    value, found, decision = target.gradient(x, None, labels, cross_entropy)

    rng = ClipRandom([7, 8])
    draws = [0.1 * rng.normal(3, 4, 6, 6).double() for _ in range(7)]
    leaf = x.clone().requires_grad_(True)
    logits = torch.stack([net(leaf + noise) for noise in draws])
    if average == "logits":
        losses = nn.functional.cross_entropy(logits.mean(0), labels, reduction="none")
    else:
        losses = torch.stack([nn.functional.cross_entropy(one, labels, reduction="none") for one in logits]).mean(0)
    if average == "gradients":
        each = [gradient_of(net, x + noise, labels) for noise in draws]
        expected = sum((g / g.abs().mean((1, 2, 3, 4), keepdim=True) for g in each), torch.zeros_like(x)) / 7
    else:
        (expected,) = torch.autograd.grad(losses.sum(), leaf)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(value, losses.detach(), rtol=0, atol=1e-12)
    votes = torch.stack([one.argmax(1) for one in logits])
    assert decision.tolist() == [int(torch.bincount(v).argmax()) for v in votes.T]
    assert streams.tell() == rng.tell()  # seven draws each, whatever was done twice
    twice = average == "logits" and at_once < 7
    assert target.forwards.tolist() == ([14, 14] if twice else [7, 7])
    assert target.backwards.tolist() == [7, 7]


def test_eot_asks_a_deterministic_defence_once() -> None:
    net, x = Ordered(), draw(2, 3, 4, 6, 6)
    labels = right(net, x)
    plain, averaged = Target.of(net, 2), Target.of(net, 2)
    one = ATTACKS.create("pgd")(plain, x, labels, Budget(size=0.02, steps=3))
    two = ATTACKS.create("eot(draws=9)")(averaged, x, labels, Budget(size=0.02, steps=3))
    assert torch.equal(one.clips, two.clips)
    assert torch.equal(plain.forwards, averaged.forwards)


def test_eot_shows_what_the_network_lets_see() -> None:
    """An attack on the selection between branches finds it behind the expectation, too."""
    attack = ATTACKS.create("eot(attack='joint_selection', draws=3)")
    labels = torch.tensor([0, 0, 0])
    expected = ATTACKS.create("joint_selection")(
        selection.target(), selection.clips(), labels, Budget(size=0.03, steps=4)
    ).clips
    found = attack(selection.target(), selection.clips(), labels, Budget(size=0.03, steps=4)).clips
    assert torch.equal(found, expected)  # nothing is random: asked once


def test_eot_runs_any_attack_and_counts_every_draw() -> None:
    x, labels = torch.full((2, 3, 4, 4, 4), 0.5), torch.tensor([1, 1])
    budget = Budget(size=0.01, steps=3)
    for inner in ("pgd", "mi_fgsm", "tt(shifts=1)"):
        attack = ATTACKS.create({"name": "eot", "attack": inner, "draws": 4})
        target = DefendedClassifier(LevelClassifier(), Coin()).target(ClipRandom([0, 1]))
        attack(target, x, labels, budget)
        assert target.backwards.tolist() == [attack.passes(budget)[1]] * 2
        spent = target.forwards.tolist()
        assert spent[0] == spent[1] <= attack.passes(budget)[0]
        assert spent[0] % 4 == 0
        assert attack.passes(budget)[1] == 4 * ATTACKS.create(inner).passes(budget)[1]


def test_eot_in_tt_on_the_purified_clip() -> None:
    """Draws inside, shifted copies outside: the loss of the mean logits of each shifted copy."""
    net, x = Ordered().double(), draw(2, 3, 4, 6, 6).double()
    from bench.attacks.eot import Expectation

    labels = torch.tensor([0, 3])
    target = Expectation(DefendedClassifier(net, Noisy()).target(ClipRandom([7, 8])), 3, "logits", 2)
    attack = ATTACKS.create("tt(shifts=1, shifted='purified')")
    value, found, _ = climb(attack, target, x, labels, [0, 0])
    rng = ClipRandom([7, 8])
    draws = [0.1 * rng.normal(3, 4, 6, 6).double() for _ in range(3)]
    leaf = x.clone().requires_grad_(True)
    total = torch.zeros(2, dtype=torch.float64)
    for m, weight in zip((-1, 0, 1), attack.weights.tolist(), strict=True):
        logits = torch.stack([net((leaf + noise).roll(m, dims=2)) for noise in draws]).mean(0)
        total = total + weight * nn.functional.cross_entropy(logits, labels, reduction="none")
    (expected,) = torch.autograd.grad(total.sum(), leaf)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(value, total.detach(), rtol=0, atol=1e-12)
