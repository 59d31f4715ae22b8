"""The estimate of a gradient from queries, on classifiers whose gradient is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from kit.draws import draw
from kit.queried import Two, target_of, zeros
from torch import Tensor, nn

from bench import AttackResult, BenchError, Budget, ClipRandom, SampledAttack, Subspace, Survivors, Target
from bench.attack.gradient import Run
from bench.attack.sampled import ranks
from bench.attack.target import Answer
from bench.run.judge import violation

SHAPE = (3, 2, 4, 6)
KINDS = ("decisive", "transfer", "stochastic")


class Values(SampledAttack):
    """Searches every value of the clip by itself; notes what the looks have answered."""

    strides = (0.2, 0.05)

    def __init__(self, queries: int = 100, samples: int = 10, **how: Any) -> None:
        settings = {"sigma": 1e-3, "loss": "margin", "target": None, "ranked": True}
        super().__init__(queries, samples, **{**settings, **how})
        self.looks: list[Tensor] = []

    def subspace(self, run: Run, iterates: Tensor, left: Survivors, aim: Tensor) -> Subspace:
        return Subspace(torch.ones_like(iterates), tuple(iterates.shape[1:]))

    def learn(self, run: Run, answer: Answer, left: Survivors, aim: Tensor) -> None:
        assert len(answer.logits) == len(answer.decision) == len(left) == len(aim)
        self.looks.append(left.rows)


def attack(
    attacker: SampledAttack, model: nn.Module | Target, clips: Tensor, size: float | Tensor = 0.1, **budget: Any
) -> AttackResult:
    rng = ClipRandom(range(len(clips)))
    return attacker(model, clips, zeros(len(clips)), Budget("linf", size, **budget), rng)


def test_ranks_share_places() -> None:
    values = torch.tensor([[3.0, 5.0], [1.0, 5.0], [1.0, 5.0], [2.0, 5.0]])
    found = ranks(values)
    torch.testing.assert_close(found[:, 0], torch.tensor([1, 1 / 6, 1 / 6, 2 / 3]).double())
    torch.testing.assert_close(found[:, 1], torch.full((4,), 0.5).double())


def test_a_subspace_moves_cells_as_one() -> None:
    """Five rows in two cells, seven columns in three: as even as the pixels allow."""
    coordinates = torch.arange(12.0).reshape(1, 1, 2, 2, 3)
    found = Subspace(torch.full((1, 3, 2, 5, 7), 2.0), (1, 2, 2, 3)).lift(coordinates)
    rows, columns = [0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 2, 2]
    for t in range(2):
        expected = torch.tensor([[2.0 * coordinates[0, 0, t, r, c] for c in columns] for r in rows])
        assert torch.equal(found[0, :, t], expected.expand(3, 5, 7))
    whole = draw(2, *SHAPE)
    assert torch.equal(Subspace(torch.ones(2, 1, 2, 4, 6), SHAPE).lift(whole), whole)


# --- the estimate ---------------------------------------------------------------------------------------------


def step(samples: int, ranked: bool, model: nn.Module, clips: Tensor) -> Tensor:
    """The signs of one step from one estimate."""
    attacker = Values(2 + samples, samples, ranked=ranked, sigma=1e-4)
    assert attacker.rounds() == [samples // 2]
    target = target_of(model, len(clips), "stochastic")  # gives the last iterate, whatever it is worth
    return (attack(attacker, target, clips, 0.1).clips - clips).sign()


@pytest.mark.parametrize("ranked", [False, True])
def test_the_estimate_finds_a_known_gradient_as_often_as_theory_says(ranked: bool) -> None:
    """From ``p`` pairs the slope along one value of a plane is normal, of mean ``w_j`` and variance
    ``(|w|^2 + w_j^2) / p``: so often is its sign right. The ranks of normal numbers correlate with them by
    ``sqrt(3 / pi)``, so that they are worth a little less here."""
    clips, weight = draw(8, *SHAPE, seed=1, low=0.4, high=0.6), draw(*SHAPE, seed=2, low=-1)
    model, squares = Two(weight, -100.0), weight.double().square()
    shares = []
    for pairs in (30, 1000):
        right = (step(2 * pairs, ranked, model, clips) == weight.sign()).double().mean()
        odds = (
            weight.double().abs() * math.sqrt(pairs * (3 / math.pi if ranked else 1)) / (squares.sum() + squares).sqrt()
        )
        theory = torch.distributions.Normal(0.0, 1.0).cdf(odds).mean()
        assert abs(float(right - theory)) < 4 * math.sqrt(0.25 / (8 * weight.numel()))
        shares.append(float(right))
    assert shares[0] < 0.7 < 0.85 < shares[1]


def test_a_quadratic_part_cancels_in_pairs() -> None:
    """``x + s u`` and ``x - s u`` see the same of what is even around ``x``."""
    clips, weight = draw(2, *SHAPE, seed=1, low=0.4, high=0.6), draw(*SHAPE, seed=2, low=-1)
    plane = step(40, False, Two(weight, -1e3), clips.double())
    bowl = Two(weight, -1e3, lambda x: 1e4 * (x - clips.double()).square().flatten(1).sum(1))
    assert torch.equal(step(40, False, bowl, clips.double()), plane)


def test_it_climbs_a_quadratic_to_its_top() -> None:
    """The best clip of the ball is known: the top, cut off at the edge."""
    clips = draw(2, *SHAPE, seed=1, low=0.4, high=0.6)
    top = clips.double() + 0.16 * draw(2, *SHAPE, seed=2, low=-1).double()
    model = Two(torch.zeros(SHAPE), -1.0, lambda x: -(x - top).square().flatten(1).sum(1))
    found = attack(Values(4000, 40), model, clips, 0.1).clips
    best = top.clamp(clips.double() - 0.1, clips.double() + 0.1)
    begun, ended = ((x.double() - top).square().sum() - (best - top).square().sum() for x in (clips, found))
    assert ended < 0.1 * begun


def test_where_the_loss_is_flat_nothing_moves() -> None:
    clips = draw(2, *SHAPE)
    assert torch.equal(attack(Values(), Two(torch.zeros(SHAPE), -1.0), clips).clips, clips)


@pytest.mark.parametrize("rising", [False, True])
def test_steps_are_halved_where_the_loss_has_stopped_rising(rising: bool) -> None:
    """Within 20 looks, down to a quarter of the first: that is what the strides of this attack say."""

    class Clock(nn.Module):
        """A loss that follows the count of queries, so that every look is better or worse than the one before."""

        def __init__(self) -> None:
            super().__init__()
            self.seen: list[Tensor] = []

        def forward(self, clips: Tensor) -> Tensor:
            self.seen.append(clips.clone())
            tick = (1 if rising else -1) * 1e-3 * len(self.seen) * torch.ones(len(clips)).double()
            return torch.stack([torch.ones(len(clips)).double(), tick - 1], 1)

    model, clips = Clock(), torch.full((1, *SHAPE), 0.5)
    attack(Values(1 + 3 * 70, 2), model, clips, 0.4, step_size=4e-3)
    looks = torch.stack(model.seen[::3])
    lengths = looks.diff(dim=0).abs().flatten(1).amax(1)
    falling = [4e-3] * 19 + [2e-3] * 20 + [1e-3] * 31
    torch.testing.assert_close(lengths, torch.tensor([4e-3] * 70 if rising else falling), rtol=1e-3, atol=0)


# --- queries and rules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("restarts", [1, 3])
@pytest.mark.parametrize(
    ("queries", "spent"), [(4, 4), (5, 4), (6, 6), (12, 12), (13, 12), (14, 12), (15, 15), (37, 37)]
)
def test_queries_are_those_promised(kind: str, restarts: int, queries: int, spent: int) -> None:
    """A look, then rounds of ten points and a look; three queries make the shortest round."""
    target = target_of(Two(draw(*SHAPE), -100.0), 2, kind)
    attacker = Values(queries)
    attack(attacker, target, draw(2, *SHAPE), restarts=restarts)
    assert target.forwards.tolist() == [spent * restarts] * 2
    assert target.backwards.tolist() == [0, 0]
    assert attacker.passes(Budget(restarts=restarts)) == (spent * restarts, 0)
    assert len(attacker.looks) == (len(attacker.rounds()) + 1) * restarts


@pytest.mark.parametrize("kind", KINDS)
def test_every_query_lies_in_the_budget(kind: str) -> None:
    clips = (1.4 * draw(1, *SHAPE, seed=3) - 0.2).clamp(0, 1)
    model = Two(draw(*SHAPE, seed=4, low=-1), -100.0)
    attack(Values(200, sigma=0.05), target_of(model, 1, kind), clips, 0.03)
    assert {violation(clips[0], x[0], Budget("linf", 0.03)) for x in model.seen} == {None}


def test_a_clip_leaves_with_the_first_query_that_is_wrong() -> None:
    """One is wrong as it is; one on the boundary falls to one point of the first pair; one never falls."""
    weight = torch.ones(SHAPE)
    clips = torch.stack([torch.full(SHAPE, level) for level in (0.7, 0.5, 0.2)])
    model = Two(weight, -0.5 * weight.numel() - 1e-9)
    target = Target.of(model, 3)
    found = attack(Values(100, sigma=1e-2), target, clips).clips
    assert target.forwards[0] == 1
    assert target.forwards[1] in (2, 3)
    assert target.forwards[2] == 100
    with torch.no_grad():
        assert model(found).argmax(1).tolist() == [1, 1, 0]
    assert torch.equal(found[0], clips[0])


def test_clips_for_transfer_go_on_and_get_the_best_query() -> None:
    clips, model = draw(2, *SHAPE, low=0.3, high=0.7), Two(draw(*SHAPE, seed=5, low=-1), 0.0)
    result = attack(Values(298), target_of(model, 2, "transfer"), clips, restarts=2)
    seen = torch.stack(model.seen)
    with torch.no_grad():
        scores = torch.stack([model.score(x) for x in seen])
    assert len(seen) == 596
    for i in range(2):
        assert torch.equal(result.clips[i], seen[int(scores[:, i].argmax()), i])
    assert result.trace is not None
    assert (result.trace[27] > result.trace[0]).all()


def test_a_lucky_draw_is_not_believed() -> None:
    """Every query is wrong: none counts, and the last iterate of the better start is returned."""
    clips, model = draw(2, *SHAPE, low=0.3, high=0.7), Two(draw(*SHAPE, seed=5, low=-1), 100.0)
    found = attack(Values(100), target_of(model, 2, "stochastic"), clips, restarts=3).clips
    seen = torch.stack(model.seen).unflatten(0, (3, 100))
    looks = torch.stack([seen[:, at] for at in (*range(0, 100, 11), 99)], 1)
    with torch.no_grad():
        late = torch.stack([model.score(x) for x in looks[:, 5:].flatten(0, 1)]).unflatten(0, (3, -1)).mean(1)
    for i in range(2):
        assert torch.equal(found[i], looks[int(late[:, i].argmax()), -1, i])


@pytest.mark.parametrize("name", ["runner_up", "least_likely"])
def test_a_targeted_attack_reaches_its_class(name: str) -> None:
    """Class 1 is the second by the clean logits, class 2 the last; each grows along a plane of its own."""
    planes = [draw(*SHAPE, seed=s, low=-1).double() for s in (6, 7)]
    clips = draw(2, *SHAPE, seed=8, low=0.4, high=0.6)

    def look(x: Tensor, rows: Tensor) -> Tensor:
        ahead = [
            ((x.double() - clips.double()[rows]) * p).flatten(1).sum(1) - 0.5 * (i + 1) for i, p in enumerate(planes)
        ]
        return torch.stack([torch.zeros(len(x)).double(), *ahead], 1)

    target = Target(look, 2)
    attacker = Values(3000, 40, target=name)
    found = attack(attacker, target, clips, 0.1).clips
    wanted = 1 if name == "runner_up" else 2
    assert look(found, torch.arange(2)).argmax(1).tolist() == [wanted] * 2
    assert (target.forwards < 2000).all()
    never = Target(lambda x, rows: torch.tensor([[3.0, 2.0, 1.0]]).expand(len(x), 3), 2)
    attack(Values(15, target=name), never, clips, restarts=2)
    assert never.forwards.tolist() == [31, 31]
    assert Values(15, target=name).passes(Budget(restarts=2)) == (31, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_result_does_not_depend_on_the_batch(kind: str) -> None:
    clips, weight = draw(4, *SHAPE, seed=14), draw(*SHAPE, seed=15, low=-1).double()
    model = Two(weight, -float((clips.double() * weight).flatten(1).sum(1).median()) - 0.5)
    sizes = torch.tensor([0.0, 0.03, 0.06, 0.1])
    target, rng = target_of(model, 4, kind), ClipRandom([5, 6, 7, 8])
    together = Values(150)(target, clips, zeros(4), Budget("linf", sizes, restarts=2), rng).clips
    assert (len(set(target.forwards.tolist())) > 1) is (kind == "decisive")
    for i in range(4):
        one, alone = Budget("linf", float(sizes[i]), restarts=2), target_of(model, 1, kind)
        found = Values(150)(alone, clips[i : i + 1], zeros(1), one, ClipRandom([5 + i])).clips
        assert torch.equal(together[i : i + 1], found)
        assert alone.forwards[0] == target.forwards[i]


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(BenchError, match="queries must be a whole number of at least 4"):
        Values(3)
    with pytest.raises(BenchError, match="samples must be a whole number of at least 2"):
        Values(samples=0)
    with pytest.raises(ValueError, match="they must be even, not 5"):
        Values(samples=5)
    for sigma in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="sigma must be positive"):
            Values(sigma=sigma)
    with pytest.raises(ValueError, match="target must be runner_up, least_likely or nothing"):
        Values(target="best")
    with pytest.raises(BenchError, match="takes linf budgets, not l2"):
        Values().check(Budget("l2"))
