"""Geometry of the balls, and how budgets are written."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.draws import draw
from scipy import stats
from torch import Tensor

from bench import BenchError, Budget, ClipRandom
from bench.grids.grid import find_grid, shipped_grids
from bench.plan.components import budgets_of
from bench.threat.budgets import NORMS, norm_of, parse_size

few = settings(max_examples=25, deadline=None, derandomize=True, database=None)
shapes = st.tuples(st.integers(1, 3), st.just(3), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5))
sizes = st.floats(0.0, 3.0, width=32)
seeds = st.integers(0, 10_000)
norms = st.sampled_from(["linf", "l2"])


def length(delta: np.ndarray, norm: str) -> np.ndarray:
    flat = np.abs(delta.reshape(len(delta), -1))
    return flat.max(1) if norm == "linf" else np.sqrt((flat**2).sum(1))


@few
@given(shapes, sizes, seeds)
def test_linf_projection_is_the_nearest_point_of_ball_and_cube(shape: tuple[int, ...], size: float, seed: int) -> None:
    clips, points = draw(*shape, seed=seed), draw(*shape, seed=seed + 1, low=-2, high=3)
    x = clips.double().numpy()
    # Ball and cube are both boxes, so the nearest point of their intersection is found value by value.
    expected = np.clip(points.double().numpy(), np.maximum(x - size, 0), np.minimum(x + size, 1))
    found = norm_of("linf").project(points, clips, size)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-6)
    assert found.dtype == torch.float32


@few
@given(shapes, sizes, seeds)
def test_l2_projection_matches_double_precision(shape: tuple[int, ...], size: float, seed: int) -> None:
    clips, points = draw(*shape, seed=seed), draw(*shape, seed=seed + 1, low=-2, high=3)
    x, p = clips.double().numpy(), points.double().numpy()
    far = length(p - x, "l2").reshape(-1, 1, 1, 1, 1)
    expected = np.clip(x + (p - x) * np.where(far > size, size / far, 1.0), 0, 1)
    np.testing.assert_allclose(norm_of("l2").project(points, clips, size).numpy(), expected, rtol=0, atol=2e-6)


@few
@given(norms, shapes, st.floats(0.01, 0.2), seeds)
def test_projection_obeys_the_variational_inequality(norm: str, shape: tuple[int, ...], size: float, seed: int) -> None:
    """``q`` is the projection of ``p`` on a convex set iff ``(p - q) . (r - q) <= 0`` for all ``r`` in it."""
    clips = torch.full(shape, 0.5)  # far enough from 0 and 1 for one ball
    points = draw(*shape, seed=seed, low=-1, high=2)
    inside = norm_of(norm).random_start(clips, size, ClipRandom(range(seed, seed + shape[0]))).double()
    found = norm_of(norm).project(points, clips, size).double()
    product = ((points.double() - found) * (inside - found)).flatten(1).sum(1)
    assert (product <= 1e-5).all()


@few
@given(norms, shapes, sizes, seeds)
def test_projected_points_stay_in_ball_and_cube(norm: str, shape: tuple[int, ...], size: float, seed: int) -> None:
    clips, points = draw(*shape, seed=seed), draw(*shape, seed=seed + 1, low=-2, high=3)
    found = norm_of(norm).project(points, clips, size)
    assert found.min() >= 0
    assert found.max() <= 1
    assert (length(found.double().numpy() - clips.double().numpy(), norm) <= size * (1 + 1e-5) + 1e-6).all()


@few
@given(norms, shapes, st.floats(0.05, 3.0), seeds)
def test_projection_leaves_points_inside_alone(norm: str, shape: tuple[int, ...], size: float, seed: int) -> None:
    clips = draw(*shape, seed=seed)
    n = math.prod(shape[1:])
    reach = 0.99 * size if norm == "linf" else 0.99 * size / math.sqrt(n)
    points = (clips + draw(*shape, seed=seed + 1, low=-reach, high=reach)).clamp(0, 1)
    torch.testing.assert_close(norm_of(norm).project(points, clips, size), points, rtol=0, atol=1e-6)


@few
@given(norms, shapes, sizes, seeds)
def test_random_start_stays_in_ball_and_cube(norm: str, shape: tuple[int, ...], size: float, seed: int) -> None:
    clips = draw(*shape, seed=seed)
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
    clips = draw(3, 3, 2, 4, 4, seed=0)
    together = norm_of(norm).random_start(clips, 0.3, ClipRandom([7, 8, 9]))
    alone = norm_of(norm).random_start(clips[2:], 0.3, ClipRandom([9]))
    assert torch.equal(together[2:], alone)


@few
@given(norms, shapes, seeds)
def test_direction_is_steepest(norm: str, shape: tuple[int, ...], seed: int) -> None:
    """The largest ``g . d`` over the unit ball is the dual norm of ``g``, and ``d`` is in that ball."""
    gradient = draw(*shape, seed=seed, low=-1)
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
    gradient = draw(2, 3, 2, 4, 4, seed=5, low=-1)
    step = norm_of("l2").direction(gradient * scale)
    torch.testing.assert_close(step.double().flatten(1).norm(dim=1), torch.ones(2).double(), rtol=1e-5, atol=0)
    torch.testing.assert_close(step, norm_of("l2").direction(gradient), rtol=1e-4, atol=1e-6)


@few
@given(norms, shapes, seeds)
def test_distance_is_the_norm_of_the_difference(norm: str, shape: tuple[int, ...], seed: int) -> None:
    clips, points = draw(*shape, seed=seed), draw(*shape, seed=seed + 1)
    expected = length(points.double().numpy() - clips.double().numpy(), norm)
    np.testing.assert_allclose(norm_of(norm).distance(points, clips).numpy(), expected, rtol=1e-12)


# --- one frame ------------------------------------------------------------------------------------------------


def dearest(points: np.ndarray, clip: np.ndarray, size: float) -> np.ndarray:
    """The nearest clip that differs in one frame by up to ``size``, found by trying every frame."""
    best, least = clip, np.inf
    for t in range(clip.shape[1]):
        tried = clip.copy()
        tried[:, t] = np.clip(points[:, t], np.maximum(clip[:, t] - size, 0), np.minimum(clip[:, t] + size, 1))
        if ((tried - points) ** 2).sum() < least:
            best, least = tried, ((tried - points) ** 2).sum()
    return best


@few
@given(shapes, sizes, seeds)
def test_one_frame_projection_is_the_nearest_of_all_frames(shape: tuple[int, ...], size: float, seed: int) -> None:
    clips, points = draw(*shape, seed=seed), draw(*shape, seed=seed + 1, low=-2, high=3)
    found = norm_of("one-frame").project(points, clips, size)
    expected = [dearest(p, x, size) for p, x in zip(points.double().numpy(), clips.double().numpy(), strict=True)]
    np.testing.assert_allclose(found.numpy(), np.stack(expected), rtol=0, atol=1e-6)
    assert torch.equal(norm_of("one-frame").project(found, clips, size), found)  # a point of the ball stays


@few
@given(shapes, st.floats(0.01, 1.0), seeds)
def test_one_frame_start_changes_one_frame(shape: tuple[int, ...], size: float, seed: int) -> None:
    clips = draw(*shape, seed=seed)
    found = norm_of("one-frame").random_start(clips, size, ClipRandom(range(seed, seed + shape[0])))
    for clip, start in zip(clips, found, strict=True):
        differing = [t for t in range(shape[2]) if not torch.equal(clip[:, t], start[:, t])]
        assert len(differing) == 1
        assert float((clip - start).abs().max()) <= size + 1e-6
    assert found.min() >= 0
    assert found.max() <= 1


def test_one_frame_start_draws_the_frame_and_fills_it_uniformly() -> None:
    clips = torch.full((400, 3, 4, 3, 3), 0.5)
    change = norm_of("one-frame").random_start(clips, 0.1, ClipRandom(range(400))) - clips
    frames = change.abs().amax((1, 3, 4)).argmax(1)
    assert stats.chisquare(torch.bincount(frames, minlength=4).numpy()).pvalue > 0.01
    values = change[torch.arange(400), :, frames].flatten().double().numpy()
    assert stats.kstest(values, stats.uniform(-0.1, 0.2).cdf).pvalue > 0.01


@few
@given(shapes, seeds)
def test_one_frame_step_is_the_steepest(shape: tuple[int, ...], seed: int) -> None:
    """Over the union of the balls on single frames, the largest ``g . d`` is the largest 1-norm of a frame of ``g``."""
    gradient = draw(*shape, seed=seed, low=-1)
    step = norm_of("one-frame").direction(gradient).double().numpy()
    g = gradient.double().numpy()
    for b in range(shape[0]):
        dual = max(np.abs(g[b, :, t]).sum() for t in range(shape[2]))
        assert (g[b] * step[b]).sum() == pytest.approx(dual, rel=1e-9)
        assert np.abs(step[b]).max() == 1
        assert sum(bool(step[b, :, t].any()) for t in range(shape[2])) == 1


def test_one_frame_distance() -> None:
    clips = draw(4, 3, 3, 2, 2, seed=0, low=0.2, high=0.8)
    points = clips.clone()
    points[1, 0, 2, 1, 1] += 0.1
    points[1, 2, 2, 0, 1] -= 0.15
    points[2, 0, 0, 0, 0] += 0.1
    points[2, 0, 1, 0, 0] += 1e-6
    points[3] += 0.05
    found = norm_of("one-frame").distance(points, clips).tolist()
    assert found == pytest.approx([0.0, 0.15, math.inf, math.inf], abs=1e-6)


# --- flicker --------------------------------------------------------------------------------------------------


@few
@given(shapes, st.floats(0.0, 1.2), seeds, st.booleans())
def test_flicker_projection_beats_every_offset_of_a_grid(
    shape: tuple[int, ...], size: float, seed: int, extreme: bool
) -> None:
    """Brute force: for each colour and frame no offset in the budget comes nearer, saturation and all."""
    clips, points = draw(*shape, seed=seed), draw(*shape, seed=seed + 1, low=-2, high=3)
    if extreme:  # many saturated pixels, and points of which several offsets explain a part each
        clips, points = (2 * clips - 0.5).clamp(0, 1), (2 * points - 0.5).clamp(0, 1)
    found = norm_of("flicker").project(points, clips, size).double().numpy()
    x, p = clips.double().numpy(), points.double().numpy()
    offsets = np.linspace(-size, size, 801)
    tried = np.clip(x[..., None] + offsets, 0, 1)
    grid = ((tried - p[..., None]) ** 2).sum((3, 4))  # (B, 3, T, offsets)
    reached = ((found - p) ** 2).sum((3, 4))
    assert (reached <= grid.min(-1) + 1e-5).all()
    # And it is a point of the ball: some offset of the grid is as near to it as the spacing of the grid.
    near = np.abs(tried - found[..., None]).max((3, 4)).min(-1)
    assert (near <= size / 800 + 1e-6).all()


@few
@given(shapes, st.floats(0.0, 1.0), seeds)
def test_flicker_balls_points_stay_and_are_measured(shape: tuple[int, ...], size: float, seed: int) -> None:
    clips = (1.6 * draw(*shape, seed=seed) - 0.3).clamp(0, 1)
    offset = draw(*shape[:3], 1, 1, seed=seed + 1, low=-size, high=size)
    points = (clips + offset).clamp(0, 1)
    torch.testing.assert_close(norm_of("flicker").project(points, clips, size), points, rtol=0, atol=1e-6)
    measured = norm_of("flicker").distance(points, clips)
    assert (measured <= offset.abs().flatten(1).amax(1) + 1e-6).all()
    started = norm_of("flicker").random_start(clips, size, ClipRandom(range(shape[0])))
    assert (norm_of("flicker").distance(started, clips) <= size + 1e-6).all()


def test_flicker_distance_has_known_values() -> None:
    clips = torch.full((6, 3, 2, 2, 2), 0.5)
    clips[3:, 1, 1] = torch.tensor([[0.9, 0.2], [0.6, 0.3]])
    points = clips.clone()
    points[1, 0] += 0.1  # one offset per colour and frame
    points[1, 2, 1] -= 0.25
    points[2, 0, 0, 0, 0] += 0.1  # one pixel of a frame
    points[3, 1, 1] = torch.tensor([[1.0, 0.4], [0.8, 0.5]])  # 0.2, the brightest pixel saturated
    points[4, 1, 1] = 1.0  # at least 0.8
    points[5, 1, 1] = torch.tensor([[1.0, 0.25], [0.65, 0.35]])  # 0.05 does not bring 0.9 to 1
    found = norm_of("flicker").distance(points, clips).tolist()
    assert found == pytest.approx([0.0, 0.25, math.inf, 0.2, 0.8, math.inf], abs=1e-6)


def test_flicker_start_is_uniform_and_one_offset_per_colour_and_frame() -> None:
    clips = torch.full((100, 3, 4, 2, 3), 0.5)
    change = norm_of("flicker").random_start(clips, 0.1, ClipRandom(range(100))) - clips
    assert torch.equal(change, change[..., :1, :1].expand_as(change))
    values = change[..., 0, 0].flatten().double().numpy()
    assert stats.kstest(values, stats.uniform(-0.1, 0.2).cdf).pvalue > 0.01


@few
@given(shapes, seeds)
def test_flicker_step_is_the_steepest(shape: tuple[int, ...], seed: int) -> None:
    gradient = draw(*shape, seed=seed, low=-1)
    step = norm_of("flicker").direction(gradient).double().numpy()
    g = gradient.double().numpy()
    dual = np.abs(g.sum((3, 4))).sum((1, 2))
    np.testing.assert_allclose((g * step).sum((1, 2, 3, 4)), dual, rtol=1e-9)
    assert (np.abs(step) <= 1).all()
    assert np.array_equal(step, np.broadcast_to(step[..., :1, :1], step.shape))


@pytest.mark.parametrize("norm", ["linf", "l2", "one-frame", "flicker"])
def test_balls_are_drawn_and_projected_clip_by_clip(norm: str) -> None:
    clips, points = draw(3, 3, 4, 4, 4, seed=1), draw(3, 3, 4, 4, 4, seed=2, low=-1, high=2)
    sizes = torch.tensor([0.0, 0.05, 0.5])
    geometry = norm_of(norm)
    projected = geometry.project(points, clips, sizes)
    started = geometry.random_start(clips, sizes, ClipRandom([0, 1, 2]))
    for i, size in enumerate(sizes.tolist()):
        one = slice(i, i + 1)
        torch.testing.assert_close(projected[one], geometry.project(points[one], clips[one], size))
        torch.testing.assert_close(started[one], geometry.random_start(clips[one], size, ClipRandom([i])))
    assert torch.equal(projected[0], clips[0])
    assert torch.equal(started[0], clips[0])
    if norm != "l2":  # the cube cuts off where that ball ends
        largest = (projected[1:] - clips[1:]).flatten(1).abs().amax(1)
        assert largest.tolist() == pytest.approx([0.05, 0.5], abs=1e-6)
    assert geometry.direction(torch.zeros_like(clips)).count_nonzero() == 0


def test_unknown_norm_names_the_nearest() -> None:
    with pytest.raises(BenchError, match=r"did you mean 'linf'"):
        norm_of("lin")
    with pytest.raises(BenchError, match=r"did you mean 'one-frame'"):
        norm_of("oneframe")
    regions, ratios = {"rectangle", "border", "pixels", "framing"}, {"mult-linf", "mult-l2"}
    assert set(NORMS) == {"linf", "l2", "one-frame", "flicker"} | regions | ratios


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
        (Budget("one-frame", 16 / 255, 20), "one-frame 16/255, 20 steps"),
        (Budget("flicker", 20 / 255, 300), "flicker 20/255, 300 steps"),
        (Budget("flicker", 0.05, 300, 0.001), "flicker 0.05, 300 steps, step size 0.001"),
        (Budget("l2", 1.0), "l2 1, 10 steps"),
    ],
)
def test_budget_prints_its_ball_and_effort(budget: Budget, text: str) -> None:
    assert str(budget) == text


@few
@given(st.sampled_from(["linf", "one-frame", "flicker"]), st.integers(0, 255))
def test_printed_size_reads_back(name: str, numerator: int) -> None:
    norm, size = str(Budget(name, numerator / 255)).partition(",")[0].split(" ")
    assert (norm, parse_size(size)) == (name, numerator / 255)


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


@pytest.mark.parametrize("norm", ["linf", "flicker", "one-frame"])
@pytest.mark.parametrize("key", ["size", "step_size"])
def test_who_writes_8_is_asked_for_8_255(norm: str, key: str) -> None:
    """Clips are in [0, 1]: 8 would be 2040/255, and everything is lost under it."""
    for value in (8, "8", 1.5):
        with pytest.raises(BenchError, match=rf"{key} in {norm} is at most 1, .* \(did you mean [\d.]+/255\?\)"):
            Budget.parse({"norm": norm, "size": 0.5, key: value})
    with pytest.raises(BenchError, match="did you mean 8/255"):
        Budget(**{"norm": norm, "size": 0.5, key: 8.0})  # type: ignore[arg-type]
    with pytest.raises(BenchError, match=r"in \[0, 1\], not 300\.$"):
        Budget.parse({"norm": norm, key: 300})
    assert Budget.parse({"norm": norm, key: 1}).norm == norm


def test_one_size_too_large_in_a_batch_is_refused() -> None:
    with pytest.raises(BenchError, match="did you mean 8/255"):
        Budget("linf", torch.tensor([0.1, 8.0]))


@pytest.mark.parametrize("norm", ["l2", "mult-linf", "mult-l2", "rectangle", "border", "pixels", "framing"])
def test_other_norms_take_larger_sizes(norm: str) -> None:
    assert Budget.parse({"norm": norm, "size": 8}).size == 8


@pytest.mark.parametrize("norm", ["rectangle", "border", "pixels", "framing"])
def test_pixels_are_counted_in_whole_numbers_before_any_work(norm: str) -> None:
    for size in ("4/255", 2.5):
        with pytest.raises(BenchError, match=f"The size of a {norm} budget is a whole number of pixels"):
            Budget.parse({"norm": norm, "size": size})
    with pytest.raises(BenchError, match=r"whole number of pixels, not 1\.5"):
        Budget(norm, torch.tensor([1.0, 1.5]))


@pytest.mark.parametrize(
    ("key", "means"),
    [
        ("eps", "size"),
        ("epsilon", "size"),
        ("EPS", "size"),
        ("alpha", "step_size"),
        ("step-size", "step_size"),
        ("iters", "steps"),
        ("num_steps", "steps"),
        ("iterations", "steps"),
        ("n_restarts", "restarts"),
    ],
)
def test_other_libraries_words_are_understood(key: str, means: str) -> None:
    with pytest.raises(BenchError, match=f"did you mean '{means}'"):
        Budget.parse({key: 1})


@pytest.mark.parametrize(
    "text",
    [
        "1e999999999",
        "9" * 5000,
        "-" * 100_000 + "1",
        "4 2",
        "4/2/1",
        "1_000",
        "٤/٢٥٥",
        "4/0",
        "\0",
        "4/255\0",
        "",
        "nan",
    ],
)
def test_what_is_no_size_is_one_short_sentence(text: str) -> None:
    with pytest.raises(BenchError) as caught:
        parse_size(text)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [" 4/255 ", "4 / 255", "+4/255"])
def test_spaces_around_a_fraction_change_nothing(text: str) -> None:
    assert parse_size(text) == 4 / 255


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("linf 8/255", "A budget is a mapping"),
        ({"size": 10**5000}, "Cannot read the size <int too long to print>"),
        ({"size": True}, "Cannot read the size True"),
        ({"steps": True}, "steps must be a whole number"),
        ({"norm": 3}, "Unknown norm 3"),
    ],
)
def test_budgets_of_the_wrong_kind_are_one_sentence(settings: object, says: str) -> None:
    with pytest.raises(BenchError, match=says):
        Budget.parse(settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [{"size": "4/255"}, {"steps": "5"}, {"restarts": 1.5}, {"step_size": "1"}])
def test_budgets_made_directly_are_checked_too(given: dict[str, object]) -> None:
    with pytest.raises(BenchError, match="must be a"):
        Budget(**given)  # type: ignore[arg-type]


def test_every_budget_of_the_shipped_grids_is_accepted() -> None:
    for name in shipped_grids():
        grid = find_grid(name)
        for section in grid.attack_sections:
            assert budgets_of(grid, section)


def test_a_scaled_budget_stays_in_its_norm() -> None:
    assert Budget("linf", 0.3).scaled(2) == Budget("linf", 0.6)
    assert Budget("linf", 0.6).scaled(2).size == 1
    assert Budget("border", 3).scaled(0.5).size == 1
    assert Budget("l2", 700.0).scaled(2).size == 1400
