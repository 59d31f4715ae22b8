"""Temporal Translation against the direct sum over shifts."""

from __future__ import annotations

import math

import pytest
import torch
from kit.climbs import climb
from kit.draws import draw
from kit.networks import Ordered, gradient_of, right, transfer
from torch import Tensor, nn

from bench import Budget, ClipRandom, DefendedClassifier, Purifier
from bench.attack.losses import cross_entropy
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


@pytest.mark.parametrize("misregistered", [False, True])
def test_remote_shifts_are_rolled_back_by_what_they_moved_or_as_published(misregistered: bool) -> None:
    net, x = Ordered().double(), draw(1, 3, 8, 6, 6).double()
    labels = right(net, x)
    attack = ATTACKS.create({"name": "tt", "shifts": 2, "move": "remote", "misregistered": misregistered})
    found = climb(attack, transfer(net, 1), x, labels, [0]).gradient
    moves = {m: (abs(m) + 15 if m else 0) for m in range(-2, 3)}
    back = {m: m for m in range(-2, 3)} if misregistered else moves
    torch.testing.assert_close(found, translated(net, x, labels, 2, "gaussian", moves, back), rtol=0, atol=1e-12)
    other = translated(net, x, labels, 2, "gaussian", moves, moves if misregistered else {m: m for m in moves})
    assert (found - other).abs().max() > 1e-4


def test_random_shifts_are_drawn_per_clip_and_step() -> None:
    net, x = Ordered(), draw(2, 3, 16, 6, 6)
    attack = ATTACKS.create("tt(shifts=2, move='random')")
    rng = ClipRandom([5, 6])
    (_, one), (_, two) = attack._moves(2, rng), attack._moves(2, rng)
    assert one.shape == (5, 2)
    assert one[2].tolist() == [0, 0]
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
