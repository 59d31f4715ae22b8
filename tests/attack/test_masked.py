"""ROA, AF, SPA and MultAV against classifiers whose best rectangle, border and factors are known."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.climbs import run_on
from kit.draws import draw
from kit.networks import Two
from torch import Tensor, nn

from bench import AttackResult, BenchError, Budget, ClipRandom, Target
from bench.attacks.af import AdversarialFraming
from bench.attacks.multav import MultAV
from bench.attacks.roa import RectangularOcclusion
from bench.attacks.spa import SaltAndPepper
from bench.registry import ATTACKS, Spec
from bench.run.judge import violation

few = settings(max_examples=20, deadline=None, derandomize=True, database=None)
T, H, W = 2, 7, 8
SHAPE = (3, T, H, W)
MASKED = {"roa": "rectangle", "af": "border", "spa": "pixels"}


def unbreakable(seed: int = 5) -> Two:
    """Class 0 wherever the clip is, with a loss that does not saturate."""
    return Two(draw(*SHAPE, seed=seed, low=-0.02, high=0.02), -1000.0)


def attack(made: Any, model: nn.Module | Target, clips: Tensor, budget: Budget) -> AttackResult:
    found: AttackResult = made(
        model, clips, torch.zeros(len(clips), dtype=torch.int64), budget, ClipRandom(range(len(clips)))
    )
    return found


def changed(clips: Tensor, found: Tensor) -> np.ndarray:
    """``bool (B, T, H, W)``."""
    result: np.ndarray = (clips != found).any(1).numpy()
    return result


def boxes(change: np.ndarray) -> set[tuple[int, int, int, int]]:
    """Upper left corner, height and width of what changed in each frame ``(T, H, W)``."""
    found = set()
    for frame in change:
        y, x = np.nonzero(frame)
        found.add((int(y.min()), int(x.min()), int(np.ptp(y)) + 1, int(np.ptp(x)) + 1))
    return found


@pytest.mark.parametrize("name", MASKED)
def test_on_a_linear_classifier_every_free_value_goes_to_its_end(name: str) -> None:
    model, clips = unbreakable(), draw(3, *SHAPE, seed=1, low=0.1, high=0.9)
    budget = Budget(MASKED[name], 2.0, 5)
    found = attack(ATTACKS.create(Spec(name, {"loss": "margin"})), model, clips, budget).clips
    mask = torch.from_numpy(changed(clips, found))[:, None].expand_as(clips)
    expected = torch.where(mask, (model.weight > 0).float().expand_as(clips), clips)
    # Four steps and a bit of 70/255 lead from grey to an end; from the original or from black it takes all five.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("norm", "size", "per_frame"), [("rectangle", 3, 9), ("border", 2, H * W - 3 * 4), ("pixels", 5, 5)]
)
def test_as_many_pixels_are_repainted_as_the_budget_says(norm: str, size: int, per_frame: int) -> None:
    name = {v: k for k, v in MASKED.items()}[norm]
    clips = draw(4, *SHAPE, seed=2, low=0.1, high=0.9)
    made = ATTACKS.create(Spec(name, {"loss": "margin"}))
    counts = changed(clips, attack(made, unbreakable(), clips, Budget(norm, float(size), 5)).clips).sum((2, 3))
    if norm == "pixels":  # drawn with replacement
        assert counts.max() == per_frame
        assert counts.min() >= 3
    else:
        assert (counts == per_frame).all()


@pytest.mark.parametrize(("start", "value"), [("original", None), ("grey", 0.5), ("random", None)])
def test_the_first_pass_of_af_already_sees_the_border_alone(start: Any, value: float | None) -> None:
    seen = []

    class Watching(Two):
        def forward(self, clips: Tensor) -> Tensor:
            seen.append(clips.detach().clone())
            return super().forward(clips)

    clips = draw(1, *SHAPE, seed=3)
    attack(AdversarialFraming(start=start), Watching(torch.zeros(SHAPE), -1.0), clips, Budget("border", 2.0, 1))
    inside = slice(2, -2)
    assert torch.equal(seen[0][..., inside, inside], clips[..., inside, inside])
    border = torch.ones(H, W, dtype=torch.bool)
    border[inside, inside] = False
    if start == "original":
        assert torch.equal(seen[0], clips)
    elif value is not None:
        assert (seen[0][..., border] == value).all()
    else:
        assert not torch.equal(seen[0][..., border], clips[..., border])


def test_roa_and_spa_start_grey_and_black() -> None:
    clips = draw(1, *SHAPE, seed=3, low=0.6, high=0.9)
    flat = Two(torch.zeros(SHAPE), -1.0)  # no gradient: what was painted first stays
    grey = attack(RectangularOcclusion(), flat, clips, Budget("rectangle", 3.0, 2)).clips
    black = attack(SaltAndPepper(), flat, clips, Budget("pixels", 3.0, 2)).clips
    for found, value in ((grey, 0.5), (black, 0.0)):
        mask = torch.from_numpy(changed(clips, found))[:, None].expand_as(clips)
        assert mask.any()
        assert (found[mask] == value).all()


def test_fixed_rectangles_are_the_same_in_all_frames_and_random_ones_are_not() -> None:
    clips = draw(8, *SHAPE, seed=4, low=0.1, high=0.9)
    budget = Budget("rectangle", 3.0, 1)
    fixed = changed(clips, attack(RectangularOcclusion("fixed"), unbreakable(), clips, budget).clips)
    loose = changed(clips, attack(RectangularOcclusion(), unbreakable(), clips, budget).clips)
    assert [len(boxes(c)) for c in fixed] == [1] * 8
    assert sum(len(boxes(c)) for c in loose) > 12


def grey_worth(model: Two, clip: Tensor, size: tuple[int, int], stride: int) -> dict[tuple[int, int], float]:
    """Loss of the clip with each box painted grey in all frames, computed place by place."""
    rows, columns = (
        sorted({*range(0, length - side + 1, stride), length - side}) for length, side in zip((H, W), size, strict=True)
    )
    worth = {}
    for y, x in itertools.product(rows, columns):
        painted = clip.clone()
        painted[..., y : y + size[0], x : x + size[1]] = 0.5
        score = float((painted.double() * model.weight.double()).sum()) + model.lead
        worth[y, x] = math.log1p(math.exp(score))  # cross-entropy of class 0
    return worth


@pytest.mark.parametrize("aspect", [1.0, 2.0, 0.5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_exhaustive_finds_the_best_of_all_places(stride: int, aspect: float) -> None:
    model, clips = Two(draw(*SHAPE, seed=6, low=-0.1, high=0.1), 0.0), draw(4, *SHAPE, seed=7)
    made = RectangularOcclusion("exhaustive", stride, frame_size=(H, W), aspect=aspect)
    size = made.sides(4)
    assert size == {1.0: (4, 4), 2.0: (4, 2), 0.5: (2, 4)}[aspect]
    masks = made.choose(run_on(model, clips, Budget("rectangle", 4.0)), 1)[0]
    for clip, mask in zip(clips, masks, strict=True):
        worth = grey_worth(model, clip, size, stride)
        best = max(worth, key=lambda place: worth[place])
        assert boxes(mask[0].numpy()) == {(*best, *size)}


def test_gradient_takes_the_best_grey_box_of_those_that_hold_most_gradient() -> None:
    model, clips = Two(draw(*SHAPE, seed=8, low=-0.1, high=0.1), 0.0), draw(3, *SHAPE, seed=9)
    held = model.weight.double().square().sum((0, 1)).numpy()  # the gradient of a linear score, up to a factor
    energy = {(y, x): held[y : y + 3, x : x + 3].sum() for y, x in itertools.product(range(H - 2), range(W - 2))}
    for candidates in (1, 4):
        made = RectangularOcclusion("gradient", 1, candidates)
        masks = made.choose(run_on(model, clips, Budget("rectangle", 3.0)), 1)[0]
        kept = sorted(energy, key=lambda place: -energy[place])[:candidates]
        for clip, mask in zip(clips, masks, strict=True):
            worth = grey_worth(model, clip, (3, 3), 1)
            assert boxes(mask[0].numpy()) == {(*max(kept, key=lambda place: worth[place]), 3, 3)}


def test_gradient_per_frame_takes_the_box_that_holds_most_in_each_frame() -> None:
    model, clips = Two(draw(*SHAPE, seed=8, low=-0.1, high=0.1), 0.0), draw(1, *SHAPE, seed=9)
    mask = RectangularOcclusion("gradient-per-frame", 1).choose(run_on(model, clips, Budget("rectangle", 3.0)), 1)[0]
    for t in range(T):
        held = model.weight[:, t].double().square().sum(0).numpy()
        energy = {(y, x): held[y : y + 3, x : x + 3].sum() for y, x in itertools.product(range(H - 2), range(W - 2))}
        assert boxes(mask[0, :, t].numpy()) == {(*max(energy, key=lambda place: energy[place]), 3, 3)}


def test_where_the_places_say_nothing_one_is_drawn() -> None:
    flat, clips = Two(torch.zeros(SHAPE), 0.0), draw(12, *SHAPE, seed=1)
    masks = RectangularOcclusion("exhaustive", 1, frame_size=(H, W)).choose(
        run_on(flat, clips, Budget("rectangle", 3.0)), 1
    )[0]
    assert len({place for mask in masks for place in boxes(mask[0].numpy())}) > 6


def test_spa_by_gradient_takes_the_steepest_pixels() -> None:
    model, clips = unbreakable(), draw(1, *SHAPE, seed=2, low=0.1, high=0.9)
    found = changed(clips, attack(SaltAndPepper("gradient", "margin"), model, clips, Budget("pixels", 4.0, 5)).clips)[0]
    energy = model.weight.double().square().sum(0).flatten(1)
    for frame, values in zip(found, energy, strict=True):
        steepest = set(values.topk(4).indices.tolist())
        assert set(np.flatnonzero(frame)) <= steepest  # a black pixel whose weight is negative may stay black


def test_restarts_of_a_search_take_the_next_best_places() -> None:
    model, clips = Two(draw(*SHAPE, seed=8, low=-0.1, high=0.1), 0.0), draw(2, *SHAPE, seed=9)
    run = run_on(model, clips, Budget("rectangle", 3.0))
    masks = RectangularOcclusion("exhaustive", 1, frame_size=(H, W)).choose(run, 4)
    for i, clip in enumerate(clips):
        worth = grey_worth(model, clip, (3, 3), 1)
        for place, mask in zip(sorted(worth, key=lambda at: -worth[at]), masks, strict=False):
            assert boxes(mask[i, 0].numpy()) == {(*place, 3, 3)}
    per_frame = RectangularOcclusion("gradient-per-frame", 1).choose(run, 3)
    for t in range(T):
        held = model.weight[:, t].double().square().sum(0).numpy()
        energy = {(y, x): held[y : y + 3, x : x + 3].sum() for y, x in itertools.product(range(H - 2), range(W - 2))}
        for place, mask in zip(sorted(energy, key=lambda at: -energy[at]), per_frame, strict=False):
            assert boxes(mask[0, :, t].numpy()) == {(*place, 3, 3)}


@pytest.mark.parametrize("scale", [1.0, 1e-25])
def test_restarts_of_spa_by_gradient_draw_among_the_steep_pixels(scale: float) -> None:
    """The first takes the steepest; later ones prefer them. Gradients count whose squares single precision loses."""
    weight = scale * draw(*SHAPE, seed=5, low=-0.1, high=0.1)
    weight[:, :, :4] /= 100
    model, clips = Two(weight, 0.0), draw(1, *SHAPE, seed=2)
    first, *others = SaltAndPepper("gradient", "margin").choose(run_on(model, clips, Budget("pixels", 4.0)), 4)
    energy = (weight.double() / scale).square().sum(0)
    for t in range(T):
        steepest = energy[t].flatten().topk(4).indices.tolist()
        assert set(np.flatnonzero(first[0, 0, t].numpy())) == set(steepest)
    assert len({tuple(mask.flatten().tolist()) for mask in (first, *others)}) == 4
    for mask in others:
        assert mask.sum((1, 3, 4)).tolist() == [[4] * T]
        assert not bool(mask[:, :, :, :4].any())  # ten thousand times flatter


def test_multav_reaches_the_bound_of_every_ratio() -> None:
    model, clips = unbreakable(), draw(2, *SHAPE, seed=1, low=0.1, high=0.9)
    clips[:, :, :, 0] = 0.0
    found = attack(MultAV("margin"), model, clips, Budget("mult-linf", 0.04, 5)).clips
    factor = torch.where(model.weight > 0, 1.04, 1 / 1.04)
    torch.testing.assert_close(found, (clips * factor).clamp(0, 1), rtol=1e-5, atol=1e-7)


def test_a_step_of_multav_is_a_factor_of_1_01() -> None:
    model, clips = unbreakable(), draw(1, *SHAPE, seed=1, low=0.1, high=0.9)
    one = attack(MultAV("margin"), model, clips, Budget("mult-linf", 0.04, 1)).clips
    torch.testing.assert_close(one, clips * torch.where(model.weight > 0, 1.01, 1 / 1.01), rtol=1e-6, atol=0)
    other = attack(MultAV("margin"), model, clips, Budget("mult-linf", 0.04, 1, 0.02)).clips
    torch.testing.assert_close(other, clips * torch.where(model.weight > 0, 1.02, 1 / 1.02), rtol=1e-6, atol=0)


def test_multav_l2_multiplies_along_the_gradient_up_to_the_radius() -> None:
    model, clips = unbreakable(), draw(1, *SHAPE, seed=1, low=0.3, high=0.5)
    found = attack(MultAV("margin"), model, clips, Budget("mult-l2", 0.5, 20)).clips
    unit = model.weight.double() / model.weight.double().norm()
    # Every step is along the same gradient, the classifier being linear: the way is straight in the logarithms.
    torch.testing.assert_close(found.double(), clips.double() * (0.5 * unit).exp(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("norm", ["rectangle", "border", "pixels"])
def test_regional_multav_multiplies_in_the_region_alone(norm: str) -> None:
    model, clips = unbreakable(), draw(3, *SHAPE, seed=1, low=0.2, high=0.9)
    clips[:, :, :, :2] = 0.0
    budget = Budget(norm, 3.0, 1)
    found = attack(MultAV("margin"), model, clips, budget).clips
    begun = torch.full_like(clips, 0.5) if norm == "rectangle" else clips.clamp_min(1 / 255)
    factor = torch.where(model.weight > 0, 1.3, 1 / 1.3).expand_as(clips)
    mask = torch.from_numpy(changed(clips, found))[:, None].expand_as(clips)
    torch.testing.assert_close(found[mask], (begun * factor).clamp(0, 1)[mask], rtol=1e-5, atol=1e-7)
    for clean, adversarial in zip(clips, found, strict=True):
        assert violation(clean, adversarial, budget) is None


@few
@given(
    st.sampled_from(["roa", "af", "spa", "multav-rectangle", "multav-border", "multav-pixels", "multav-mult-linf"]),
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(5, 9), st.integers(5, 9)),
    st.integers(0, 2),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(1, 2),
)
def test_budgets_hold_for_any_shape_size_and_precision(
    name: str, shape: tuple[int, int, int, int], size: int, dtype: torch.dtype, restarts: int
) -> None:
    batch, frames, height, width = shape
    clips = draw(batch, 3, frames, height, width, seed=size).to(dtype)
    name, _, norm = name.partition("-")
    budget = Budget(norm or MASKED[name], float(size), 3, restarts=restarts)
    model = Two(draw(3, frames, height, width, seed=9, low=-1, high=1), 0.3)
    found = attack(ATTACKS.create(name), model, clips, budget).clips
    assert found.dtype == dtype
    for clean, adversarial in zip(clips, found, strict=True):
        assert violation(clean, adversarial, budget) is None


@pytest.mark.parametrize(
    "made",
    [
        RectangularOcclusion(),
        RectangularOcclusion("fixed"),
        RectangularOcclusion("gradient", 2, 3),
        RectangularOcclusion("gradient-per-frame"),
        RectangularOcclusion("exhaustive", 2, frame_size=(H, W)),
        SaltAndPepper(),
        SaltAndPepper("gradient"),
        AdversarialFraming(),
        MultAV(),
    ],
)
def test_passes_are_as_planned(made: Any) -> None:
    budget = Budget(made.norms[0], 0.04 if isinstance(made, MultAV) else 2.0, 3, restarts=2)
    target = Target.of(unbreakable(), 2)
    attack(made, target, draw(2, *SHAPE, seed=1), budget)
    planned = made.passes(budget)
    # The last iterate of the last restart is left to the judge.
    assert (target.forwards + 1).tolist() == [planned[0]] * 2
    assert target.backwards.tolist() == [planned[1]] * 2


def test_one_clip_does_not_depend_on_the_others() -> None:
    model, clips = Two(draw(*SHAPE, seed=6, low=-0.1, high=0.1), -0.5), draw(4, *SHAPE, seed=7)
    for name, norm in MASKED.items():
        made = ATTACKS.create(name)
        labels, budget = torch.zeros(4, dtype=torch.int64), Budget(norm, 2.0, 4, restarts=2)
        together = made(model, clips, labels, budget, ClipRandom(range(4))).clips
        alone = made(model, clips[2:3], labels[:1], budget, ClipRandom([2])).clips
        assert torch.equal(together[2:3], alone)


def test_another_restart_looks_elsewhere() -> None:
    """A rectangle that cannot reach the one place that matters fails; of 40 restarts one finds it."""
    weight = torch.zeros(SHAPE)
    weight[:, :, 3, 3] = 1.0
    clips = torch.zeros(1, *SHAPE)
    model = Two(weight, -5.5)  # all six values must be near 1
    once = attack(RectangularOcclusion(), model, clips, Budget("rectangle", 3.0, 5)).clips
    often = attack(RectangularOcclusion(), model, clips, Budget("rectangle", 3.0, 5, restarts=40)).clips
    assert model(once).argmax(1).tolist() == [0]
    assert model(often).argmax(1).tolist() == [1]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"name": "roa", "location": "centre"}, "location must be one of"),
        ({"name": "roa", "aspect": 0}, "aspect must be positive"),
        ({"name": "roa", "frame_size": [64]}, "frame_size must be height and width"),
        ({"name": "spa", "location": "centre"}, "location must be random or gradient"),
        ({"name": "af", "start": "white"}, "start must be original, grey or random"),
    ],
)
def test_bad_parameters(spec: dict[str, Any], says: str) -> None:
    with pytest.raises(BenchError, match=says):
        ATTACKS.create(spec)


def test_bad_budgets() -> None:
    clips, model = draw(1, *SHAPE), unbreakable()
    with pytest.raises(BenchError, match="takes rectangle budgets, not linf"):
        attack(RectangularOcclusion(), model, clips, Budget())
    with pytest.raises(BenchError, match="larger than the frames, 7 x 8"):
        attack(RectangularOcclusion(), model, clips, Budget("rectangle", 30.0))
    with pytest.raises(BenchError, match=r"say frame_size=\[7, 8\]"):
        attack(RectangularOcclusion("exhaustive"), model, clips, Budget("rectangle", 2.0))
