"""The attacks of torchattacks on clips: as the library makes them on pictures, and inside of their budgets."""

from __future__ import annotations

import builtins
from typing import Any

import pytest
import torch
import torchattacks
from kit.networks import Smooth, Two
from torch import Tensor, nn

from bench import BenchError, Budget, ClipRandom, DefendedClassifier
from bench.attacks.torchattacks import _LEFT_OUT, _LINF, _NEAREST, Torchattacks
from bench.registry import ATTACKS, DEFENSES
from bench.run.judge import violation

CHEAP: dict[str, dict[str, Any]] = {
    "AutoAttack": {"version": "rand"},
    "EADEN": {"binary_search_steps": 2, "max_iterations": 10},
    "EADL1": {"binary_search_steps": 2, "max_iterations": 10},
    "OnePixel": {"popsize": 2, "inf_batch": 8},
    "PGDRS": {"noise_batch_size": 2, "noise_sd": 0.01},
    "PGDRSL2": {"noise_batch_size": 2, "noise_sd": 0.01},
    "SPSA": {"nb_sample": 4},
}
NAMES = sorted(set(torchattacks.__all__) - set(_LEFT_OUT))


def clips_of(count: int = 3) -> tuple[Tensor, Tensor, nn.Module]:
    network = Smooth()
    clips = torch.rand(count, 3, 4, 12, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        labels = network(clips).argmax(1)
    return clips, labels, network


def made(name: str, **settings: Any) -> Torchattacks:
    attack = ATTACKS.create(f"torchattacks(name={name!r})") if not settings else Torchattacks(name, **settings)
    assert isinstance(attack, Torchattacks)
    return attack


class OnPictures(nn.Module):
    """A network on clips of four frames, which are shown to it one below the other."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> Tensor:
        return self.network(pictures.reshape(len(pictures), 3, 4, -1, pictures.shape[-1]))


@pytest.mark.parametrize(
    ("name", "settings", "budget"),
    [
        ("FGSM", {}, Budget("linf", 0.03)),
        ("BIM", {"alpha": "1/255"}, Budget("linf", 0.03, steps=4)),
        ("MIFGSM", {"decay": 0.5}, Budget("linf", 0.03, steps=4, step_size=0.01)),
        ("NIFGSM", {}, Budget("linf", 0.03, steps=3)),
        ("PIFGSM", {}, Budget("linf", 0.03, steps=3)),
    ],
)
def test_what_draws_nothing_is_what_the_library_makes(name: str, settings: dict[str, Any], budget: Budget) -> None:
    clips, labels, network = clips_of()
    found = made(name, **settings)(network, clips, labels, budget).clips
    sizes = {"max_epsilon": 0.03, "num_iter_set": 3} if name == "PIFGSM" else {"eps": 0.03}
    steps = {} if name in ("FGSM", "PIFGSM") else {"steps": budget.steps}
    own = {"alpha": 1 / 255} if settings.get("alpha") else {"alpha": 0.01} if budget.step_size else {}
    decay = {"decay": 0.5} if "decay" in settings else {}
    theirs = getattr(torchattacks, name)(OnPictures(network), **sizes, **steps, **own, **decay)
    expected = torch.cat([theirs(clips[i : i + 1].flatten(2, 3), labels[i : i + 1]) for i in range(len(clips))])
    assert torch.allclose(found.flatten(2, 3), expected, atol=1e-6)
    assert not torch.equal(found, clips)


@pytest.mark.parametrize("name", NAMES)
def test_every_attack_of_the_library_keeps_to_its_budget_and_its_passes(name: str) -> None:
    clips, labels, network = clips_of(2)
    attack = made(name, **CHEAP.get(name, {}))
    tried = 0
    for budget in (Budget("linf", 0.1, steps=2), Budget("l2", 1.0, steps=2)):
        try:
            attack.check(budget)
        except BenchError:
            continue
        tried += 1
        target = DefendedClassifier(network, DEFENSES.create("none"), "exact").target(ClipRandom([0, 1]))
        found = attack(target, clips, labels, budget, ClipRandom([3, 4])).clips
        assert [violation(a, b, budget) for a, b in zip(clips, found, strict=True)] == [None, None]
        forwards, backwards = attack.passes(budget)
        assert int(target.forwards.max()) <= forwards + 1  # one to count the classes
        assert int(target.backwards.max()) <= backwards
        if name in ("APGD", "AutoAttack", "SparseFool"):  # these take seconds
            continue
        again = attack(network, clips.flip(0), labels.flip(0), budget, ClipRandom([4, 3])).clips
        assert torch.allclose(again.flip(0), found, atol=1e-5), (
            "a clip depends on its batch, or on what was drawn before"
        )
    assert tried


def test_nobody_is_left_out_and_the_generators_stay_as_they_are() -> None:
    assert {*_LINF, *_NEAREST} <= set(NAMES)
    clips, labels, network = clips_of(1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    made("PGD")(network, clips, labels, Budget("linf", 0.03, steps=2))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_nearest_clip_is_handed_in_if_it_is_near_enough() -> None:
    """DeepFool on a plane: the nearest wrong clip is as far as the plane, and the overshoot."""
    clips = torch.full((1, 3, 4, 6, 6), 0.5)
    weight = torch.rand(3, 4, 6, 6, generator=torch.Generator().manual_seed(0)) - 0.5
    network, labels = Two(weight, 1.0 - float(0.5 * weight.sum())), torch.tensor([1])
    away = 1.02 / float(weight.norm())
    near = made("DeepFool")(network, clips, labels, Budget("l2", 1.01 * away)).clips
    assert float((near - clips).norm()) == pytest.approx(away, rel=1e-3)
    assert network(near).argmax(1).tolist() == [0]
    assert torch.equal(made("DeepFool")(network, clips, labels, Budget("l2", 0.99 * away)).clips, clips)


def test_it_differentiates_through_a_defence() -> None:
    clips, labels, network = clips_of(2)
    blurred = DefendedClassifier(network, DEFENSES.create("gaussian_blur"), "exact")
    adaptive = blurred.target(ClipRandom([0, 1]))
    found = made("BIM")(adaptive, clips, labels, Budget("linf", 0.05, steps=3)).clips
    bare = made("BIM")(network, clips, labels, Budget("linf", 0.05, steps=3)).clips
    assert not torch.allclose(found, bare)
    with torch.no_grad():
        losses = [nn.functional.cross_entropy(blurred(x, ClipRandom([0, 1])), labels) for x in (clips, bare, found)]
    assert losses[2] > losses[1] > losses[0]


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("PDG", {}, r"has no 'PDG' that is offered here: APGD, .*PGD, "),
        ("JSMA", {}, "JSMA is not offered: it compares all pairs"),
        ("AutoAttack", {}, "say version='rand', or take the attack autoattack"),
        ("PGD", {"eps": 0.1}, "'eps' of torchattacks' PGD comes from the budget: set size there"),
        ("PGD", {"decay": 0.1}, "PGD has no parameter 'decay'"),
    ],
)
def test_what_cannot_be_is_said(name: str, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(BenchError, match=says):
        made(name, **settings)


def test_budgets_that_it_cannot_take() -> None:
    with pytest.raises(BenchError, match="PGD takes linf budgets, not l2"):
        made("PGD").check(Budget("l2", 1.0))
    with pytest.raises(BenchError, match="PGDL2 takes l2 budgets, not linf"):
        made("PGDL2").check(Budget("linf", 0.1))
    with pytest.raises(BenchError, match="BIM knows no restarts"):
        made("BIM").check(Budget("linf", 0.1, restarts=2))
    with pytest.raises(BenchError, match="FGSM chooses its own steps"):
        made("FGSM").check(Budget("linf", 0.1, step_size=0.1))
    assert made("FAB").refuses(stochastic=True, transfer=False)
    assert made("PGD").refuses(stochastic=True, transfer=True) is None


def test_without_the_library_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "torchattacks":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(BenchError, match=r"pip install \"videorobustbench\[torchattacks\]\""):
        Torchattacks("PGD")
