"""Networks that are not what one expects: asked on copies, left as they were, and said to be what they are."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from kit.gray import LEVELS, level_classifier
from torch import Tensor, nn

import bench
from bench import BenchError, ClipRandom, DefendedClassifier, Purifier, Target
from bench.attack.losses import LOSSES
from bench.attack.target import bounded
from bench.defense.nature import Nature
from bench.plan.probe import check, nature_of
from bench.registry import ATTACKS, DEFENSES

CPU = torch.device("cpu")
CLIPS = torch.stack([torch.full((3, 4, 8, 8), LEVELS[i % 3]) for i in range(6)])
LABELS = torch.arange(6) % 3
BUDGET = {"size": 0.15, "steps": 4}


class Network(nn.Module):
    """The level classifier, with something done to what it is given and to what it answers."""

    def __init__(
        self, after: Callable[[Tensor], Any] = lambda z: z, before: Callable[[Tensor], Tensor] = lambda x: x
    ) -> None:
        super().__init__()
        self.net, self.before, self.after = level_classifier(), before, after

    def forward(self, clips: Tensor) -> Any:
        return self.after(self.net(self.before(clips)))


def asked(model: nn.Module, **options: Any) -> pd.DataFrame:
    return bench.evaluate(model, CLIPS.clone(), LABELS, **{"budget": BUDGET, "verbose": False, **options})


def same(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    columns = ["status", "correct", "clean_correct", "prediction", "linf"]
    return one[columns].equals(other[columns])


def alike(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Of networks with other names, whose random starts are others."""
    columns = ["status", "correct", "clean_correct"]
    return one[columns].equals(other[columns])


# --- nothing is changed -------------------------------------------------------------------------------------------


class Blackens(Purifier):
    """Works in place, and returns what it was given."""

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return clips.mul_(0.5).mul_(2)


@pytest.mark.parametrize("attack", ["pgd", "square(queries=20)", "apgd"])
def test_a_network_that_works_in_place_is_like_one_that_does_not(attack: str) -> None:
    clips = CLIPS.clone()

    def measured(model: nn.Module) -> pd.DataFrame:
        gradient = {"gradient": "query"} if attack.startswith("square") else {}
        return bench.evaluate(model, clips, LABELS, attack=attack, budget=BUDGET, verbose=False, **gradient)

    found = measured(Network(before=lambda x: x.mul_(0.5).mul_(2)))
    assert torch.equal(clips, CLIPS)
    assert same(found, measured(Network(before=lambda x: x * 0.5 * 2)))
    assert set(found["status"]) == {"ok"}


def test_a_purifier_that_works_in_place_leaves_clips_and_iterates_alone() -> None:
    defended = DefendedClassifier(level_classifier(), Blackens())
    target = defended.target(ClipRandom(range(6)))
    clips = CLIPS.clone()
    with torch.no_grad():
        target(clips)
    target.gradient(clips, None, LABELS, LOSSES["ce"])
    defended.decide(clips, ClipRandom(range(6)))
    assert torch.equal(clips, CLIPS)


def test_a_plain_target_is_asked_on_a_copy() -> None:
    clips = CLIPS.clone()
    Target.of(Network(before=lambda x: x.zero_()), 6)(clips)
    assert torch.equal(clips, CLIPS)


def test_modes_flags_seeds_and_dtypes_are_put_back() -> None:
    model = Network(after=lambda z: F.dropout(z, 0.1, True) + np.random.rand() * random.random()).train()
    model.net.eval()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    with pytest.warns(UserWarning, match="answers the same clip differently"):
        asked(model)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])
    assert before[2] == random.getstate()
    assert (model.training, model.net.training) == (True, False)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


class Counting(nn.Module):
    """Counts its calls in a buffer."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.net = level_classifier()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, clips: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = self.net(clips)
        return logits


def test_the_probe_puts_buffers_back() -> None:
    model = Counting()
    assert nature_of(model, CLIPS[0], CPU) == Nature()
    assert int(model.calls) == 0


# --- gradients ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_taken_whatever_mode_the_caller_is_in(mode: Callable[[], Any]) -> None:
    plain = asked(level_classifier())
    with mode():
        clips = CLIPS.clone()
        inside = bench.evaluate(level_model, clips, LABELS.clone(), budget=BUDGET, verbose=False)
        by_hand = ATTACKS.create("pgd")(level_model, clips, LABELS).clips
    assert same(plain, inside)
    assert not torch.equal(by_hand, CLIPS)
    after = bench.evaluate(level_model, clips, LABELS, budget=BUDGET, verbose=False)  # made in that mode
    assert same(plain, after)


level_model = level_classifier()


class Cut(Purifier):
    """Says it is differentiable, and is not."""

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return clips.detach() * 1


def test_a_gradient_that_is_not_there_is_said_of_the_one_who_says_it_is() -> None:
    says = "Cut says differentiable = True but its output carries no gradient: set differentiable = False"
    with pytest.raises(BenchError, match=says):
        asked(level_classifier(), defense=Cut(), gradient="exact")
    assert set(asked(level_classifier(), defense=Cut(), gradient="bpda")["status"]) == {"ok"}
    detached = Network(after=lambda z: z.detach())
    with pytest.raises(BenchError, match="Network returns logits that carry no gradient"):
        asked(detached)
    assert set(asked(detached, attack="square(queries=5)", gradient="query")["status"]) == {"ok"}


# --- answers ------------------------------------------------------------------------------------------------------


def test_one_logit_is_refused() -> None:
    for after in (lambda z: z[:, :1].sigmoid(), lambda z: z[:, :1]):
        with pytest.raises(BenchError, match="returns one number per clip"):
            bench.evaluate(Network(after), CLIPS, LABELS * 0, verbose=False)


@pytest.mark.parametrize("after", [lambda z: (z, z), lambda z: {"logits": z}, lambda z: z[0], lambda z: z.argmax(1)])
def test_what_are_no_logits_is_refused(after: Callable[[Tensor], Any]) -> None:
    with pytest.raises(BenchError, match=r"must return logits of shape \(1, K\)"):
        asked(Network(after))


def _ruled_out(z: Tensor) -> Tensor:
    return torch.cat([z, torch.full_like(z[:, :1], float("-inf"))], 1)


@pytest.mark.parametrize("attack", ["pgd", "pgd(loss='dlr')", "pgd(loss='margin')", "apgd", "fab"])
def test_a_class_that_is_ruled_out_changes_nothing(attack: str) -> None:
    found = asked(Network(_ruled_out), attack=attack)
    assert set(found["status"]) == {"ok"}
    assert found["clean_correct"].all()
    assert not found["correct"].any()


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_losses_have_gradients_where_classes_are_ruled_out(loss: str) -> None:
    logits = torch.tensor([[2.0, 1.0, 0.5, 0.0], [0.0, 3.0, 1.0, 2.0], [0.0, 1.0, 2.0, 3.0]], requires_grad=True)
    out = torch.tensor([[0, 0, 1, 1], [1, 0, 0, 0], [1, 1, 1, 0]]).bool()
    found = bounded(logits.masked_fill(out, float("-inf")))
    value = LOSSES[loss](found, torch.tensor([0, 0, 0]))  # of the last two, the true class itself
    (slope,) = torch.autograd.grad(value.sum(), logits)
    assert value.isfinite().all()
    assert slope.isfinite().all()
    assert not slope[out].any()
    assert torch.equal(found.argmax(1), torch.tensor([0, 1, 3]))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_other_answers_that_are_not_finite_are_faults(value: float) -> None:
    model = Network(lambda z: torch.cat([z[:, :2], torch.full_like(z[:, :1], value)], 1))
    assert set(asked(model, attack="noise")["status"]) == {"failed"}
    nothing = Network(lambda z: torch.full_like(z, float("-inf")))
    assert set(asked(nothing, attack="noise")["status"]) == {"failed"}


def test_half_logits_and_half_probabilities() -> None:
    found = asked(Network(lambda z: z.half()))
    assert set(found["status"]) == {"ok"}
    with pytest.warns(UserWarning, match="returns probabilities"):
        asked(Network(lambda z: z.softmax(1).half()), attack="noise")


# --- random networks, and those that look at the batch ------------------------------------------------------------


def _dropping(z: Tensor) -> Tensor:
    return F.dropout(z, 0.3, True)


def test_randomness_that_is_not_declared_is_said_and_drawn_from_the_seed() -> None:
    with pytest.warns(UserWarning, match=r"answers the same clip differently .* stochastic = True"):
        first = asked(Network(_dropping), seed=1)
    assert all(len(draws) == 10 for draws in first["draws"])
    assert set(first["status"]) == {"ok"}
    declared = Network(_dropping)
    declared.stochastic = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = asked(declared, seed=1, batch_size=2)
    assert same(first, again)
    assert list(first["draws"]) == list(again["draws"])


class Batched(nn.Module):
    """Normalises over the batch, as layers without running statistics do."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3, track_running_stats=False, affine=False)

    def forward(self, clips: Tensor) -> Tensor:
        means = clips[:, :, :, ::4, ::4].mean((2, 3, 4)) + torch.tensor([0.1, 0.0, -0.1])
        return means - means.mean(0, keepdim=True) * 0.5


def test_networks_that_look_at_the_batch_are_asked_clip_by_clip() -> None:
    model, labels = Batched(), torch.zeros(6, dtype=torch.int64)

    def measured(size: int) -> pd.DataFrame:
        with pytest.warns(UserWarning, match="depends on the other clips of its batch"):
            return bench.evaluate(model, CLIPS, labels, budget=BUDGET, batch_size=size, verbose=False)

    assert nature_of(model, CLIPS[0], CPU) == Nature(alone=True)
    one, six = measured(1), measured(6)
    assert same(one, six)
    assert list(one["trace"]) == list(six["trace"])


def test_networks_that_take_one_clip_at_a_time_are_given_one() -> None:
    def before(clips: Tensor) -> Tensor:
        return clips.view(1, *clips.shape[1:])

    with pytest.warns(UserWarning, match="Every clip is asked alone"):
        assert alike(asked(Network(before=before)), asked(level_classifier()))


@pytest.mark.parametrize("name", sorted(DEFENSES.names())[:3])
def test_plain_networks_are_plain(name: str) -> None:
    assert nature_of(level_classifier(), CLIPS[0], CPU) == Nature()


# --- networks that were fine, and are -----------------------------------------------------------------------------


def test_wrapped_hooked_and_scripted_networks_are_like_plain_ones() -> None:
    plain = asked(level_classifier())
    hooked = level_classifier()
    seen: list[int] = []
    hooked.register_forward_hook(lambda *_: seen.append(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(level_classifier().eval(), CLIPS)
    for model in (nn.DataParallel(level_classifier()), hooked, traced):
        assert alike(plain, asked(model))
    assert seen
    assert len(hooked._forward_hooks) == 1


def test_weights_that_cannot_be_differentiated_are_named() -> None:
    with torch.inference_mode():
        inside = level_classifier()
        inside.extra = nn.Parameter(torch.zeros(1), requires_grad=False)
    lazy, meta = Network(), Network()
    lazy.extra = nn.LazyLinear(2)
    meta.extra = nn.Linear(2, 2, device="meta")
    for model, says in ((inside, "inference_mode"), (lazy, "lazy layers"), (meta, "meta device")):
        with pytest.raises(BenchError, match=says):
            asked(model)


def test_classes_counted_from_0_and_more_than_are_needed() -> None:
    check(level_classifier(), "levels", CLIPS[0], CPU, 3, 0)
    with pytest.raises(BenchError, match="has 3 classes, but the labels go up to 3"):
        check(level_classifier(), "levels", CLIPS[0], CPU, 4, 0)
