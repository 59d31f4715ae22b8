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

LOOP = "its loop reads answers and makes lists of places that could stay on the device"
CLASSES = "a step is one towards each of four classes"
ROUNDS = "a step is a round of five queries"
COPIES = "a step asks for each altered copy"

# Attack and kind of target to the most reads of a step that wait for the device, and why they are more than one. What
# is not listed here waits once at most.
WAITS: dict[tuple[str, str], tuple[int, str]] = {
    ("af", "decisive"): (10, LOOP),
    ("apgd", "decisive"): (9, LOOP),
    ("apgd", "transfer"): (8, LOOP),
    ("apgd", "randomised"): (7, LOOP),
    ("astfocus", "decisive"): (44, ROUNDS),
    ("astfocus", "transfer"): (39, ROUNDS),
    ("astfocus", "randomised"): (14, ROUNDS),
    ("branches", "decisive"): (8, LOOP),
    ("eot", "decisive"): (9, LOOP),
    ("eot", "transfer"): (8, LOOP),
    ("eot", "randomised"): (5, LOOP),
    ("fab", "decisive"): (52, CLASSES),
    ("flicker", "decisive"): (9, LOOP),
    ("flicker", "transfer"): (8, LOOP),
    ("flicker", "randomised"): (3, LOOP),
    ("i_fgsm", "decisive"): (9, LOOP),
    ("joint_flow", "decisive"): (9, LOOP),
    ("joint_selection", "decisive"): (8, LOOP),
    ("mi_fgsm", "decisive"): (9, LOOP),
    ("motion_i", "decisive"): (9, LOOP),
    ("motion_ii", "decisive"): (9, LOOP),
    ("multav", "decisive"): (9, LOOP),
    ("one_frame", "decisive"): (9, LOOP),
    ("one_frame", "transfer"): (8, LOOP),
    ("one_frame", "randomised"): (3, LOOP),
    ("pgd", "decisive"): (9, LOOP),
    ("pgd", "transfer"): (8, LOOP),
    ("pgd", "randomised"): (3, LOOP),
    ("rays", "decisive"): (4, LOOP),
    ("rays", "transfer"): (4, LOOP),
    ("rays", "randomised"): (3, LOOP),
    ("roa", "decisive"): (10, LOOP),
    ("smoothed", "decisive"): (15, COPIES),
    ("spa", "decisive"): (10, LOOP),
    ("square", "decisive"): (9, LOOP),
    ("square", "transfer"): (8, LOOP),
    ("square", "randomised"): (7, LOOP),
    ("tt", "decisive"): (9, LOOP),
    ("tt", "transfer"): (8, LOOP),
    ("tt", "randomised"): (3, LOOP),
    ("tt_mi", "decisive"): (9, LOOP),
    ("vbad", "decisive"): (43, ROUNDS),
    ("vbad", "transfer"): (38, ROUNDS),
    ("vbad", "randomised"): (13, ROUNDS),
}
# To the most copies to the device.
UPLOADS: dict[tuple[str, str], int] = {
    ("af", "decisive"): 6,
    ("apgd", "decisive"): 5,
    ("apgd", "transfer"): 5,
    ("apgd", "randomised"): 6,
    ("astfocus", "decisive"): 53,
    ("astfocus", "transfer"): 53,
    ("astfocus", "randomised"): 53,
    ("branches", "decisive"): 5,
    ("eot", "decisive"): 5,
    ("eot", "transfer"): 4,
    ("eot", "randomised"): 6,
    ("fab", "decisive"): 20,
    ("flicker", "decisive"): 14,
    ("flicker", "transfer"): 14,
    ("flicker", "randomised"): 14,
    ("i_fgsm", "decisive"): 5,
    ("joint_flow", "decisive"): 6,
    ("joint_selection", "decisive"): 5,
    ("mi_fgsm", "decisive"): 7,
    ("motion_i", "decisive"): 51,
    ("motion_ii", "decisive"): 5,
    ("multav", "decisive"): 7,
    ("one_frame", "decisive"): 6,
    ("one_frame", "transfer"): 5,
    ("one_frame", "randomised"): 6,
    ("pgd", "decisive"): 5,
    ("pgd", "transfer"): 4,
    ("pgd", "randomised"): 5,
    ("rays", "decisive"): 10,
    ("rays", "transfer"): 8,
    ("rays", "randomised"): 9,
    ("roa", "decisive"): 6,
    ("smoothed", "decisive"): 7,
    ("spa", "decisive"): 6,
    ("square", "decisive"): 7,
    ("square", "transfer"): 7,
    ("square", "randomised"): 8,
    ("tt", "decisive"): 11,
    ("tt", "transfer"): 10,
    ("tt", "randomised"): 11,
    ("tt_mi", "decisive"): 13,
    ("vbad", "decisive"): 52,
    ("vbad", "transfer"): 52,
    ("vbad", "randomised"): 52,
}
# They take no steps of their own.
WITHOUT_STEPS = {
    "adaptive": "runs others, which are here",
    "af_universal": "asks nothing",
    "autoattack": "runs others, which are here",
    "fgsm": "takes one step",
    "noise": "asks nothing",
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
    assert {name for name, _ in UPLOADS} | set(WITHOUT_STEPS) == set(ATTACKS.names())
    assert set(WAITS) <= set(UPLOADS)


@pytest.mark.parametrize(("name", "kind"), UPLOADS)
def test_a_step_waits_and_copies_no_more_than_it_has_to(name: str, kind: str) -> None:
    found = steps_of(name, kind)
    most, _ = WAITS.get((name, kind), (1, ""))
    assert found.blocking.total() <= most, listed(found)
    assert found.blocking.total() > 1 or (name, kind) not in WAITS, "it may leave the list of those that wait often"
    assert found.uploads.total() <= UPLOADS[name, kind], listed(found)
