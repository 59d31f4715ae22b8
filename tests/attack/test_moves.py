"""Lists of moves: who meets whom, what is kept, and through which gradient."""

from __future__ import annotations

import pytest
import torch
from kit.gray import MARGIN, Coin, Lighten, level_classifier
from kit.moves import Shift
from torch import Tensor, nn

from bench import BenchError, Budget, ClipRandom, DefendedClassifier, Move, Moves, Target
from bench.attack.known import KINDS, moves_against
from bench.registry import ATTACKS
from bench.threat.budgets import NORMS

LEVELS = (0.3, 0.5, 0.7)


def gray(*levels: float) -> Tensor:
    return torch.tensor(levels).reshape(-1, 1, 1, 1, 1).expand(-1, 3, 2, 4, 4).clone()


def shift(by: float, name: str, **how: object) -> Move:
    return Move(f"kit.moves:Shift(by={by}, name={name!r})", "query", **how)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _forgotten() -> None:
    Shift.met.clear()


def test_a_move_meets_the_clips_that_are_left_and_the_first_success_is_kept() -> None:
    """Levels .3, .5 and .7 are told apart up to .1: +.15 breaks the first two and never the brightest."""
    clips, labels = gray(*LEVELS), torch.tensor([0, 1, 2])
    attack = Moves([shift(0.05, "weak"), shift(0.15, "up"), shift(-0.15, "down", steps=3)])
    target = Target.of(level_classifier(), 3)
    result = attack(target, clips, labels, Budget(size=0.2, steps=4))
    assert Shift.met == [("weak", 3, 4), ("up", 3, 4), ("down", 1, 12)]
    torch.testing.assert_close(result.clips[:, 0, 0, 0, 0], torch.tensor([0.45, 0.65, 0.55]))
    # Asked at first, by each move, and after each move.
    assert target.forwards.tolist() == [5, 5, 7]


def test_clips_that_are_wrong_without_an_attack_are_left_alone() -> None:
    clips, labels = gray(*LEVELS), torch.tensor([1, 1, 1])
    result = Moves([shift(0.15, "up")])(level_classifier(), clips, labels, Budget(size=0.2))
    assert Shift.met == [("up", 1, 10)]
    assert torch.equal(result.clips[[0, 2]], clips[[0, 2]])


def test_what_no_move_breaks_comes_back_as_the_best_of_the_moves() -> None:
    clips = gray(0.3)
    result = Moves([shift(0.02, "a"), shift(0.06, "b"), shift(0.04, "c")])(
        level_classifier(), clips, torch.tensor([0]), Budget(size=0.2)
    )
    torch.testing.assert_close(result.clips, clips + 0.06)  # of the largest margin


def test_moves_differentiate_the_defence_each_in_its_own_way() -> None:
    """Behind a purifier that adds .2, .25 is seen as .45. Without the defence, a step up from .25 seems useless: the
    nearest boundary, .4, is out of reach, and it lies at .2 for who knows the defence."""
    defended = DefendedClassifier(level_classifier(), Lighten(0.2), "strongest")
    target = defended.target(ClipRandom([0]))
    x = gray(0.25).requires_grad_(True)
    assert target.through("exact").ask(x).logits.argmax() == 1
    bare = target.through("none")
    assert bare.ask(x).logits.argmax() == 0
    assert (target.decisive, target.through("bpda").decisive, bare.decisive) == (True, True, False)
    assert target.forwards.tolist() == [2]  # counted together
    with pytest.raises(BenchError, match="no cheaper process"):
        target.through("surrogate")


def test_a_plain_classifier_has_one_way() -> None:
    target = Target.of(level_classifier(), 1)
    assert target.through("bpda") is target


def test_a_randomised_defence_is_asked_several_times_after_every_move() -> None:
    """A coin that blackens half of the answers: no clip leaves by luck, and all moves meet all clips."""
    target = DefendedClassifier(level_classifier(), Coin(), "strongest").target(ClipRandom(range(4)))
    attack = Moves([shift(0.0, "nothing"), shift(0.15, "up")], looks=40)
    result = attack(target, gray(0.3, 0.3, 0.3, 0.3), torch.zeros(4, dtype=torch.int64), Budget(size=0.2))
    assert Shift.met == [("nothing", 4, 10), ("up", 4, 10)]
    # A clip that is lifted is wrong wherever it is kept, and right where it is blackened: that is the worse one.
    torch.testing.assert_close(result.clips, gray(0.45, 0.45, 0.45, 0.45))
    assert target.forwards.tolist() == [1 + 2 * (1 + 40)] * 4


class Saturated(nn.Module):
    """Probabilities that are exactly 0 and 1: the loss has no slope anywhere."""

    def forward(self, clips: Tensor) -> Tensor:
        return (1e4 * level_classifier()(clips)).softmax(1)


@pytest.mark.parametrize(("classifier", "met"), [(Saturated(), ["asked"]), (level_classifier(), [])])
def test_where_the_loss_is_flat_asking_goes_on(classifier: nn.Module, met: list[str]) -> None:
    """Below the margin, so that every clip is left: the loss of the plain classifier moves, and that is seen."""
    attack = Moves([Move("pgd", "exact"), shift(0.15, "asked", when="flat")])
    attack(classifier, gray(0.3, 0.7), torch.tensor([0, 2]), Budget(size=0.8 * MARGIN))
    assert [name for name, _, _ in Shift.met] == met


def test_adaptive_breaks_by_asking_what_shows_no_gradient() -> None:
    """The issue of a network that returns saturated probabilities: gradient attacks leave both clips, RayS none."""
    clips, labels, budget = gray(0.3, 0.7), torch.tensor([0, 2]), Budget(size=1.5 * MARGIN)
    for spec, left in (("pgd", 2), ("adaptive", 0)):
        result = ATTACKS.create(spec)(Saturated(), clips, labels, budget)
        assert int((Saturated()(result.clips).argmax(1) == labels).sum()) == left
        assert float((result.clips - clips).abs().max()) <= budget.size + 1e-6


@pytest.mark.parametrize("norm", sorted(set(NORMS) - {"framing"}))
def test_every_list_can_take_every_threat_it_is_made_for(norm: str) -> None:
    for kind in KINDS:
        budget = Budget(norm=norm, size=2.0 if norm in ("rectangle", "border", "pixels") else 0.1)
        moves = moves_against(kind, budget)
        Moves(moves).check(budget)
        assert len(set(moves)) == len(moves) >= 1
        if norm == "linf":  # nothing on a list is there in vain
            assert len(moves) == len(kind.moves)
        if norm in ("rectangle", "border", "pixels"):
            assert len(moves) >= 2


def test_moves_are_written_as_columns_are() -> None:
    assert Move.parse("pgd(loss='margin')+bpda-negated") == Move("pgd(loss='margin')", "bpda-negated")
    for wrong in ("pgd", "pgd+", "+exact", "pgd+exactly", "pgd+strongest"):
        with pytest.raises(BenchError, match="write ATTACK"):
            Move.parse(wrong)


def test_the_control_asks_in_every_way_once() -> None:
    """With no budget nothing breaks, and a whole list would cost more than the attack itself."""
    moves = moves_against(KINDS[-2], Budget())
    light = Moves(moves).lighter()
    assert isinstance(light, Moves)
    assert sorted(m.gradient for m in light.moves) == sorted({m.gradient for m in moves})
    assert all((m.steps, m.restarts) == (1, None) for m in light.moves)
    assert sum(light.passes(Budget(steps=2))) < sum(Moves(moves).passes(Budget(steps=2))) / 3
