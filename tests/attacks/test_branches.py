"""The attack on branches, where the gradient through the selection leads nowhere."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from kit.networks import Wavy
from kit.selection import BUDGET, LABELS, clips
from torch import Tensor, nn

from bench import BenchError, Budget, ClipRandom, DefendedClassifier, Target
from bench.attacks.branches import Branches
from bench.attacks.pgd import PGD
from bench.defense.base import RobustModel
from bench.run.judge import violation


class Masked(nn.Module):
    """Both branches fall to the same small change, and the whole answers by one of them, without a gradient."""

    selects = True

    def branch(self, clips: Tensor, sign: float) -> Tensor:
        score = 100 * (clips[..., 2:].mean((1, 2, 3, 4)) - 0.51) + sign
        return torch.stack([-score, score], 1)

    def selection(self, clips: Tensor) -> Tensor:
        return torch.zeros(len(clips), 2)

    @property
    def views(self) -> dict[str, Callable[[Tensor], Tensor]]:
        return {"frozen": self, "lp": lambda c: self.branch(c, 0.0), "physical": lambda c: self.branch(c, -50.0)}

    def forward(self, clips: Tensor) -> Tensor:
        return self.branch(clips.detach(), 0.0) + 0 * clips.sum()


class Wrapped(RobustModel):
    def wrap(self, classifier: nn.Module) -> nn.Module:
        return Masked()


def target(count: int = 3) -> Target:
    return DefendedClassifier(nn.Identity(), Wrapped(), "exact").target(ClipRandom(range(count)))


def test_clips_of_a_branch_break_what_hides_its_gradient() -> None:
    whole = PGD(start="clean")(target(), clips(), LABELS, BUDGET, ClipRandom(range(3))).clips
    assert Masked()(whole).argmax(1).tolist() == [0, 0, 0]
    seen = target()
    found = Branches({"name": "pgd", "start": "clean"})(seen, clips(), LABELS, BUDGET, ClipRandom(range(3))).clips
    assert Masked()(found).argmax(1).tolist() == [1, 1, 1]
    assert seen.forwards.tolist() == [2, 2, 2]  # frozen, lp; broken then
    for clean, adversarial in zip(clips(), found, strict=True):
        assert violation(clean, adversarial, BUDGET) is None


def test_only_the_ways_that_are_wanted_are_gone() -> None:
    made = Branches({"name": "pgd", "start": "clean"}, ["physical"])
    seen = target()
    made(seen, clips(), LABELS, BUDGET, ClipRandom(range(3)))
    assert seen.forwards.tolist() == [1, 1, 1]
    assert made.passes(BUDGET) == (1, 0)
    forwards, backwards = PGD().passes(BUDGET)  # of a network that has no branches
    assert Branches().passes(BUDGET) == (max(5, forwards), backwards)
    assert Branches("roa").norms == ("rectangle",)


def test_one_clip_does_not_depend_on_the_others() -> None:
    several = clips()
    several[1, ..., 2:] = 0.6  # wrong already
    together = Branches()(target(), several, LABELS, BUDGET, ClipRandom(range(3))).clips
    alone = Branches()(target(1), several[2:], LABELS[:1], BUDGET, ClipRandom([2])).clips
    assert torch.equal(together[2:], alone)


def test_on_a_network_without_branches_it_is_the_attack_itself() -> None:
    net, rng = Wavy(2), ClipRandom(range(3))
    labels = net(clips()).argmax(1)
    found = Branches()(net, clips(), labels, BUDGET, rng.clone()).clips
    assert torch.equal(found, PGD()(net, clips(), labels, BUDGET, rng).clips)
    assert not torch.equal(found, clips())


def test_what_it_cannot_attack() -> None:
    with pytest.raises(BenchError, match="there is no 'lp'; there are none: take the attack itself"):
        Branches(views=["lp"])(Masked(), clips(), LABELS, BUDGET)
    with pytest.raises(BenchError, match="there is no 'l2'; there are frozen, lp, physical"):
        Branches(views=["l2"])(target(), clips(), LABELS, BUDGET, ClipRandom(range(3)))
    assert "bare classifier" in str(Branches(views=["lp"]).refuses(stochastic=False, transfer=True))
    assert Branches().refuses(stochastic=False, transfer=True) is None  # it is the attack itself there
    assert "randomised" in str(Branches().refuses(stochastic=True, transfer=False))
    assert Branches().refuses(stochastic=False, transfer=False) is None
    with pytest.raises(BenchError, match="takes rectangle budgets, not linf"):
        Branches("roa").check(Budget())
