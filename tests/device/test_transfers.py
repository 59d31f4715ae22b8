"""How often a step of an attack waits for a GPU, and how often it copies to it: limits, by attack.

A step that waits not at all cannot let clips leave, so one wait per step is the least that an attack on a decisive
target can do. Whoever saves a transfer lowers the limit.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kit.cheap import ATTACK_SETTINGS, SIZES
from kit.pretend import DEVICE, Transfers, transfers_per_step
from kit.selection import Selecting
from torch import Tensor, nn

from bench import Budget, ClipRandom, DefendedClassifier, RobustModel
from bench.registry import ATTACKS, DEFENSES

NEWTON = (
    "a step is one towards each of four classes, each found by rounds of Newton's method, which ask whether to go on"
)
ROUND = "a step is a round of five queries, and a look"

# Attack to the most reads of a step that wait for the device, and why they are more than one. What is not listed here
# waits once.
WAITS: dict[str, tuple[int, str]] = {
    "astfocus": (6, ROUND),
    "fab": (20, NEWTON),
    "vbad": (5, ROUND),
}
# To the most copies to the device for which it waits, too, if they are more than two: of indices, mostly.
UPLOADS: dict[str, int] = {"astfocus": 13, "motion_i": 46, "rays": 9, "vbad": 12}
ALL, OF_ONE = ("decisive", "transfer", "randomised"), ("decisive",)
KINDS: dict[str, tuple[str, ...]] = {
    "af": OF_ONE,
    "apgd": ALL,
    "astfocus": ALL,
    "branches": OF_ONE,
    "eot": ALL,
    "fab": OF_ONE,
    "flicker": ALL,
    "i_fgsm": OF_ONE,
    "joint_flow": OF_ONE,
    "joint_selection": OF_ONE,
    "mi_fgsm": OF_ONE,
    "motion_i": OF_ONE,
    "motion_ii": OF_ONE,
    "multav": OF_ONE,
    "one_frame": ALL,
    "pgd": ALL,
    "rays": ALL,
    "roa": OF_ONE,
    "smoothed": OF_ONE,
    "spa": OF_ONE,
    "square": ALL,
    "tt": ALL,
    "tt_mi": OF_ONE,
    "vbad": ALL,
}
"""Of attacks, the kinds of targets that they are tried on."""
# They take no steps of their own.
WITHOUT_STEPS = {
    "adaptive": "runs others, which are here",
    "af_universal": "asks nothing",
    "autoattack": "runs others, which are here",
    "fgsm": "takes one step",
    "noise": "asks nothing",
    "torchattacks": "steps as the library does",
}
# Those that differ from others by what they climb alone are asked once.
SETTINGS: dict[str, dict[str, Any]] = {
    **ATTACK_SETTINGS,
    "joint_selection": {"weights": [1.0]},
}
# Steps of these are queries, or rounds of some.
QUERIES = {"astfocus": 5, "rays": 1, "square": 1, "vbad": 5}


class Sure(nn.Module):
    """A smooth classifier that nothing moves from class 0: no clip leaves."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv, self.head = nn.Conv3d(3, 6, 3, padding=1), nn.Linear(6, 5)
        self.register_buffer("lead", torch.tensor([50.0, 0, 0, 0, 0]))

    def forward(self, clips: Tensor) -> Tensor:
        return self.head(torch.tanh(self.conv(clips)).mean(dim=(2, 3, 4))) + self.get_buffer("lead")


class SureBranches(RobustModel):
    """One that chooses between branches, likewise."""

    def wrap(self, classifier: nn.Module) -> nn.Module:
        class Chosen(Selecting):
            def forward(self, clips: Tensor) -> Tensor:
                return super().forward(clips) * 0.01 + torch.eye(2, device=clips.device)[0] * 50

        return Chosen()


def steps_of(name: str, kind: str) -> Transfers:
    """The transfers of a step on two clips."""

    def run(steps: int) -> None:
        settings = SETTINGS.get(name, {})
        if name in QUERIES:
            settings = {**settings, "queries": QUERIES[name] * steps}
        attack = ATTACKS.create({"name": name, **settings})
        chooses = name in ("branches", "joint_selection")
        defense = SureBranches() if chooses else DEFENSES.create("random_noise" if kind == "randomised" else "none")
        defended = DefendedClassifier(Sure(), defense).to(DEVICE)
        clips = torch.rand(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(1)).to(DEVICE)
        norm = attack.norms[0]
        target = defended.target(ClipRandom([1, 2]), transfer=kind == "transfer")
        labels = torch.zeros(2, dtype=torch.int64, device=DEVICE)
        attack(target, clips, labels, Budget(norm, SIZES[norm], steps=steps), ClipRandom([3, 4]))
        if kind == "decisive":
            assert target.forwards[0] >= steps  # nobody has left

    return transfers_per_step(run, 2)


def listed(found: Transfers) -> str:
    """Every transfer of a step, a line each."""
    kinds = (("waits", found.blocking), ("uploads", found.uploads), ("without waiting", found.unwaited))
    return "\n".join(f"{name} {count:g} x {what}" for name, counted in kinds for what, count in counted.items())


def test_no_attack_is_left_out() -> None:
    assert set(KINDS) | set(WITHOUT_STEPS) == set(ATTACKS.names())
    assert set(WAITS) | set(UPLOADS) <= set(KINDS)


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kinds in KINDS.items() for kind in kinds])
def test_a_step_waits_and_copies_no_more_than_it_has_to(name: str, kind: str) -> None:
    found = steps_of(name, kind)
    most, _ = WAITS.get(name, (1, ""))
    assert found.blocking.total() <= most, listed(found)
    assert found.blocking.total() > 1 or name not in WAITS, "it may leave the list of those that wait often"
    assert found.uploads.total() <= UPLOADS.get(name, 2), listed(found)
