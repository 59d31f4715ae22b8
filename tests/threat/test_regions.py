"""Balls of free pixels and of factors: projections, starts, sizes, and the judge, which measures them afresh."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.draws import draw
from torch import Tensor

from bench import BenchError, Budget, ClipRandom
from bench.run.judge import violation
from bench.threat.budgets import norm_of

few = settings(max_examples=25, deadline=None, derandomize=True, database=None)
shapes = st.tuples(st.integers(1, 2), st.just(3), st.integers(1, 3), st.integers(5, 7), st.integers(5, 7))
seeds = st.integers(0, 10_000)
regions = st.sampled_from(["rectangle", "border", "pixels"])
ratios = st.sampled_from(["mult-linf", "mult-l2"])


def allowed(norm: str, size: int, height: int, width: int) -> list[np.ndarray]:
    """All regions of a frame, pixel by pixel, straight from their definition."""
    frame = np.zeros((height, width), dtype=bool)
    if norm == "border":
        frame[:] = [[min(y, x, height - 1 - y, width - 1 - x) < size for x in range(width)] for y in range(height)]
        return [frame]
    found = []
    if norm == "rectangle":
        for y, x in itertools.product(range(height - size + 1), range(width - size + 1)):
            one = frame.copy()
            one[y : y + size, x : x + size] = True
            found.append(one)
    else:
        for chosen in itertools.combinations(range(height * width), size):
            one = frame.copy()
            one.flat[list(chosen)] = True
            found.append(one)
    return found


@few
@given(regions, shapes, st.integers(0, 2), seeds)
def test_the_projection_is_the_nearest_point_of_all_regions(
    norm: str, shape: tuple[int, ...], size: int, seed: int
) -> None:
    clips, points = draw(*shape, seed=seed), draw(*shape, seed=seed + 1, low=-1, high=2)
    found = norm_of(norm).project(points, clips, size).double().numpy()
    x, p = clips.double().numpy(), points.double().numpy()
    for b, t in itertools.product(range(shape[0]), range(shape[2])):
        inside, outside = np.clip(p[b, :, t], 0, 1), x[b, :, t]
        best = min(
            ((np.where(mask, inside, outside) - p[b, :, t]) ** 2).sum()
            for mask in allowed(norm, size, shape[3], shape[4])
        )
        assert ((found[b, :, t] - p[b, :, t]) ** 2).sum() == pytest.approx(best, rel=1e-6)


@few
@given(st.one_of(regions, ratios), shapes, st.integers(0, 2), seeds)
def test_starts_and_projections_satisfy_the_judge(norm: str, shape: tuple[int, ...], size: int, seed: int) -> None:
    clips = draw(*shape, seed=seed)
    clips[:, :, :, 0] = 0.0  # black, which no factor moves
    clips[:, :, :, 1] = 1.0
    geometry = norm_of(norm)
    anything = draw(*shape, seed=seed + 1, low=-1, high=2)
    points = clips * draw(*shape, seed=seed + 1, low=0.5, high=2) if norm.startswith("mult") else anything
    for found in (
        geometry.random_start(clips, size, ClipRandom(range(shape[0]))),
        geometry.project(points, clips, size),
    ):
        assert float(geometry.distance(found, clips).max()) <= size * (1 + 1e-5) + 1e-5
        for clean, adversarial in zip(clips, found, strict=True):
            assert violation(clean, adversarial, Budget(norm, float(size))) is None
        if size == 0:
            torch.testing.assert_close(found, clips, rtol=1e-6, atol=0)


@few
@given(st.one_of(regions, ratios), shapes, st.integers(1, 2), seeds)
def test_the_judge_catches_what_is_one_size_larger(norm: str, shape: tuple[int, ...], size: int, seed: int) -> None:
    clips = draw(*shape, seed=seed, low=0.2, high=0.4)
    geometry = norm_of(norm)
    found = geometry.random_start(clips, size, ClipRandom(range(shape[0])))
    distance = geometry.distance(found, clips)
    for clean, adversarial, far in zip(clips, found, distance.tolist(), strict=True):
        assert violation(clean, adversarial, Budget(norm, far)) is None
        smaller = math.ceil(far) - 1 if norm in ("rectangle", "border", "pixels") else 0.99 * far
        assert violation(clean, adversarial, Budget(norm, float(smaller))) is not None


def one_frame_changed(*pixels: tuple[int, int], value: float = 1.0) -> tuple[Tensor, Tensor]:
    clean = torch.full((3, 2, 8, 10), 0.5)
    adversarial = clean.clone()
    for y, x in pixels:
        adversarial[:, 1, y, x] = value
    return clean, adversarial


@pytest.mark.parametrize(
    ("norm", "pixels", "size"),
    [
        ("rectangle", [(2, 3), (4, 3)], 3),
        ("rectangle", [(2, 3), (2, 8)], 6),
        ("border", [(0, 5)], 1),
        ("border", [(6, 5)], 2),
        ("border", [(4, 1), (0, 0)], 2),
        ("pixels", [(1, 1), (7, 9), (0, 0)], 3),
    ],
)
def test_sizes_have_known_values(norm: str, pixels: list[tuple[int, int]], size: int) -> None:
    clean, adversarial = one_frame_changed(*pixels)
    assert norm_of(norm).distance(adversarial[None], clean[None]).tolist() == [size]
    assert violation(clean, adversarial, Budget(norm, float(size))) is None
    assert "frame 1" in str(violation(clean, adversarial, Budget(norm, float(size - 1))))


def test_ratios_have_known_values() -> None:
    clean = torch.tensor([0.0, 0.2, 0.4]).view(3, 1, 1, 1)
    adversarial = torch.tensor([0.0, 0.25, 0.2]).view(3, 1, 1, 1)
    assert float(norm_of("mult-linf").distance(adversarial[None], clean[None])) == pytest.approx(1.0)
    length = math.hypot(math.log(1.25), math.log(0.5))
    assert float(norm_of("mult-l2").distance(adversarial[None], clean[None])) == pytest.approx(length)
    assert "factor" in str(violation(clean, adversarial, Budget("mult-linf", 0.9)))
    assert violation(clean, adversarial, Budget("mult-linf", 1.0)) is None
    assert "log ratios" in str(violation(clean, adversarial, Budget("mult-l2", 0.99 * length)))
    for before, after in ((0.0, 0.1), (0.1, 0.0)):
        said = violation(torch.full((3, 1, 1, 1), before), torch.full((3, 1, 1, 1), after), Budget("mult-linf", 9.0))
        assert "black" in str(said)


@pytest.mark.parametrize(
    ("norm", "size", "says"),
    [
        ("rectangle", 9.0, "larger than the frames, 8 x 10"),
        ("border", 5.0, "covers the whole frame"),
        ("pixels", 81.0, "more than a frame of 8 x 10"),
        ("pixels", 1.5, "whole number of pixels, not 1.5"),
    ],
)
def test_a_region_larger_than_the_frame_is_refused(norm: str, size: float, says: str) -> None:
    clips = torch.full((1, 3, 2, 8, 10), 0.5)
    with pytest.raises(BenchError, match=says):
        norm_of(norm).project(clips, clips, size)
    with pytest.raises(BenchError, match=says):
        norm_of(norm).random_start(clips, size, ClipRandom([0]))


def test_each_clip_has_its_own_size() -> None:
    clips = torch.full((2, 3, 1, 6, 6), 0.5)
    points = torch.ones_like(clips)
    found = norm_of("pixels").project(points, clips, torch.tensor([1.0, 4.0]))
    assert norm_of("pixels").distance(found, clips).tolist() == [1, 4]


def test_random_rectangles_are_uniform_over_all_places_and_frames_are_independent() -> None:
    clips = torch.full((400, 3, 2, 3, 3), 0.5)
    found = (norm_of("rectangle").random_start(clips, 2, ClipRandom(range(400))) != clips).any(1)
    corners = [tuple(frame.nonzero()[0].tolist()) for clip in found for frame in clip]
    counts = {c: corners.count(c) for c in set(corners)}
    assert set(counts) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert all(150 < n < 250 for n in counts.values())
    pairs = list(zip(corners[::2], corners[1::2], strict=True))
    assert 60 < sum(a == b for a, b in pairs) < 140


@pytest.mark.parametrize(
    ("norm", "size", "text"),
    [("rectangle", 30, "rectangle 30 px"), ("mult-linf", 0.04, "mult-linf 0.04"), ("linf", 4 / 255, "linf 4/255")],
)
def test_budgets_in_words(norm: str, size: float, text: str) -> None:
    assert str(Budget(norm, size, 5)).startswith(text)
