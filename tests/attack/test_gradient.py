"""FGSM, I-FGSM, MI-FGSM, Temporal Translation and EOT, each against a computation of its own."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torchattacks
from hypothesis import given, settings
from hypothesis import strategies as st
from kit import selection
from kit.gray import Coin, LevelClassifier
from torch import Tensor, nn

from bench import Budget, ClipRandom, DefendedClassifier, Purifier, Target
from bench.attack.gradient import GradientAttack, Run
from bench.attack.losses import cross_entropy
from bench.attack.survivors import Survivors
from bench.attack.target import Climb
from bench.registry import ATTACKS
from bench.run.judge import violation

few = settings(max_examples=15, deadline=None, derandomize=True, database=None)


def climb(attack: GradientAttack, target: Target, x: Tensor, labels: Tensor, seeds: list[int]) -> Climb:
    """What an attack climbs at some clips, in a run on these alone."""
    rng, budget = ClipRandom(seeds), Budget()
    left = Survivors(x, labels, budget, rng)
    return attack.ascent(Run(target, x, labels, budget, rng), x, left, labels, cross_entropy)


class Net(nn.Module):
    """A small network with some memory of time: every clip's answer depends on the order of its frames."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = nn.Conv3d(3, 6, 3, padding=1)
            self.head = nn.Linear(6 * 5, classes)

    def forward(self, clips: Tensor) -> Tensor:
        hidden = torch.tanh(3 * self.conv(clips)).mean((3, 4))
        return 8 * self.head(nn.functional.interpolate(hidden, size=5, mode="linear").flatten(1))


class AsImages(nn.Module):
    """:class:`Net` for libraries that know images only: frames stand below one another, ``(B, 3, T * H, W)``."""

    def __init__(self, net: nn.Module, frames: int) -> None:
        super().__init__()
        self.net, self.frames = net, frames

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.net(images.unflatten(2, (self.frames, -1)))
        return found


def clips_of(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def right(net: nn.Module, clips: Tensor) -> Tensor:
    with torch.no_grad():
        return net(clips).argmax(1)


def gradient_of(net: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    x = x.clone().requires_grad_(True)
    (found,) = torch.autograd.grad(nn.functional.cross_entropy(net(x), labels, reduction="sum"), x)
    return found


def transfer(net: nn.Module, count: int) -> Target:
    return Target(lambda x, rows, then=None: net(x if then is None else then(x)), count, stochastic=True)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("fgsm", lambda net: torchattacks.FGSM(net, eps=8 / 255)),
        ("i_fgsm", lambda net: torchattacks.BIM(net, eps=8 / 255, alpha=8 / 255 / 5, steps=5)),
        ("mi_fgsm", lambda net: torchattacks.MIFGSM(net, eps=8 / 255, alpha=8 / 255 / 5, steps=5, decay=1.0)),
    ],
)
@pytest.mark.parametrize("frames", [1, 4])
def test_on_images_they_are_torchattacks(name: str, theirs: Any, frames: int) -> None:
    net = Net().eval()
    clips = clips_of(4, 3, frames, 12, 12, seed=1)
    labels = right(net, clips)
    expected = theirs(AsImages(net, frames).eval())(clips.flatten(2, 3), labels).view_as(clips)
    found = ATTACKS.create(name)(transfer(net, 4), clips, labels, Budget(size=8 / 255, steps=5)).clips
    # The sign of a gradient within rounding of zero is a matter of chance.
    assert ((found - expected).abs() > 2e-7).double().mean() < 1e-3


def test_fgsm_takes_one_step_whatever_the_budget_says() -> None:
    net, x = Net(), clips_of(2, 3, 4, 8, 8)
    labels = right(net, x)
    attack, budget = ATTACKS.create("fgsm"), Budget(size=0.02, steps=7, step_size=0.001, restarts=3)
    target = transfer(net, 2)
    found = attack(target, x, labels, budget).clips
    torch.testing.assert_close(found, (x + 0.02 * gradient_of(net, x, labels).sign()).clamp(0, 1), rtol=0, atol=1e-7)
    assert target.forwards.tolist() == target.backwards.tolist() == [1, 1]


def test_momentum_is_one_scale_per_clip() -> None:
    net, x = Net(), clips_of(2, 3, 4, 6, 6, seed=2)
    labels = right(net, x)
    found = ATTACKS.create("mi_fgsm(decay=0.7)")(transfer(net, 2), x, labels, Budget(size=0.03, steps=3)).clips
    here, g = x.clone(), torch.zeros_like(x)
    for _ in range(3):
        grad = gradient_of(net, here, labels)
        for clip in range(2):
            g[clip] = 0.7 * g[clip] + grad[clip] / (grad[clip].abs().sum() / grad[clip].numel())
        here = torch.minimum(torch.maximum(here + 0.01 * g.sign(), x - 0.03), x + 0.03).clamp(0, 1)
    torch.testing.assert_close(found, here, rtol=0, atol=1e-6)


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
    net, x = Net().double(), clips_of(2, 3, frames, 6, 6).double()
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
    net, x = Net().double(), clips_of(1, 3, 8, 6, 6).double()
    labels = right(net, x)
    attack = ATTACKS.create({"name": "tt", "shifts": 2, "move": "remote", "misregistered": misregistered})
    found = climb(attack, transfer(net, 1), x, labels, [0]).gradient
    moves = {m: (abs(m) + 15 if m else 0) for m in range(-2, 3)}
    back = {m: m for m in range(-2, 3)} if misregistered else moves
    torch.testing.assert_close(found, translated(net, x, labels, 2, "gaussian", moves, back), rtol=0, atol=1e-12)
    other = translated(net, x, labels, 2, "gaussian", moves, moves if misregistered else {m: m for m in moves})
    assert (found - other).abs().max() > 1e-4


def test_random_shifts_are_drawn_per_clip_and_step() -> None:
    net, x = Net(), clips_of(2, 3, 16, 6, 6)
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
    net, x = Net(), clips_of(2, 3, 6, 6, 6, seed=3)
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
    x = clips_of(2, 3, 6, 6, 6)
    defended = DefendedClassifier(Net(), Shifting())
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


@few
@given(
    name=st.sampled_from(["fgsm", "i_fgsm", "mi_fgsm", "tt(shifts=2)", "tt_mi(shifts=1)", "eot(draws=2)"]),
    norm=st.sampled_from(["linf", "l2"]),
    size=st.floats(0, 0.5),
    frames=st.integers(1, 5),
    side=st.integers(3, 7),
    steps=st.integers(1, 4),
    double=st.booleans(),
)
def test_no_attack_leaves_its_budget(
    name: str, norm: str, size: float, frames: int, side: int, steps: int, double: bool
) -> None:
    net, x = Net(), clips_of(2, 3, frames, side, side)
    if double:
        net, x = net.double(), x.double()
    budget = Budget(norm, size, steps)
    result = ATTACKS.create(name)(net, x, right(net, x), budget).clips
    assert result.dtype == x.dtype
    assert [violation(c, a, budget) for c, a in zip(x, result, strict=True)] == [None, None]


@pytest.mark.parametrize("name", ["fgsm", "i_fgsm", "mi_fgsm", "tt(shifts=2)", "tt_mi(shifts=2)"])
@pytest.mark.parametrize("transferred", [False, True])
def test_passes_are_counted_as_planned(name: str, transferred: bool) -> None:
    net = LevelClassifier()
    x = torch.full((2, 3, 4, 4, 4), 0.5)
    target = Target(lambda c, rows, then=None: net(c), 2, transfer=transferred)
    attack, budget = ATTACKS.create(name), Budget(size=0.01, steps=3, restarts=2)
    attack(target, x, torch.tensor([1, 1]), budget)
    forwards, backwards = attack.passes(budget)
    assert target.backwards.tolist() == [backwards] * 2
    # A decisive target needs no check after the last restart: the judge makes it.
    assert target.forwards.tolist() == [forwards if transferred else forwards - 1] * 2


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

    net, x = Net().double(), clips_of(2, 3, 4, 6, 6).double()
    defended = DefendedClassifier(net, Noisy())
    labels = torch.tensor([0, 3])
    target = Expectation(defended.target(ClipRandom([7, 8])), 7, average, at_once)
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
    assert target.forwards.tolist() == target.backwards.tolist() == [7, 7]


def test_eot_asks_a_deterministic_defence_once() -> None:
    net, x = Net(), clips_of(2, 3, 4, 6, 6)
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
    net, x = Net().double(), clips_of(2, 3, 4, 6, 6).double()
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


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("tt(kernel='box')", "kernel must be gaussian, linear or uniform, not 'box'"),
        ("tt(shifts=-1)", "shifts must be a whole number of at least 0"),
        ("tt(shifted='purified', misregistered=True)", "each shifted copy must be purified"),
        ("eot(draws=0)", "draws must be a whole number of at least 1"),
        ("eot(average='votes')", "average must be logits, losses or gradients"),
        ("eot(attack='pdg')", "There is no attack 'pdg'.*did you mean 'pgd'"),
        ("mi_fgsm(decay=-1)", "must not be negative"),
    ],
)
def test_bad_parameters_are_one_sentence(spec: str, match: str) -> None:
    from bench import BenchError

    with pytest.raises(BenchError, match=match):
        ATTACKS.create(spec)


def test_labels_of_grids_find_the_attacks() -> None:
    from bench.grids.grid import AttackSection

    for label, name in (
        ("TT-MI+BPDA", "tt_mi"),
        ("MI-FGSM", "mi_fgsm"),
        ("PGD+Diffattack", "pgd"),
        ("EOT+BPDA", "eot"),
    ):
        section = AttackSection.read(label)
        assert section.attack is not None
        assert section.attack.name == name
        assert section.label == label
    assert AttackSection.read("PGD+Diffattack").gradient == "diffattack"
