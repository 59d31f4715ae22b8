"""RayS against its pseudo-code in plain loops, and against boundaries whose distance is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.draws import draw
from torch import Tensor, nn

from bench import AttackResult, BenchError, Budget, ClipRandom, Target
from bench.attack.target import Answer
from bench.attacks.rays import RayS
from bench.run.judge import violation

SHAPE = (3, 2, 2, 3)
N = 36


class Two(nn.Module):
    """Class 1 where ``<weight, clip>`` exceeds a threshold; notes what it is asked, and refuses to be
    differentiated."""

    def __init__(self, weight: Tensor, threshold: float) -> None:
        super().__init__()
        self.weight, self.threshold = weight.double(), threshold
        self.seen: list[Tensor] = []

    def forward(self, clips: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        self.seen.append(clips.clone())
        score = (clips.double() * self.weight).flatten(1).sum(1) - self.threshold
        return torch.stack([-score, score], 1)


def attack(model: nn.Module | Target, clips: Tensor, size: float | Tensor, **how: Any) -> AttackResult:
    labels = torch.zeros(len(clips), dtype=torch.int64)
    return RayS(**how)(model, clips, labels, Budget("linf", size), ClipRandom(range(len(clips))))


def fixed(model: Callable[[Tensor], Any], count: int, kind: str) -> Target:
    return Target(lambda x, rows: model(x), count, **({} if kind == "decisive" else {kind: True}))


class Asked(Exception):
    """The last query has been asked."""


def written_out(
    clip: np.ndarray, wrong: Callable[[np.ndarray], bool], queries: int, tolerance: float, size: float
) -> list[np.ndarray]:
    """Every query of the hierarchical search on one flattened clip, up to the first success within the budget."""
    asked: list[np.ndarray] = []

    def ask(signs: np.ndarray, radius: float) -> bool:
        asked.append(np.clip(clip + np.float32(radius) * signs, 0, 1))
        answer = wrong(asked[-1])
        if len(asked) == queries or (answer and radius <= size):
            raise Asked
        return answer

    best, nearest, level = np.ones(len(clip), dtype=np.float32), math.inf, 0
    try:
        while True:
            width = math.ceil(len(clip) / 2**level)
            for begin in range(0, len(clip), width):
                tried = best.copy()
                tried[begin : begin + width] *= -1
                low, high = 0.0, min(nearest, 1.0)
                if not ask(tried, high):
                    continue
                while high - low > tolerance:
                    middle = (low + high) / 2
                    if ask(tried, middle):
                        high = middle
                    else:
                        low = middle
                if high < nearest:
                    best, nearest = tried, high
            level += 1
    except Asked:
        return asked


@pytest.mark.parametrize("size", [0.0, 0.2])
@pytest.mark.parametrize("bent", [False, True])
def test_it_asks_what_the_pseudo_code_asks(size: float, bent: bool) -> None:
    """Clip by clip, query by query, although in a batch each clip is elsewhere in its search."""
    clips = draw(4, *SHAPE, seed=1)
    weight = draw(*SHAPE, seed=2, low=-1)
    threshold = float((clips.double() * weight).flatten(1).sum(1).max()) + 1.0

    def wrong(values: np.ndarray) -> bool:
        score = (values.astype(np.float64) * weight.flatten().double().numpy()).sum()
        return bool(score + bent * math.sin(8 * score) > threshold)

    seen: dict[int, list[Tensor]] = {i: [] for i in range(4)}

    def answer(x: Tensor, rows: Tensor) -> Answer:
        for i, point in zip(rows.tolist(), x, strict=True):
            seen[i].append(point.flatten())
        decision = torch.tensor([int(wrong(p.flatten().numpy())) for p in x])
        return Answer(torch.full((len(x), 2), math.nan), decision)  # no score, no gradient: hard labels only

    target = Target(answer, 4)
    attack(target, clips, size, queries=400, tolerance=1e-3)
    for i in range(4):
        expected = written_out(clips[i].flatten().numpy(), wrong, 400, 1e-3, size)
        assert len(seen[i]) == len(expected) == int(target.forwards[i])
        np.testing.assert_allclose(torch.stack(seen[i]).numpy(), np.stack(expected), rtol=0, atol=1e-6)
    assert (set(target.forwards.tolist()) == {400}) is (size == 0)
    assert target.backwards.tolist() == [0] * 4


@pytest.mark.parametrize("share", [0.97, 1.03])
def test_it_finds_the_distance_to_a_flat_boundary(share: float) -> None:
    """The linf distance to a plane is the margin over the 1-norm of its normal; a budget just above it is enough."""
    clips, weight = draw(2, *SHAPE, seed=3, low=0.3, high=0.7), draw(*SHAPE, seed=4, low=-1)
    scores = (clips.double() * weight).flatten(1).sum(1)
    model = Two(weight, float(scores.max()) + 1.0)
    distance = (model.threshold - scores) / weight.double().abs().sum()
    assert (distance < 0.3).all()  # no value is cut off on the way
    target = Target.of(model, 2)
    found = attack(target, clips, share * distance, queries=450).clips
    with torch.no_grad():
        assert model(found).argmax(1).tolist() == [int(share > 1)] * 2
    assert (target.forwards < 450).tolist() == [share > 1] * 2
    if share < 1:  # nowhere better within the budget: the corner of the ball
        expected = clips + (share * distance).float().reshape(-1, 1, 1, 1, 1) * weight.sign()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_clip_that_is_wrong_already_costs_a_search_and_no_more() -> None:
    clips = draw(1, *SHAPE)
    target = Target.of(Two(torch.zeros(SHAPE), -1.0), 1)
    found = attack(target, clips, 0.1).clips
    assert int(target.forwards) == 5  # at 1, 1/2, 1/4, 1/8 and 1/16
    assert float((found - clips).abs().max()) <= 0.1


def test_a_clip_without_any_way_out_stays_in_its_budget() -> None:
    clips = draw(2, *SHAPE, low=0.2, high=0.8)
    found = attack(Two(torch.zeros(SHAPE), 1.0), clips, torch.tensor([0.1, 0.0]), queries=50).clips
    torch.testing.assert_close(found[0], clips[0] + 0.1, rtol=0, atol=1e-6)
    assert torch.equal(found[1], clips[1])


@pytest.mark.parametrize(("gap", "drop"), [(False, 0.1), (True, 0.04)])
def test_clips_for_transfer_go_to_the_edge_of_the_budget_if_they_are_wrong_there(gap: bool, drop: float) -> None:
    """Lost once the mean has dropped by 0.04, but for a gap around the edge of the budget."""

    def model(clips: Tensor) -> Tensor:
        dropped = 0.5 - clips.double().flatten(1).mean(1)
        lost = (dropped > 0.04) & ~((dropped > 0.09) & (dropped < 0.11) & gap)
        return torch.stack([-lost.double(), lost.double()], 1)

    clips = torch.full((1, *SHAPE), 0.5)
    target = fixed(model, 1, "transfer")
    found = attack(target, clips, 0.1, queries=300).clips
    assert int(target.forwards) == 300
    assert int(model(found).argmax(1)) == 1
    torch.testing.assert_close(found, clips - drop, rtol=0, atol=1e-4)


def test_an_interrupted_search_hands_over_what_it_has_seen() -> None:
    """Three searching queries: at 1, 1/2 and 1/4, all wrong; the fourth looks at the edge of the budget."""
    clips = torch.full((1, *SHAPE), 0.5)
    model = Two(-torch.ones(SHAPE), -0.45 * N)  # wrong below 0.45
    target = fixed(model, 1, "transfer")
    found = attack(target, clips, 0.3, queries=4).clips
    assert [round(float(s.mean()), 4) for s in model.seen] == [0.0, 0.0, 0.25, 0.2]
    torch.testing.assert_close(found, clips - 0.3, rtol=0, atol=1e-6)


def test_a_lucky_draw_is_not_believed() -> None:
    clips, model = draw(2, *SHAPE, low=0.3, high=0.7), Two(torch.zeros(SHAPE), -1.0)  # wrong wherever it is
    target = fixed(model, 2, "stochastic")
    found = attack(target, clips, 0.1, queries=40).clips
    assert target.forwards.tolist() == [40, 40]
    torch.testing.assert_close((found - clips).abs(), torch.full_like(clips, 0.1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["decisive", "transfer", "stochastic"])
@pytest.mark.parametrize("queries", [2, 3, 37])
def test_passes_are_those_promised(kind: str, queries: int) -> None:
    target = fixed(Two(draw(*SHAPE, low=-1), 100.0), 2, kind)
    attack(target, draw(2, *SHAPE), 0.1, queries=queries)
    assert target.forwards.tolist() == [queries] * 2
    assert target.backwards.tolist() == [0, 0]
    assert RayS(queries).passes(Budget()) == (queries, 0)


@pytest.mark.parametrize("kind", ["decisive", "transfer"])
def test_result_does_not_depend_on_the_batch(kind: str) -> None:
    clips, weight = draw(4, *SHAPE, seed=6), draw(*SHAPE, seed=7, low=-1)
    model = Two(weight, float((clips.double() * weight).flatten(1).sum(1).max()) + 0.5)
    sizes = torch.tensor([0.0, 0.05, 0.1, 0.3])
    target = fixed(model, 4, kind)
    together = attack(target, clips, sizes, queries=150).clips
    assert (len(set(target.forwards.tolist())) > 1) is (kind == "decisive")
    for i in range(4):
        alone = attack(fixed(model, 1, kind), clips[i : i + 1], float(sizes[i]), queries=150).clips
        assert torch.equal(together[i : i + 1], alone)


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(
    st.tuples(st.integers(1, 3), st.just(3), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
    st.floats(0.0, 1.0),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from(["decisive", "transfer", "stochastic"]),
    st.integers(0, 1000),
)
def test_the_judge_accepts_what_comes_out(
    shape: tuple[int, ...], size: float, dtype: torch.dtype, kind: str, seed: int
) -> None:
    clips = (1.4 * draw(*shape, seed=seed) - 0.2).clamp(0, 1).to(dtype)
    model = Two(draw(*shape[1:], seed=seed + 1, low=-1), 0.5)
    found = attack(fixed(model, shape[0], kind), clips, size, queries=40).clips
    assert found.dtype == dtype
    assert [violation(x, y, Budget("linf", size)) for x, y in zip(clips, found, strict=True)] == [None] * shape[0]


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(BenchError, match="RayS takes linf budgets, not l2"):
        RayS().check(Budget("l2"))
    with pytest.raises(BenchError, match="it takes 1 restart, not 2"):
        RayS().check(Budget(restarts=2))
    for queries in (1, 10.0, True):
        with pytest.raises(BenchError, match="queries must be a whole number of at least 2"):
            RayS(queries)  # type: ignore[arg-type]
    for tolerance in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="tolerance must be positive"):
            RayS(tolerance=tolerance)
