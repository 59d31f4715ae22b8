"""Geometry of the balls, and how budgets are written."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from bench import BenchError, Budget, ClipRandom
from bench.budgets import NORMS, norm_of, parse_size

few = settings(max_examples=25, deadline=None, derandomize=True, database=None)
shapes = st.tuples(st.integers(1, 3), st.just(3), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5))
sizes = st.floats(0.0, 3.0, width=32)
seeds = st.integers(0, 10_000)
norms = st.sampled_from(["linf", "l2"])


def draw(shape: tuple[int, ...], seed: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def length(delta: np.ndarray, norm: str) -> np.ndarray:
    flat = np.abs(delta.reshape(len(delta), -1))
    return flat.max(1) if norm == "linf" else np.sqrt((flat**2).sum(1))


@few
@given(shapes, sizes, seeds)
def test_linf_projection_is_the_nearest_point_of_ball_and_cube(shape: tuple[int, ...], size: float, seed: int) -> None:
    clips, points = draw(shape, seed), draw(shape, seed + 1, -2, 3)
    x = clips.double().numpy()
    # Ball and cube are both boxes, so the nearest point of their intersection is found value by value.
    expected = np.clip(points.double().numpy(), np.maximum(x - size, 0), np.minimum(x + size, 1))
    found = norm_of("linf").project(points, clips, size)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-6)
    assert found.dtype == torch.float32


@few
@given(shapes, sizes, seeds)
def test_l2_projection_matches_double_precision(shape: tuple[int, ...], size: float, seed: int) -> None:
    clips, points = draw(shape, seed), draw(shape, seed + 1, -2, 3)
    x, p = clips.double().numpy(), points.double().numpy()
    far = length(p - x, "l2").reshape(-1, 1, 1, 1, 1)
    expected = np.clip(x + (p - x) * np.where(far > size, size / far, 1.0), 0, 1)
    np.testing.assert_allclose(norm_of("l2").project(points, clips, size).numpy(), expected, rtol=0, atol=2e-6)


@few
@given(norms, shapes, st.floats(0.01, 0.2), seeds)
def test_projection_obeys_the_variational_inequality(norm: str, shape: tuple[int, ...], size: float, seed: int) -> None:
    """``q`` is the projection of ``p`` on a convex set iff ``(p - q) . (r - q) <= 0`` for all ``r`` in it."""
    clips, points = torch.full(shape, 0.5), draw(shape, seed, -1, 2)  # far enough from 0 and 1 for one ball
    inside = norm_of(norm).random_start(clips, size, ClipRandom(range(seed, seed + shape[0]))).double()
    found = norm_of(norm).project(points, clips, size).double()
    product = ((points.double() - found) * (inside - found)).flatten(1).sum(1)
    assert (product <= 1e-5).all()


@few
@given(norms, shapes, sizes, seeds)
def test_projected_points_stay_in_ball_and_cube(norm: str, shape: tuple[int, ...], size: float, seed: int) -> None:
    clips, points = draw(shape, seed), draw(shape, seed + 1, -2, 3)
    found = norm_of(norm).project(points, clips, size)
    assert found.min() >= 0
    assert found.max() <= 1
    assert (length(found.double().numpy() - clips.double().numpy(), norm) <= size * (1 + 1e-5) + 1e-6).all()


@few
@given(norms, shapes, st.floats(0.05, 3.0), seeds)
def test_projection_leaves_points_inside_alone(norm: str, shape: tuple[int, ...], size: float, seed: int) -> None:
    clips = draw(shape, seed)
    n = math.prod(shape[1:])
    reach = 0.99 * size if norm == "linf" else 0.99 * size / math.sqrt(n)
    points = (clips + draw(shape, seed + 1, -reach, reach)).clamp(0, 1)
    torch.testing.assert_close(norm_of(norm).project(points, clips, size), points, rtol=0, atol=1e-6)


@few
@given(norms, shapes, sizes, seeds)
def test_random_start_stays_in_ball_and_cube(norm: str, shape: tuple[int, ...], size: float, seed: int) -> None:
    clips = draw(shape, seed)
    found = norm_of(norm).random_start(clips, size, ClipRandom(range(shape[0])))
    assert found.shape == clips.shape
    assert found.min() >= 0
    assert found.max() <= 1
    assert (length(found.double().numpy() - clips.double().numpy(), norm) <= size * (1 + 1e-5) + 1e-6).all()


def test_linf_random_start_is_uniform() -> None:
    clips = torch.full((1, 3, 8, 16, 16), 0.5)
    noise = norm_of("linf").random_start(clips, 0.1, ClipRandom([3])) - clips
    assert stats.kstest(noise.flatten().double().numpy(), stats.uniform(-0.1, 0.2).cdf).pvalue > 0.01


def test_l2_random_start_is_uniform_in_the_ball() -> None:
    """In n dimensions the radius r has P(r <= s) = s^n, and every coordinate the variance 1 / (n + 2)."""
    clips = torch.full((3000, 3, 1, 1, 1), 0.5)
    points = (norm_of("l2").random_start(clips, 0.4, ClipRandom(range(3000))) - clips).flatten(1) / 0.4
    radius = points.double().norm(dim=1).numpy()
    assert stats.kstest(radius**3, "uniform").pvalue > 0.01
    assert np.allclose(points.double().numpy().var(0), 1 / 5, atol=0.02)
    # Archimedes: on a sphere in 3-D each coordinate is uniform.
    for axis in range(3):
        assert stats.kstest(points[:, axis].double().numpy() / radius, stats.uniform(-1, 2).cdf).pvalue > 0.01


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_start_of_one_clip_ignores_the_others(norm: str) -> None:
    clips = draw((3, 3, 2, 4, 4), 0)
    together = norm_of(norm).random_start(clips, 0.3, ClipRandom([7, 8, 9]))
    alone = norm_of(norm).random_start(clips[2:], 0.3, ClipRandom([9]))
    assert torch.equal(together[2:], alone)


@few
@given(norms, shapes, seeds)
def test_direction_is_steepest(norm: str, shape: tuple[int, ...], seed: int) -> None:
    """The largest ``g . d`` over the unit ball is the dual norm of ``g``, and ``d`` is in that ball."""
    gradient = draw(shape, seed, -1, 1)
    step = norm_of(norm).direction(gradient).double().numpy()
    g = gradient.double().numpy().reshape(shape[0], -1)
    dual = np.abs(g).sum(1) if norm == "linf" else np.sqrt((g**2).sum(1))
    np.testing.assert_allclose((g * step.reshape(g.shape)).sum(1), dual, rtol=1e-5)
    assert (length(step, norm) <= 1 + 1e-6).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_zero_gradient_gives_zero_step(norm: str) -> None:
    gradient = torch.zeros(2, 3, 2, 4, 4)
    gradient[1] = 1.0
    step = norm_of(norm).direction(gradient)
    assert torch.equal(step[0], torch.zeros(3, 2, 4, 4))
    assert step[1].count_nonzero() == step[1].numel()


@pytest.mark.parametrize("scale", [1e-37, 1e-30, 1e-12, 1e12, 1e30])
def test_l2_step_has_unit_length_at_any_gradient_scale(scale: float) -> None:
    gradient = draw((2, 3, 2, 4, 4), 5, -1, 1)
    step = norm_of("l2").direction(gradient * scale)
    torch.testing.assert_close(step.double().flatten(1).norm(dim=1), torch.ones(2).double(), rtol=1e-5, atol=0)
    torch.testing.assert_close(step, norm_of("l2").direction(gradient), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_each_clip_has_its_own_size(norm: str) -> None:
    clips, points = draw((3, 3, 2, 4, 4), 1), draw((3, 3, 2, 4, 4), 2, -1, 2)
    sizes = torch.tensor([0.0, 0.05, 0.5])
    geometry = norm_of(norm)
    projected = geometry.project(points, clips, sizes)
    started = geometry.random_start(clips, sizes, ClipRandom([0, 1, 2]))
    for i, size in enumerate(sizes.tolist()):
        one = slice(i, i + 1)
        torch.testing.assert_close(projected[one], geometry.project(points[one], clips[one], size))
        torch.testing.assert_close(started[one], geometry.random_start(clips[one], size, ClipRandom([i])))
    assert torch.equal(projected[0], clips[0])


@few
@given(norms, shapes, seeds)
def test_distance_is_the_norm_of_the_difference(norm: str, shape: tuple[int, ...], seed: int) -> None:
    clips, points = draw(shape, seed), draw(shape, seed + 1)
    expected = length(points.double().numpy() - clips.double().numpy(), norm)
    np.testing.assert_allclose(norm_of(norm).distance(points, clips).numpy(), expected, rtol=1e-12)


def test_unknown_norm_names_the_nearest() -> None:
    with pytest.raises(BenchError, match=r"did you mean 'linf'"):
        norm_of("lin")
    assert set(NORMS) == {"linf", "l2"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4/255", 4 / 255),
        (" 8 / 255 ", 8 / 255),
        ("0.0157", 0.0157),
        ("2", 2.0),
        ("1e-3", 0.001),
        (2, 2.0),
        (0.5, 0.5),
    ],
)
def test_sizes_are_read(text: str | float, value: float) -> None:
    assert parse_size(text) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    "text", ["", "four", "4/0", "4//255", "nan", "4/255/2", "-1/255", "-3", -0.1, math.inf, math.nan]
)
def test_unreadable_sizes_are_refused(text: str | float) -> None:
    with pytest.raises(BenchError, match=r"size"):
        parse_size(text)


@pytest.mark.parametrize(
    "given_", [{"size": "1e400"}, {"size": [0.1]}, {"size": None}, {"size": True}, {"norm": 2}, {"norm": ["linf"]}]
)
def test_values_of_another_kind_are_refused(given_: dict[str, object]) -> None:
    with pytest.raises(BenchError):
        Budget.parse(given_)


def test_budget_is_read_from_a_grid() -> None:
    budget = Budget.parse({"norm": "l2", "size": "1/2", "steps": 7, "step_size": "1/4", "restarts": 3})
    assert budget == Budget("l2", 0.5, 7, 0.25, 3)
    assert Budget.parse({}) == Budget("linf", 4 / 255, 10, None, 1)
    assert Budget.parse({"step_size": None}).step_size is None


@pytest.mark.parametrize(("wrong", "right"), [("stepsize", "step_size"), ("sise", "size"), ("restart", "restarts")])
def test_unknown_budget_key_names_the_nearest(wrong: str, right: str) -> None:
    with pytest.raises(BenchError, match=rf"no key '{wrong}' \(did you mean '{right}'\?\)"):
        Budget.parse({wrong: 1})


@pytest.mark.parametrize(
    "values",
    [
        {"norm": "l3"},
        {"size": -0.1},
        {"size": math.nan},
        {"size": torch.tensor([0.1, -0.1])},
        {"steps": 0},
        {"restarts": 0},
        {"step_size": 0.0},
        {"step_size": -1.0},
    ],
)
def test_impossible_budgets_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(BenchError):
        Budget(**values)


@pytest.mark.parametrize("key", ["steps", "restarts"])
@pytest.mark.parametrize("value", [1.5, "10", True])
def test_counts_must_be_whole_numbers(key: str, value: object) -> None:
    with pytest.raises(BenchError, match=rf"{key} must be a whole number"):
        Budget.parse({key: value})


@pytest.mark.parametrize(
    ("budget", "text"),
    [
        (Budget(), "linf 4/255, 10 steps"),
        (Budget(size=16 / 255, steps=1), "linf 16/255, 1 step"),
        (Budget(size=0.01, steps=100, restarts=5), "linf 0.01, 100 steps, 5 restarts"),
        (Budget("l2", 2.0), "l2 2, 10 steps"),
        (Budget("l2", 0.5, 7, 0.25, 3), "l2 0.5, 7 steps, step size 0.25, 3 restarts"),
        (Budget(size=torch.tensor([0.1, 0.2])), "linf per-clip"),
    ],
)
def test_budget_prints_its_ball_and_effort(budget: Budget, text: str) -> None:
    assert str(budget) == text


@few
@given(st.integers(0, 255))
def test_printed_size_reads_back(numerator: int) -> None:
    norm, size = str(Budget(size=numerator / 255)).partition(",")[0].split(" ")
    assert (norm, parse_size(size)) == ("linf", numerator / 255)


def test_select_takes_the_sizes_of_the_rows() -> None:
    budget = Budget(size=torch.tensor([0.1, 0.2, 0.3]), steps=4)
    chosen = budget.select(torch.tensor([2, 0]))
    assert isinstance(chosen.size, Tensor)
    assert chosen.size.tolist() == pytest.approx([0.3, 0.1])
    assert chosen.steps == 4
    assert Budget().select(torch.tensor([1])) == Budget()


def test_settings_are_plain_and_refuse_per_clip_sizes() -> None:
    assert Budget().settings() == {
        "norm": "linf",
        "size": 4 / 255,
        "steps": 10,
        "step_size": None,
        "restarts": 1,
    }
    with pytest.raises(BenchError, match="one size per clip"):
        Budget(size=torch.tensor([0.1])).settings()
