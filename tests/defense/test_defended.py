"""The defended classifier: one pipeline for attack and evaluation, and its gradients."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bench import BenchError, Budget, ClipRandom, DefendedClassifier, Purifier, RobustModel
from bench.attacks.pgd import PGD
from bench.defense.base import InTurn
from bench.defense.defended import GRADIENTS, UNASKED, decided, plurality, settled, why_not
from bench.defenses.jpeg import JPEG
from bench.defenses.none import NoDefense
from bench.defenses.temporal_shuffle import TemporalShuffle
from bench.records.identity import Gradient

few = settings(max_examples=30, deadline=None, derandomize=True, database=None)
SHAPE = (3, 4, 6, 6)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv, self.drop, self.fc = nn.Conv3d(3, 4, 3, padding=1), nn.Dropout(0.5), nn.Linear(4, 3)

    def forward(self, clips: Tensor) -> Tensor:
        return 20 * self.fc(self.drop(torch.tanh(4 * self.conv(clips))).mean(dim=(2, 3, 4)))


class Coarse(Purifier):
    """Few gray levels: no useful gradient of its own."""

    differentiable = False

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return (clips.detach() * 8).round() / 8


class Candidates(Purifier):
    """Three candidates, each a different rounding."""

    differentiable = False

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return torch.stack([(clips.detach() * n).round() / n for n in (2, 5, 9)])


class Copy(Purifier):
    """The identity that does not say so."""

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return clips.clone()


class Noisy(Purifier):
    """Random gains; the stand-in needs the very same gains."""

    differentiable = False
    stochastic = True

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[Tensor] = []
        self.replayed: list[Tensor] = []

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        self.drawn.append(rng.uniform(*clips.shape[1:]))
        return ((clips * self.drawn[-1]) * 16).round() / 16

    def bpda(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        self.replayed.append(rng.uniform(*clips.shape[1:]))
        return clips**2 * self.replayed[-1]


class Doubled(RobustModel):
    """Twice the logits."""

    def wrap(self, classifier: nn.Module) -> nn.Module:
        class Double(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = classifier

            def forward(self, clips: Tensor) -> Tensor:
                return 2 * self.inner(clips)

        return Double()


def batch(seed: int = 0, size: int = 3) -> tuple[Tensor, Tensor]:
    clips = torch.rand(size, *SHAPE, generator=torch.Generator().manual_seed(seed))
    return clips, torch.arange(size) % 3


def loss_gradient(model: nn.Module, points: Tensor, labels: Tensor) -> Tensor:
    """Gradient of the summed cross-entropy at some points: the reference for every straight-through rule."""
    leaf = points.detach().clone().requires_grad_(True)
    return torch.autograd.grad(F.cross_entropy(model(leaf), labels, reduction="sum"), leaf)[0]


# --- the identity changes nothing -----------------------------------------------------------------------------


@pytest.mark.parametrize("gradient", ["exact", "bpda"])
@pytest.mark.parametrize("purifier", [NoDefense(), Copy()])
def test_identity_reproduces_the_bare_logits(purifier: Purifier, gradient: str) -> None:
    model, (clips, _) = Small().eval(), batch()
    defended = DefendedClassifier(model, purifier, gradient)
    assert torch.equal(defended(clips, ClipRandom(range(3))), model(clips))
    assert torch.equal(defended(clips.clone().requires_grad_(True), ClipRandom(range(3))), model(clips))
    decision = defended.decide(clips, ClipRandom(range(3)))
    assert torch.equal(decision.logits, model(clips).detach())
    assert torch.equal(decision.prediction, model(clips).argmax(1))
    assert torch.equal(decision.votes, decision.prediction[None])


@pytest.mark.parametrize("gradient", ["exact", "bpda"])
@pytest.mark.parametrize("purifier", [NoDefense(), Copy()])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("keep", ["worst", "last"])
def test_pgd_through_the_identity_is_pgd_on_the_bare_model(
    purifier: Purifier, gradient: str, norm: str, keep: str
) -> None:
    model, (clips, _) = Small().eval(), batch(size=4)
    labels = model(clips).argmax(1)
    labels[0] = (labels[0] + 1) % 3  # one clip is wrong from the start
    budget = Budget(norm, 0.03 if norm == "linf" else 0.5, steps=4, restarts=2)
    bare = PGD(keep=keep)(model, clips, labels, budget, ClipRandom(range(4)))  # type: ignore[arg-type]
    target = DefendedClassifier(model, purifier, gradient).target(ClipRandom([9, 9, 9, 9]))
    defended = PGD(keep=keep)(target, clips, labels, budget, ClipRandom(range(4)))  # type: ignore[arg-type]
    assert torch.equal(defended.clips, bare.clips)
    assert not torch.equal(bare.clips, clips)


# --- bpda -----------------------------------------------------------------------------------------------------


def test_bpda_value_is_purify_and_gradient_skips_it() -> None:
    model, (clips, labels) = Small().eval(), batch()
    defended = DefendedClassifier(model, Coarse(), "bpda")
    x = clips.clone().requires_grad_(True)
    rng = ClipRandom(range(3))
    purified = Coarse().purify(clips, rng)
    assert torch.equal(defended.candidates(x, rng)[0], purified)
    logits = defended(x, rng)
    assert torch.equal(logits, model(purified))
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), x)
    assert torch.equal(gradient, loss_gradient(model, purified, labels))
    assert gradient.abs().max() > 0


def test_bpda_sums_the_gradients_of_the_candidates() -> None:
    model, (clips, _) = Small().eval(), batch()
    x = clips.clone().requires_grad_(True)
    defended = DefendedClassifier(model, Candidates(), "bpda")
    votes = defended.vote_logits(x, ClipRandom(range(3)))
    assert votes.shape == (3, 3, 3)
    weights = torch.randn(votes.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((weights * votes).sum(), x)
    expected = torch.zeros_like(clips)
    for v, candidate in enumerate(Candidates().purify(clips, ClipRandom(range(3)))):
        leaf = candidate.clone().requires_grad_(True)
        torch.testing.assert_close(votes[v], model(leaf), rtol=1e-5, atol=1e-5)
        expected += torch.autograd.grad((weights[v] * model(leaf)).sum(), leaf)[0]
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_bpda_uses_the_stand_in_of_the_purifier_and_replays_its_draws() -> None:
    model, (clips, labels) = Small().eval(), batch()
    purifier = Noisy()
    defended = DefendedClassifier(model, purifier, "bpda")
    x, rng = clips.clone().requires_grad_(True), ClipRandom([4, 5, 6])
    logits = defended(x, rng)
    assert torch.equal(purifier.drawn[0], purifier.replayed[0])
    assert torch.equal(purifier.drawn[0], ClipRandom([4, 5, 6]).uniform(*SHAPE))
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), x)
    purified = ((clips * purifier.drawn[0]) * 16).round() / 16
    assert torch.equal(logits, model(purified))
    # d(x^2 m)/dx = 2 x m, times the classifier's gradient where it really was evaluated.
    expected = loss_gradient(model, purified, labels) * 2 * clips * purifier.drawn[0]
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-7)
    # The replay leaves the stream where one call of purify leaves it.
    defended(x, rng)
    fresh = ClipRandom([4, 5, 6])
    fresh.uniform(*SHAPE)
    assert torch.equal(purifier.drawn[1], fresh.uniform(*SHAPE))
    assert torch.equal(purifier.drawn[1], purifier.replayed[1])


def test_negated_bpda_is_bpda_with_the_opposite_sign() -> None:
    model, (clips, labels) = Small().eval(), batch()
    found = []
    for gradient in ("bpda", "bpda-negated"):
        x = clips.clone().requires_grad_(True)
        logits = DefendedClassifier(model, Noisy(), gradient)(x, ClipRandom([4, 5, 6]))
        found.append((logits.detach(), torch.autograd.grad(F.cross_entropy(logits, labels), x)[0]))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1].any()
    assert torch.equal(found[0][1], -found[1][1])


def test_identity_bpda_skips_the_stand_in_of_the_purifier() -> None:
    model, (clips, labels), purifier = Small().eval(), batch(), Noisy()
    x = clips.clone().requires_grad_(True)
    logits = DefendedClassifier(model, purifier, "bpda-identity")(x, ClipRandom([4, 5, 6]))
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), x)
    purified = ((clips * purifier.drawn[0]) * 16).round() / 16
    assert torch.equal(logits, model(purified))
    assert torch.equal(gradient, loss_gradient(model, purified, labels))
    assert purifier.replayed == []


def test_surrogate_has_the_value_of_the_defence_and_the_gradient_of_the_cheaper_process() -> None:
    class WithSurrogate(Noisy):
        def surrogate(self, clips: Tensor, rng: ClipRandom) -> Tensor:
            return 3 * clips * rng.uniform(*clips.shape[1:])

    model, (clips, labels), purifier = Small().eval(), batch(), WithSurrogate()
    x = clips.clone().requires_grad_(True)
    logits = DefendedClassifier(model, purifier, "surrogate")(x, ClipRandom([4, 5, 6]))
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), x)
    purified = ((clips * purifier.drawn[0]) * 16).round() / 16
    assert torch.equal(logits, model(purified))
    assert purifier.replayed == []  # bpda's hook is another one
    torch.testing.assert_close(gradient, loss_gradient(model, purified, labels) * 3 * purifier.drawn[0])


def test_surrogate_is_refused_where_there_is_none() -> None:
    with pytest.raises(BenchError, match="JPEG has no cheaper process for surrogate to differentiate; use exact or"):
        DefendedClassifier(Small(), JPEG(), "surrogate")
    for gradient in ("bpda-lowpass", "bpda-negated", "surrogate"):
        with pytest.raises(BenchError, match=f"nothing for {gradient} to replace; use exact"):
            DefendedClassifier(Small(), Doubled(), gradient)


def test_evaluation_does_not_touch_the_stand_in() -> None:
    model, (clips, _) = Small().eval(), batch()
    purifier = Noisy()
    defended = DefendedClassifier(model, purifier, "bpda")
    decided = defended.decide(clips.clone().requires_grad_(True), ClipRandom([4, 5, 6]))
    assert purifier.replayed == []
    attacked = defended(clips.clone().requires_grad_(True), ClipRandom([4, 5, 6]))
    assert torch.equal(decided.logits, attacked.detach())


def test_gradient_none_gives_none() -> None:
    model, (clips, _) = Small().eval(), batch()
    defended = DefendedClassifier(model, Copy(), "none")
    assert not defended(clips.clone().requires_grad_(True), ClipRandom(range(3))).requires_grad


@pytest.mark.parametrize("purifier", [NoDefense(), TemporalShuffle(window=0)])
def test_draws_of_a_clip_ignore_who_left_the_batch(purifier: Purifier) -> None:
    """Target rows pick the streams, so a clip meets the same purifications whoever else is still there."""
    model, (clips, _) = Small().eval(), batch()
    defended = DefendedClassifier(model, purifier)
    first = defended.target(ClipRandom([1, 2, 3]))
    second = defended.target(ClipRandom([1, 2, 3]))
    first(clips)
    second(clips[2:], torch.tensor([2]))
    rows = torch.tensor([2])
    assert torch.equal(first(clips[2:], rows), second(clips[2:], rows))


# --- what does not exist --------------------------------------------------------------------------------------


def test_exact_is_refused_where_there_is_no_gradient() -> None:
    with pytest.raises(BenchError, match=r"JPEG has no exact gradient .* use bpda"):
        DefendedClassifier(Small(), JPEG(), "exact")
    assert why_not(JPEG(), "bpda") is None
    assert why_not(NoDefense(), "exact") is None


def test_bpda_of_a_robust_model_is_its_exact_gradient() -> None:
    """Nothing of a network is put aside, so the identity stands in for nothing."""
    model, (clips, _) = Small().eval(), batch()
    defended = DefendedClassifier(model, Doubled(), "bpda")
    x, y = clips.clone().requires_grad_(True), clips.clone().requires_grad_(True)
    (through,) = torch.autograd.grad(defended(x, ClipRandom(range(3))).square().sum(), x)
    (exact,) = torch.autograd.grad((2 * model(y)).square().sum(), y)
    assert torch.equal(through, exact)
    assert settled(Doubled(), "bpda") == "exact"
    assert settled(Coarse(), "bpda") == "bpda"


def test_other_stand_ins_are_refused_for_a_robust_model() -> None:
    with pytest.raises(BenchError, match=r"Doubled is a network.* use exact"):
        DefendedClassifier(Small(), Doubled(), "bpda-negated")


def test_unknown_gradient_is_refused() -> None:
    with pytest.raises(BenchError, match="Unknown gradient 'adjoint'; known: exact, bpda, bpda-identity, bpda-neg"):
        DefendedClassifier(Small(), NoDefense(), "adjoint")
    assert sorted(GRADIENTS) == sorted(get_args(Gradient))


# --- robust models, modes -------------------------------------------------------------------------------------


def test_robust_model_wraps_the_classifier() -> None:
    model, (clips, labels) = Small().eval(), batch()
    defended = DefendedClassifier(model, Doubled())
    assert torch.equal(defended(clips, ClipRandom(range(3))), 2 * model(clips))
    x = clips.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(defended(x, ClipRandom(range(3))).gather(1, labels[:, None]).sum(), x)
    y = clips.clone().requires_grad_(True)
    (bare,) = torch.autograd.grad(model(y).gather(1, labels[:, None]).sum(), y)
    torch.testing.assert_close(gradient, 2 * bare)


def test_a_robust_model_gets_a_copy_and_views_share_it() -> None:
    class InPlace(RobustModel):
        def wrap(self, classifier: nn.Module) -> nn.Module:
            classifier.fc.weight.data.zero_()  # type: ignore[union-attr]
            return classifier

    model, (clips, _) = Small().eval(), batch()
    before = model(clips)
    defended = DefendedClassifier(model, InPlace(), "none")
    assert torch.equal(model(clips), before)
    view = defended.with_gradient("exact")
    assert (defended.gradient, view.gradient) == ("none", "exact")
    assert view.classifier is defended.classifier
    assert torch.equal(view(clips, ClipRandom(range(3))), defended(clips, ClipRandom(range(3))))
    with pytest.raises(BenchError, match="nothing for surrogate to replace"):
        defended.with_gradient("surrogate")


def test_what_a_purifier_returns_is_checked() -> None:
    class Returns(Purifier):
        def __init__(self, what: object) -> None:
            super().__init__()
            self.what = what

        def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
            return self.what(clips)  # type: ignore[operator]

    (clips, _), rng = batch(), ClipRandom(range(3))
    for what, says in (
        (lambda c: c[:2], r"returned shape \(2, 3, 4, 6, 6\)"),
        (lambda c: c[:, :1], r"returned shape \(3, 1, 4, 6, 6\)"),
        (lambda c: c.mean(2), r"returned shape \(3, 3, 6, 6\)"),
        (lambda c: [c], "returned a list"),
    ):
        with pytest.raises(BenchError, match=says):
            DefendedClassifier(Small(), Returns(what)).decide(clips, rng)

    class Claims(Returns):
        identity = True

    with pytest.raises(BenchError, match="says identity = True but changes the clips"):
        DefendedClassifier(Small(), Claims(lambda c: c / 2)).decide(clips, rng)
    # What changes the very tensor that it returns is no identity either.
    for change in (lambda c: c.mul_(0.5), lambda c: (c.data.add_(0.01), c)[1]):
        with pytest.raises(BenchError, match="says identity = True but changes the clips"):
            DefendedClassifier(Small(), Claims(change)).decide(clips, rng)
        with pytest.raises(BenchError, match="says identity = True but changes the clips"):
            DefendedClassifier(Small(), Claims(change), "bpda").forward(clips.clone().requires_grad_(True), rng)
    for same in (lambda c: c, lambda c: c.clone()):
        assert bool(DefendedClassifier(Small(), Claims(same)).decide(clips, rng).finite.all())


def test_bpda_of_a_purifier_that_drops_frames_needs_a_stand_in() -> None:
    class Half(Purifier):
        def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
            return torch.stack([clips[:, :, ::2], clips[:, :, 1::2]])

    class HalfWithStandIn(Half):
        def bpda(self, clips: Tensor, rng: ClipRandom) -> Tensor:
            return clips[:, :, ::2]

    model, (clips, labels), rng = Small().eval(), batch(), ClipRandom(range(3))
    x = clips.clone().requires_grad_(True)
    with pytest.raises(BenchError, match="override bpda"):
        DefendedClassifier(model, Half(), "bpda")(x, rng)
    with pytest.raises(BenchError, match=r"HalfWithStandIn turns .* the identity cannot pass a gradient"):
        DefendedClassifier(model, HalfWithStandIn(), "bpda-identity")(x, rng)
    votes = DefendedClassifier(model, HalfWithStandIn(), "bpda").vote_logits(x, rng)
    (gradient,) = torch.autograd.grad(votes.gather(2, labels.expand(2, 3)[..., None]).sum(), x)
    even, odd = (clips[:, :, i::2].clone().requires_grad_(True) for i in (0, 1))
    expected = sum(torch.autograd.grad(model(c).gather(1, labels[:, None]).sum(), c)[0] for c in (even, odd))
    torch.testing.assert_close(gradient[:, :, ::2], expected, rtol=1e-4, atol=1e-6)
    assert not gradient[:, :, 1::2].any()


def test_bpda_keeps_the_iterate_of_an_attack_out_of_reach() -> None:
    class InPlace(Purifier):
        def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
            return clips.mul_(0.5)

    model, (clips, _) = Small().eval(), batch()
    x = clips.clone().requires_grad_(True)
    logits = DefendedClassifier(model, InPlace(), "bpda")(x, ClipRandom(range(3)))
    assert torch.equal(x, clips)
    assert torch.equal(logits, model(clips / 2))


def test_a_decision_knows_which_answers_are_finite() -> None:
    class Holes(Purifier):
        def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
            clips = clips.clone()
            clips[1, 0, 0, 0, 0] = float("inf")
            return torch.stack([clips, clips.nan_to_num(posinf=1.0)])

    decision = DefendedClassifier(Small(), Holes()).decide(batch()[0], ClipRandom(range(3)))
    assert decision.finite.tolist() == [True, False, True]


def test_classifier_is_put_in_evaluation_mode_without_weight_gradients() -> None:
    defended = DefendedClassifier(Small().train(), NoDefense())
    assert not any(m.training for m in defended.modules())
    assert not any(p.requires_grad for p in defended.parameters())


@pytest.mark.parametrize(("defense", "stochastic"), [(Noisy(), True), (Coarse(), False), (Doubled(), False)])
def test_target_knows_whether_the_defense_is_stochastic(defense: Purifier | RobustModel, stochastic: bool) -> None:
    gradient = "bpda" if isinstance(defense, Purifier) else "exact"
    target = DefendedClassifier(Small(), defense, gradient).target(ClipRandom([1, 2]))
    assert target.stochastic is stochastic
    assert target.forwards.tolist() == [0, 0]


def test_target_knows_whether_its_clips_go_elsewhere() -> None:
    defended = DefendedClassifier(Small(), NoDefense())
    assert defended.target(ClipRandom([1])).decisive
    assert not defended.target(ClipRandom([1]), transfer=True).decisive


# --- votes ----------------------------------------------------------------------------------------------------


@few
@given(st.lists(st.lists(st.integers(0, 4), min_size=2, max_size=2), min_size=1, max_size=7))
def test_plurality_is_the_most_frequent_class_and_ties_go_low(votes: list[list[int]]) -> None:
    found = plurality(torch.tensor(votes)).tolist()
    for clip in range(2):
        counts = Counter(vote[clip] for vote in votes)
        assert found[clip] == min(c for c, n in counts.items() if n == max(counts.values()))


def test_plurality_ties() -> None:
    votes = torch.tensor([[4, 2, 1], [1, 2, 0], [4, 0, 2], [1, 3, 3]])
    assert plurality(votes).tolist() == [1, 2, 0]


def test_plurality_stays_on_the_device() -> None:
    """The device "meta" has no values to look at or to copy."""
    assert plurality(torch.empty(7, 3, dtype=torch.int64, device="meta")).device.type == "meta"


@pytest.mark.parametrize("at_once", [1, 4, 100])
def test_rows_in_portions_are_answered_as_all_together(at_once: int) -> None:
    """Values and gradient are those of all at once, and no more than that go through the network together."""
    seen: list[int] = []

    class Watched(Small):
        def forward(self, clips: Tensor) -> Tensor:
            seen.append(len(clips))
            logits = super().forward(clips.clone())
            clips.zero_()  # one that works in place
            return logits

    class Three(Purifier):
        def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
            return torch.stack([clips, clips * 0.5, clips.square()])

    clips, _ = batch()
    weights = torch.linspace(-1, 1, 27).view(3, 3, 3)
    found = []
    for most in (None, at_once):
        defended = DefendedClassifier(Watched(), Three())
        defended.at_once = most
        leaf = clips.clone().requires_grad_(True)
        logits = defended.vote_logits(leaf, ClipRandom(range(3)))
        found.append((logits.detach(), *torch.autograd.grad((weights * logits).sum(), leaf)))
        seen.clear()
        found[-1] += (defended.decide(clips, ClipRandom(range(3))).logits,)
        assert sum(seen) == 9
        assert max(seen) == min(most or 9, 9)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@few
@given(st.lists(st.integers(0, 2), min_size=1, max_size=6), st.integers(0, 4))
def test_a_plurality_is_decided_when_no_vote_to_come_can_change_it(votes: list[int], more: int) -> None:
    def winner(given: list[int]) -> int:
        counts = Counter(given)
        return min(c for c, n in counts.items() if n == max(counts.values()))

    clear = bool(decided(torch.tensor(votes)[:, None], len(votes) + more))
    same = {winner([*votes, *rest]) for rest in itertools.product(range(4), repeat=more)} == {winner(votes)}
    assert same or not clear
    ahead = [*sorted(Counter(votes).values(), reverse=True), 0]
    assert clear == (ahead[0] > ahead[1] + more)  # all but ties


class Levels(InTurn):
    """Candidate ``k`` of a clip is gray, of the level that the clip has in its pixel ``k``."""

    voters = 5

    def __init__(self) -> None:
        super().__init__()
        self.made = 0

    def in_turn(self, clips: Tensor, rng: ClipRandom) -> Iterator[Tensor]:
        for k in range(self.voters):
            self.made += len(clips)
            yield clips[..., :1, k : k + 1].expand_as(clips).clone()


class Thirds(nn.Module):
    """Class 0, 1 or 2, by the level of the clip; not a number above 1."""

    def forward(self, clips: Tensor) -> Tensor:
        level = clips.mean(dim=(1, 2, 3, 4))[:, None]
        logits = -(level - torch.tensor([0.0, 0.5, 1.0])).abs()
        return torch.where(level > 1.2, torch.nan, logits)


def levels(*rows: list[float]) -> Tensor:
    clips = torch.zeros(len(rows), *SHAPE)
    for clip, row in zip(clips, rows, strict=True):
        clip[..., 0, : len(row)] = torch.tensor(row)
    return clips


def test_candidates_are_asked_in_turn_until_they_have_decided() -> None:
    clips = levels([1, 1, 1, 0, 0], [0, 1, 0, 0.5, 0.5], [0.5, 0, 0.5, 0.5, 9], [9, 1, 1, 1, 1])
    defense = Levels()
    defended = DefendedClassifier(Thirds(), defense)
    decision = defended.decide(clips, ClipRandom(range(4)))
    un = UNASKED
    assert decision.votes.T.tolist()[:3] == [[2, 2, 2, un, un], [0, 2, 0, 1, 1], [1, 0, 1, 1, un]]
    assert decision.prediction.tolist()[:3] == [2, 0, 1]
    assert decision.finite.tolist() == [True, True, True, False]  # what was not asked is nobody's fault
    assert decision.purified.shape == (1, *clips.shape)
    assert decision.logits.shape == (4, 3)
    for i in range(4):  # whatever the batch
        alone = defended.decide(clips[i : i + 1], ClipRandom([i]))
        assert torch.equal(alone.votes, decision.votes[:, i : i + 1])
    defense.made = 0
    defended.decide(clips[:1], ClipRandom([0]))
    assert defense.made == 3


def test_all_candidates_are_made_for_attacks_for_a_mean_and_where_something_is_measured() -> None:
    clips = levels([1, 1, 1, 1, 1]).requires_grad_(True)
    defense = Levels()
    defended = DefendedClassifier(Thirds(), defense)
    assert defended.vote_logits(clips, ClipRandom([0])).shape == (5, 1, 3)
    assert defense.made == 5
    defended.target(ClipRandom([0])).ask(clips.detach())
    assert defense.made == 10
    defense.vote = "mean"
    assert UNASKED not in defended.decide(clips, ClipRandom([0])).votes

    class Measured(Levels):
        def measure(self, clips: Tensor) -> Tensor:
            return clips.mean(dim=(1, 2, 3, 4))

    class Other(Levels):
        """What is attacked has to be what is judged: this one's candidates are not those of ``in_turn``."""

        def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
            return torch.zeros(5, *clips.shape)

    for kind in (Measured, Other):
        decision = DefendedClassifier(Thirds(), kind()).decide(clips, ClipRandom([0]))
        assert decision.votes.shape == (5, 1)
        assert UNASKED not in decision.votes
    assert decision.prediction.tolist() == [0]


def test_decision_is_the_hard_vote_not_the_soft_one() -> None:
    """Two lukewarm votes for class 1 beat one very sure vote for class 0; the pooled logits say otherwise."""

    class Three(Purifier):
        def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
            return torch.stack([clips, clips * 0.5, clips * 0.25])

    class Reader(nn.Module):
        def forward(self, clips: Tensor) -> Tensor:
            level = clips.mean(dim=(1, 2, 3, 4))
            sure = torch.tensor([20.0, 0.0, 0.0])
            split = torch.tensor([0.0, 0.1, -9.0])
            return torch.where(level[:, None] > 0.6, sure, split)

    decision = DefendedClassifier(Reader(), Three()).decide(torch.ones(2, *SHAPE), ClipRandom([0, 1]))
    assert decision.votes.tolist() == [[0, 0], [1, 1], [1, 1]]
    assert decision.prediction.tolist() == [1, 1]
    assert decision.logits.argmax(1).tolist() == [0, 0]
    asks = Three()
    asks.vote = "mean"
    mean = DefendedClassifier(Reader(), asks).decide(torch.ones(2, *SHAPE), ClipRandom([0, 1]))
    assert mean.prediction.tolist() == [0, 0]
    assert torch.equal(mean.votes, decision.votes)


def test_attack_goes_on_until_the_hard_vote_is_lost() -> None:
    """One sure candidate carries the soft vote from the start; the other two fall after 0.4 radii."""
    size = 0.05

    class Offset(Purifier):
        def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
            return torch.stack([clips, clips, clips + 0.3])

    class Reader(nn.Module):
        def forward(self, clips: Tensor) -> Tensor:
            level = clips.mean(dim=(1, 2, 3, 4))
            wrong = 10 * (level - 0.5 - 0.4 * size) + torch.where(level > 0.7, 20.0, 0.0)
            return torch.stack([torch.zeros_like(level), wrong], 1)

    clips, labels, rng = torch.full((1, *SHAPE), 0.5), torch.tensor([0]), ClipRandom([0])
    defended = DefendedClassifier(Reader(), Offset())
    decision = defended.decide(clips, rng)
    assert decision.prediction.tolist() == [0]
    assert decision.logits.argmax(1).tolist() == [1]
    assert defended.decide(clips + 0.5 * size, rng).prediction.tolist() == [1]
    found = PGD(start="clean")(defended.target(rng), clips, labels, Budget(size=size), ClipRandom([0])).clips
    assert defended.decide(found, rng).prediction.tolist() == [1]


def test_pool_of_one_is_untouched() -> None:
    votes = 1e4 * torch.randn(1, 3, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(DefendedClassifier.pool(votes), votes[0])


@pytest.mark.parametrize("count", [2, 7])
def test_pool_is_the_log_of_the_mean_softmax(count: int) -> None:
    votes = 5 * torch.randn(count, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = votes.numpy()
    softmax = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    np.testing.assert_allclose(DefendedClassifier.pool(votes).numpy(), np.log(softmax.mean(0)), rtol=1e-10)
    assert torch.isfinite(DefendedClassifier.pool(1e4 * votes)).all()


class Measuring(Candidates):
    """Measures the mean of a clip."""

    def measure(self, clips: Tensor) -> Tensor:
        return clips.mean(dim=(1, 2, 3, 4))


def test_a_defence_measures_clips_as_they_come_and_its_candidates_on_average() -> None:
    clips, rng = batch()[0], ClipRandom(range(3))
    defended = DefendedClassifier(Small(), Measuring(), "bpda")
    measured = defended.measure(clips, defended.decide(clips, rng).purified)
    purified = Candidates().purify(clips, rng)
    torch.testing.assert_close(measured[0], clips.flatten(1).mean(1))
    torch.testing.assert_close(measured[1], purified.flatten(2).mean(2).mean(0))
    plain = DefendedClassifier(Small(), Candidates(), "bpda")
    assert plain.measure(clips, plain.decide(clips, rng).purified).shape == (0, 3)


def test_a_purifier_that_works_in_place_leaves_the_judged_clip_alone() -> None:
    class Halving(Purifier):
        def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
            return clips.mul_(0.5)

        def measure(self, clips: Tensor) -> Tensor:
            return clips.mean(dim=(1, 2, 3, 4))

    clips = torch.full((2, *SHAPE), 0.8)
    defended = DefendedClassifier(Small(), Halving())
    found = defended.measure(clips, defended.decide(clips, ClipRandom([0, 1])).purified)
    torch.testing.assert_close(found, torch.tensor([[0.8, 0.8], [0.4, 0.4]]))
    assert bool((clips == 0.8).all())


def test_what_measures_something_else_than_clips_is_refused() -> None:
    class Whole(Candidates):
        def measure(self, clips: Tensor) -> Tensor:
            return clips.mean(dim=(1, 2, 3))

    clips = batch()[0]
    with pytest.raises(BenchError, match=r"Whole.measure must return \(3,\), a number per clip, but returned shape"):
        DefendedClassifier(Small(), Whole(), "bpda").measure(clips, clips[None])
