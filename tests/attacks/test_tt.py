"""Temporal Translation against the direct sum over shifts."""

from __future__ import annotations

import math

import pytest
import torch
from kit.climbs import climb
from kit.draws import draw
from kit.networks import Ordered, Scaled, gradient_of, right, transfer
from torch import Tensor, nn

from bench import Budget, ClipRandom, DefendedClassifier, Purifier
from bench.attack.losses import cross_entropy
from bench.attacks.tt import remote_shifts
from bench.registry import ATTACKS


def translated(
    net: nn.Module, x: Tensor, labels: Tensor, shifts: int, kernel: str, moves: dict[int, int], back: dict[int, int]
) -> Tensor:
    """The direct sum over shifts: roll, differentiate, roll back, weigh."""
    weight = {
        "gaussian": lambda m: math.exp(-(m**2) / (2 * (shifts / 3) ** 2)),
        "linear": lambda m: 1 - abs(m) / (shifts + 1),
        "uniform": lambda m: 1.0,
    }[kernel]
    everything = range(-shifts, shifts + 1)
    total = sum(weight(m) for m in everything)
    found = torch.zeros_like(x)
    for m in everything:
        gradient = gradient_of(net, torch.roll(x, moves[m], dims=2), labels)
        found += weight(m) / total * torch.roll(gradient, -back[m], dims=2)
    return found


@pytest.mark.parametrize("kernel", ["gaussian", "linear", "uniform"])
@pytest.mark.parametrize("shifted", ["clip", "purified"])
@pytest.mark.parametrize("frames", [4, 9])
def test_tt_is_the_direct_sum_over_shifts(kernel: str, shifted: str, frames: int) -> None:
    net, x = Ordered().double(), draw(2, 3, frames, 6, 6).double()
    labels = right(net, x)
    attack = ATTACKS.create({"name": "tt", "shifts": 3, "kernel": kernel, "shifted": shifted, "at_once": 2})
    target = transfer(net, 2)
    value, found, decision = climb(attack, target, x, labels, [0, 1])
    moves = {m: m for m in range(-3, 4)}
    expected = translated(net, x, labels, 3, kernel, moves, moves)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert torch.equal(decision, labels)  # of the clip as it is, not of a shifted copy
    losses = torch.stack([cross_entropy(net(torch.roll(x, m, dims=2)), labels) for m in range(-3, 4)])
    torch.testing.assert_close(value, (attack.weights[:, None] * losses).sum(0).detach(), rtol=0, atol=1e-12)
    assert target.forwards.tolist() == target.backwards.tolist() == [7, 7]


def test_remote_shifts_are_the_published_ones_and_half_a_clip_of_other_lengths() -> None:
    published = [*range(10, 17), 0, *range(16, 23)]
    assert remote_shifts(7, 32).tolist() == published
    assert remote_shifts(7, 16).tolist() == [*range(2, 9), 0, *range(8, 15)]
    attack = ATTACKS.create("tt(move='remote')")
    _, real = attack._moves(torch.zeros(2, 3, 32, 2, 2), ClipRandom([0, 1]))
    assert real == published


@pytest.mark.parametrize("misregistered", [False, True])
@pytest.mark.parametrize("frames", [8, 16])
def test_remote_shifts_are_rolled_back_by_what_they_moved_or_as_published(misregistered: bool, frames: int) -> None:
    net, x = Ordered().double(), draw(1, 3, frames, 6, 6).double()
    labels = right(net, x)
    attack = ATTACKS.create({"name": "tt", "shifts": 2, "move": "remote", "misregistered": misregistered})
    found = climb(attack, transfer(net, 1), x, labels, [0]).gradient
    further = frames // 2 - 1
    moves = {0: 0, 1: 1 + further, 2: 2 + further, -1: -1 - further, -2: -2 - further}
    back = {m: m for m in range(-2, 3)} if misregistered else moves
    torch.testing.assert_close(found, translated(net, x, labels, 2, "gaussian", moves, back), rtol=0, atol=1e-12)
    other = translated(net, x, labels, 2, "gaussian", moves, moves if misregistered else {m: m for m in moves})
    assert (found - other).abs().max() > 1e-4


@pytest.mark.parametrize("shifted", ["clip", "purified"])
def test_of_a_clip_without_a_slope_every_copy_counts_by_its_weight(shifted: str) -> None:
    """In a mean of cross-entropies the copies that are wrong would have all of the gradient. Log-odds by hand."""
    net, x = Ordered().double(), draw(1, 3, 6, 6, 6).double()
    everything = range(-2, 3)
    with torch.no_grad():
        middle = torch.stack([net(torch.roll(x, m, dims=2)) for m in everything]).mean(0)
    sure = Scaled(net, 1e4, middle)
    labels = right(sure, x)
    attack = ATTACKS.create({"name": "tt", "shifts": 2, "shifted": shifted})
    found = climb(attack, transfer(sure, 1), x, labels, [0]).gradient
    published = ATTACKS.create({"name": "tt", "shifts": 2, "shifted": shifted, "published": True})
    as_published = climb(published, transfer(sure, 1), x, labels, [0]).gradient
    leaf = x.clone().requires_grad_(True)
    level, losses, wrong = torch.zeros(()), torch.zeros(()), 0
    for weight, m in zip(attack.weights.tolist(), everything, strict=True):
        logits = sure(torch.roll(leaf, m, dims=2))
        others = logits.masked_fill(torch.nn.functional.one_hot(labels, 5).bool(), float("-inf"))
        odds = others.logsumexp(1) - logits.gather(1, labels[:, None])[:, 0]
        wrong += (odds > 0).long()
        level = level + weight * odds.sum()
        losses = losses + weight * odds.clamp_min(0).sum()  # cross-entropy, of such logits
    assert bool((wrong > 0).all())
    for mine, total in ((found, level), (as_published, losses)):
        (expected,) = torch.autograd.grad(total, leaf, retain_graph=True)
        unit = [g / g.abs().amax((1, 2, 3, 4), keepdim=True) for g in (mine, expected)]
        torch.testing.assert_close(*unit, rtol=0, atol=1e-5)


def test_random_shifts_are_drawn_per_clip_and_step() -> None:
    net, x = Ordered(), draw(2, 3, 16, 6, 6)
    attack = ATTACKS.create("tt(shifts=2, move='random')")
    rng = ClipRandom([5, 6])
    (_, first), (_, second) = attack._moves(x, rng), attack._moves(x, rng)
    assert first.pop(2) == second.pop(2) == 0
    one, two = torch.stack(first), torch.stack(second)
    assert one.shape == (4, 2)
    assert not torch.equal(one, two)
    assert not torch.equal(one[:, 0], one[:, 1])
    assert int(one.max()) <= 100
    labels = right(net, x)
    together = attack(transfer(net, 2), x, labels, Budget(size=0.02, steps=3), ClipRandom([5, 6])).clips
    alone = attack(transfer(net, 1), x[1:], labels[1:], Budget(size=0.02, steps=3), ClipRandom([6])).clips
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=1e-6)


def test_tt_mi_brings_each_frame_to_one_size() -> None:
    net, x = Ordered(), draw(2, 3, 6, 6, 6, seed=3)
    labels = right(net, x)
    found = ATTACKS.create("tt_mi(shifts=1)")(transfer(net, 2), x, labels, Budget(size=0.03, steps=3)).clips
    here, g = x.clone(), torch.zeros_like(x)
    moves = {m: m for m in (-1, 0, 1)}
    for _ in range(3):
        gradient = translated(net, here, labels, 1, "gaussian", moves, moves)
        for clip in range(2):
            for t in range(6):
                frame = gradient[clip, :, t]
                g[clip, :, t] = g[clip, :, t] + frame / frame.abs().mean()
        here = torch.minimum(torch.maximum(here + 0.01 * g.sign(), x - 0.03), x + 0.03).clamp(0, 1)
    # Where an accumulated value is within rounding of zero its sign is a matter of chance.
    assert ((found - here).abs() > 1e-6).double().mean() < 1e-3


class Shifting(Purifier):
    """Delays the clip by two frames: purifying shifted copies and shifting the purified clip are then the same."""

    calls = 0

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        type(self).calls += 1
        return 0.9 * clips.roll(2, dims=2)


def test_both_readings_of_tt_agree_on_a_defence_that_commutes_with_shifts() -> None:
    x = draw(2, 3, 6, 6, 6)
    defended = DefendedClassifier(Ordered(), Shifting())
    labels = defended.decide(x, ClipRandom([0, 1])).prediction
    found = []
    for shifted in ("clip", "purified"):
        Shifting.calls = 0
        attack = ATTACKS.create({"name": "tt", "shifts": 2, "shifted": shifted})
        result = climb(attack, defended.target(ClipRandom([0, 1])), x, labels, [0, 1])
        found.append((result, Shifting.calls))
    (one, many), (two, once) = found
    torch.testing.assert_close(one[1], two[1], rtol=0, atol=1e-6)
    torch.testing.assert_close(one[0], two[0], rtol=0, atol=1e-6)
    assert (many, once) == (2, 1)  # five copies, three at a time; one purification
