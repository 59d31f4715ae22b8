"""Every registered attack runs on a GPU as on the CPU: against a bare classifier, a purifier, a randomised one, and for
transfer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kit.cheap import ATTACK_SETTINGS, SIZES
from kit.networks import Smooth
from kit.pretend import assert_same
from kit.selection import Wrapped
from torch import Tensor

from bench import AttackResult, Budget, ClipRandom, DefendedClassifier
from bench.attack.base import Attack
from bench.errors import BenchError
from bench.registry import ATTACKS, DEFENSES, Spec

# Other ways through an attack than its settings in the kit.
MORE: list[tuple[str, dict[str, Any]]] = [
    ("af", {"start": "random"}),
    ("apgd", {"loss": "targeted-dlr", "targets": 2}),
    ("eot", {"draws": 3, "at_once": 2, "average": "losses"}),
    ("eot", {"draws": 3, "at_once": 2, "average": "gradients"}),
    ("eot", {"draws": 3, "attack": "apgd"}),
    ("flicker", {"loss": "margin"}),
    ("pgd", {"loss": "dlr", "target": "runner_up", "votes": "each", "enough": 0.5}),
    ("roa", {"location": "gradient"}),
    ("smoothed", {"copies": 2, "attack": "eot(attack='pgd', draws=2)"}),
    ("spa", {"location": "gradient"}),
    ("tt", {"shifts": 2, "move": "random"}),
    ("tt", {"shifts": 1, "move": "remote", "shifted": "purified"}),
    ("vbad", {"queries": 10, "samples": 4, "tentative": "random"}),
]
# What chooses between branches of a network has one of its own.
BRANCHES = {"branches", "joint_selection"}
# These are asked about a bare classifier alone: what they run, or climb, is asked about the others.
LONG = {"adaptive", "joint_flow", "motion_i", "motion_ii"}
PLAIN = {"apgd", "fab", "multav", "noise", "pgd", "square"}
REGISTERED = [Spec(name, ATTACK_SETTINGS.get(name, {})) for name in ATTACKS.names()]
CASES = [*REGISTERED, *(Spec(*more) for more in MORE)]
DEFENDED = {"none": "none", "purifier": "gaussian_blur", "randomised": "random_noise", "transfer": "none"}


def combinations() -> list[tuple[Spec, str, str]]:
    """Every attack against all, under the first threat that it knows; other ways through it, and other threats where
    the attack is a plain one, against a bare classifier."""
    found = []
    for case in CASES:
        attack = ATTACKS.create(case)
        norms = [norm for norm in attack.norms if takes(attack, norm)]
        for kind in DEFENDED if case in REGISTERED and case.name not in LONG else ["none"]:
            if attack.refuses(stochastic=kind == "randomised", transfer=kind == "transfer") is None:
                found += [
                    (case, kind, norm) for norm in (norms if kind == "none" and case.name in PLAIN else norms[:1])
                ]
    return found


def takes(attack: Attack, norm: str) -> bool:
    """Some attacks run others, which take fewer budgets than they do."""
    try:
        attack.check(Budget(norm, SIZES[norm], steps=2))
    except BenchError:
        return False
    return True


COMBINATIONS = combinations()


def test_no_attack_is_left_out() -> None:
    assert {case.name for case, _, _ in COMBINATIONS} == set(ATTACKS.names())
    assert {norm for _, _, norm in COMBINATIONS} == set(SIZES)


def attacked(case: Spec, kind: str, norm: str, device: torch.device) -> list[Tensor]:
    """Clips, trace and passes of two steps on two clips."""
    selects = case.name in BRANCHES
    defense = Wrapped() if selects else DEFENSES.create(DEFENDED[kind])
    defended = DefendedClassifier(Smooth(), defense).to(device)
    shape = (2, 3, 16, 64, 64) if case.name == "af_universal" else (2, 3, 4, 8, 8) if selects else (2, 3, 4, 16, 16)
    clips = torch.rand(shape, generator=torch.Generator().manual_seed(1)).to(device)
    with torch.no_grad():
        labels = defended(clips, ClipRandom([1, 2])).argmax(1)
    target = defended.target(ClipRandom([3, 4]), transfer=kind == "transfer")
    result: AttackResult = ATTACKS.create(case)(
        target, clips, labels, Budget(norm, SIZES[norm], steps=2, restarts=1), ClipRandom([5, 6])
    )
    trace = [] if result.trace is None else [result.trace.to(device)]
    return [result.clips, *trace, target.forwards.to(device), target.backwards.to(device)]


@pytest.mark.parametrize(("case", "kind", "norm"), COMBINATIONS, ids=str)
def test_an_attack_is_what_it_is_on_the_cpu(case: Spec, kind: str, norm: str) -> None:
    assert_same(lambda device: attacked(case, kind, norm, device))
