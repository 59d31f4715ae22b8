"""The joint attack on a classifier whose two branches, and whose selection, are known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kit.selection import BUDGET, LABELS, Selecting, clips, target
from torch import Tensor, nn

from bench import BenchError, Budget, ClipRandom, DefendedClassifier
from bench.attacks.joint_selection import JointSelection
from bench.attacks.pgd import PGD
from bench.defense.base import RobustModel
from bench.registry import ATTACKS
from bench.run.judge import violation


def test_the_joint_attack_breaks_what_the_classification_loss_alone_does_not() -> None:
    model = Selecting()
    alone = PGD()(target(), clips(), LABELS, BUDGET, ClipRandom(range(3))).clips
    joint = JointSelection()(target(), clips(), LABELS, BUDGET, ClipRandom(range(3))).clips
    assert model(alone).argmax(1).tolist() == [0, 0, 0]
    assert model(joint).argmax(1).tolist() == [1, 1, 1]
    for clean, adversarial in zip(clips(), joint, strict=True):
        assert violation(clean, adversarial, BUDGET) is None


def test_with_a_weight_of_zero_it_is_the_attack_itself() -> None:
    alone = PGD()(target(), clips(), LABELS, BUDGET, ClipRandom(range(3)))
    joint = JointSelection(weights=[0.0])(target(), clips(), LABELS, BUDGET, ClipRandom(range(3)))
    assert torch.equal(joint.clips, alone.clips)
    assert joint.trace is not None
    assert alone.trace is not None
    torch.testing.assert_close(joint.trace, alone.trace, equal_nan=True)


def test_broken_clips_take_no_part_in_the_next_weight_and_passes_are_within_the_plan() -> None:
    easy = clips()
    easy[1, ..., :2] = 0.3  # another branch is chosen already
    seen = target()
    made = JointSelection(weights=[0.0, 10.0])
    found = made(seen, easy, LABELS, BUDGET, ClipRandom(range(3)))
    planned = made.passes(BUDGET)
    assert seen.backwards[1] < seen.backwards[0] <= planned[1]
    assert int(seen.forwards.max()) <= planned[0]
    assert Selecting()(found.clips).argmax(1).tolist() == [1, 1, 1]


def test_one_clip_does_not_depend_on_the_others() -> None:
    made, several = JointSelection(), clips()
    several[1, ..., :2] = 0.3
    together = made(target(), several, LABELS, BUDGET, ClipRandom(range(3))).clips
    alone = made(target(1), several[2:], LABELS[:1], BUDGET, ClipRandom([2])).clips
    assert torch.equal(together[2:], alone)


@pytest.mark.parametrize(("norm", "size", "branch"), [("pixels", 3.0, 1), ("rectangle", 2.0, 2), ("border", 1.0, 2)])
def test_the_right_branch_follows_from_the_budget(norm: str, size: float, branch: int) -> None:
    asked: list[Tensor] = []

    class Watching(Selecting):
        def selection(self, clips: Tensor) -> Tensor:
            said = super().selection(clips)
            if said.requires_grad and clips.requires_grad:
                said.register_hook(lambda g: asked.append(g.detach()))
            return said

    class Robust(RobustModel):
        def wrap(self, classifier: nn.Module) -> nn.Module:
            return Watching()

    inner = {"pixels": "spa", "rectangle": "roa", "border": "af"}[norm]
    seen = DefendedClassifier(nn.Identity(), Robust(), "exact").target(ClipRandom([0]))
    made = JointSelection(inner, [1.0])
    made(seen, clips(1), LABELS[:1], Budget(norm, size, 1), ClipRandom([0]))
    # Cross-entropy falls along the right class and rises along the others.
    assert asked[0].argmin(1).tolist() == [branch]


def test_what_it_cannot_attack() -> None:
    with pytest.raises(BenchError, match="network with a selection module, such as multibn, and this one has none"):
        JointSelection()(Selecting(), clips(), LABELS, BUDGET)
    assert "bare classifier" in str(JointSelection().refuses(stochastic=False, transfer=True))
    assert "randomised" in str(JointSelection().refuses(stochastic=True, transfer=False))
    assert JointSelection().refuses(stochastic=False, transfer=False) is None
    with pytest.raises(BenchError, match="takes rectangle budgets, not linf"):
        JointSelection("roa").check(BUDGET)


@pytest.mark.parametrize(
    ("weights", "says"), [([], "list of numbers"), ([-1], "not negative"), ("1", "list of numbers")]
)
def test_bad_weights(weights: Any, says: str) -> None:
    with pytest.raises(BenchError, match=says):
        ATTACKS.create({"name": "joint_selection", "weights": weights})
