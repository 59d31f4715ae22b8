"""Procedural clips: pure functions of their index, with a flow that is right and looks that say nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench import BenchError
from bench.data.procedural import LOOKS, MOTIONS, RECIPES, TYPICAL, RenderedClip, render
from bench.registry import DATASETS


@pytest.mark.parametrize("recipe", RECIPES)
def test_fresh_clips_are_balanced_new_each_time_and_no_split_reaches_them(recipe: str) -> None:
    data = DATASETS.create(f"{recipe}(frames=4, size=16)")
    one, two = data.fresh(24, "one"), data.fresh(24, "two")
    assert data.fresh(24, "one") == one
    assert not {r.id for r in one} & {r.id for r in two}
    assert [r.label for r in one] == list(range(12)) * 2
    # 2^48 blocks of 12 clips lie before them: nobody has rendered those.
    assert all(int(r.id.rpartition("-")[2]) >= 12 * 2**48 for r in one)
    loaded = data.render(one[3])
    assert loaded.label == 3
    assert loaded.clip.shape == (3, 4, 16, 16)
    assert not torch.equal(loaded.clip, data.load(one[15]))


@pytest.fixture(scope="module")
def block() -> list[RenderedClip]:
    """One clip of each class."""
    return [render("test", i) for i in range(12)]


@pytest.fixture(scope="module")
def actions() -> list[RenderedClip]:
    """480 small clips of actions12."""
    return [render("train", i, frames=8, size=32, recipe="actions12") for i in range(480)]


@pytest.mark.parametrize(
    ("recipe", "split", "index", "shape", "expected", "area"),
    [
        ("motion12", "train", 7, {}, [0.53353, 0.16879, 0.45438, 0.47438, -0.1331, 0.19775], 18899),
        ("motion12", "val", 100, {}, [0.4252, 0.10506, 0.32555, 0.63441, 0.12856, 0.19003], 11233),
        (
            "motion12",
            "test",
            11,
            {"frames": 8, "size": 32},
            [0.51087, 0.1555, 0.3039, 0.59546, -0.06844, 0.51252],
            1381,
        ),
        ("actions12", "train", 7, {}, [0.55329, 0.21194, 0.49902, 0.43672, -0.10581, 0.19146], 16425),
        ("actions12", "val", 100, {}, [0.4223, 0.15887, 0.45747, 0.0503, 0.11982, 0.28199], 16748),
        (
            "actions12",
            "test",
            11,
            {"frames": 8, "size": 32},
            [0.43025, 0.14921, 0.35228, 0.64575, -0.07583, 0.54927],
            1845,
        ),
    ],
)
def test_clips_never_change(
    recipe: str, split: str, index: int, shape: dict[str, int], expected: list[float], area: int
) -> None:
    """Figures noted when the shipped weights were trained: they are worth nothing on other clips."""
    made = render(split, index, recipe=recipe, **shape)
    clip, flow = made.clip, made.flow
    found = [clip.mean(), clip.std(), clip[0, 0, 5, 9], clip[2, -1, 20, 30], flow[0].mean(), flow[1].abs().mean()]
    assert [float(v) for v in found] == pytest.approx(expected, abs=2e-5)
    assert int(made.mask.sum()) == pytest.approx(area, abs=2)


def test_shapes_and_ranges(block: list[RenderedClip]) -> None:
    for made in [*block, *(render("test", i, recipe="actions12") for i in range(12))]:
        assert made.clip.shape == (3, 16, 64, 64)
        assert made.clip.dtype == torch.float32
        assert 0 <= made.clip.min() < made.clip.max() <= 1
        assert made.flow.shape == (2, 15, 64, 64)
        assert made.flow.dtype == torch.float32
        assert torch.isfinite(made.flow).all()
        assert made.mask.shape == (16, 64, 64)
        assert made.mask.dtype == torch.bool
        assert 0.03 < float(made.mask.float().mean()) < 0.6


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(("frames", "size"), [(2, 16), (9, 33), (32, 48)])
def test_other_shapes(frames: int, size: int, recipe: str) -> None:
    made = render("train", 5, frames=frames, size=size, recipe=recipe)
    assert made.clip.shape == (3, frames, size, size)
    assert made.flow.shape == (2, frames - 1, size, size)
    assert made.mask.shape == (frames, size, size)
    assert made.mask.any()
    assert made.label == 5


def test_label_is_the_index_modulo_twelve() -> None:
    assert len(MOTIONS) == len(set(MOTIONS)) == 12
    assert [render("val", i, frames=2, size=16).label for i in (0, 1, 11, 12, 30, 1201)] == [0, 1, 11, 0, 6, 1]


@pytest.mark.parametrize("recipe", RECIPES)
def test_clips_are_deterministic_whatever_was_made_before(recipe: str) -> None:
    first = render("test", 17, frames=4, size=32, recipe=recipe)
    torch.manual_seed(3)
    np.random.seed(3)
    render("test", 16, frames=4, size=32, recipe=recipe)
    again = render("test", 17, frames=4, size=32, recipe=recipe)
    assert torch.equal(first.clip, again.clip)
    assert torch.equal(first.flow, again.flow)
    assert torch.equal(first.mask, again.mask)


def test_rendering_leaves_the_global_generators_alone() -> None:
    torch.manual_seed(0)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
    render("test", 0, frames=2, size=16)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()  # type: ignore[index]


def test_splits_and_indices_share_no_clip() -> None:
    clips = [
        render(s, i, frames=2, size=16, recipe=r).clip
        for r in RECIPES
        for s in ("train", "val", "test")
        for i in (0, 12, 24)
    ]
    for i, a in enumerate(clips):
        for b in clips[:i]:
            assert float((a - b).abs().mean()) > 0.02


def warp_back(frame: Tensor, flow: Tensor) -> Tensor:
    """Samples ``frame (3, H, W)`` at ``p + flow[p]``: frame t + 1 as seen from the pixels of frame t."""
    height, width = frame.shape[1:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    grid = torch.stack([2 * (x + flow[0]) / (width - 1) - 1, 2 * (y + flow[1]) / (height - 1) - 1], -1)
    return F.grid_sample(frame[None], grid[None].float(), padding_mode="border", align_corners=True)[0]


def mismatch(a: Tensor, b: Tensor, where: Tensor) -> float:
    """Mean difference on a mask after the best common gain, so that flicker does not count."""
    a, b = a[:, where].double(), b[:, where].double()
    return float((a - b * (a * b).sum() / (b * b).sum()).abs().mean())


def test_flow_warps_the_next_frame_onto_this_one(block: list[RenderedClip]) -> None:
    ratios = {}
    for made in block:
        warped = static = 0.0
        for t in range(0, 15, 2):
            # Frame borders and the soft edge of the sprite are not sprite: step back from both.
            core = -F.max_pool2d(-made.mask[t][None].float(), 5, 1, 2)[0] > 0
            core[:2] = core[-2:] = core[:, :2] = core[:, -2:] = False
            after = made.clip[:, t + 1]
            warped += mismatch(made.clip[:, t], warp_back(after, made.flow[:, t]), core)
            static += mismatch(made.clip[:, t], after, core)
        ratios[MOTIONS[made.label]] = warped / static
    assert np.mean(list(ratios.values())) < 0.6, ratios
    assert max(ratios.values()) < 0.9, ratios


def test_flow_of_the_background_is_the_drift(block: list[RenderedClip]) -> None:
    for made in block:
        outside = made.flow.permute(1, 2, 3, 0)[~made.mask[:-1]]
        assert (outside == outside[0]).all()
        assert outside[0].abs().max() <= 0.15 + 1e-6


@pytest.mark.parametrize(("name", "axis", "sign"), [("left", 0, -1), ("right", 0, 1), ("up", 1, -1), ("down", 1, 1)])
@pytest.mark.parametrize("round_", [0, 3])
def test_translations_move_their_way(name: str, axis: int, sign: int, round_: int) -> None:
    made = render("train", 12 * round_ + MOTIONS.index(name))
    inside = made.flow.permute(1, 2, 3, 0)[made.mask[:-1]]
    along, across = sign * inside[:, axis], inside[:, 1 - axis]
    assert along.min() >= 0.9 - 0.151
    assert along.max() <= 1.8 + 0.151
    assert across.abs().max() <= 0.151

    # The mask itself moves as the flow says: independent of how the flow was computed.
    def middle(t: int) -> float:
        return float(made.mask[t].nonzero().float().mean(0)[1 - axis])

    middle_frames = range(5, 11)  # the sprite is surely whole in mid-clip
    travelled = sign * (middle(middle_frames[-1]) - middle(middle_frames[0])) / 5
    assert travelled == pytest.approx(float(along.mean()), abs=0.15)


@pytest.mark.parametrize(
    ("name", "turn", "spread"),
    [("rotate_cw", 1, 0), ("rotate_ccw", -1, 0), ("grow", 0, 1), ("shrink", 0, -1)],
)
def test_rotations_turn_and_zooms_spread(name: str, turn: int, spread: int) -> None:
    """Fits ``flow = A p + b`` on the sprite: a turn is the antisymmetric part of A, a zoom its trace.

    On the screen y points down, so clockwise is from +x to +y: a positive turn.
    """
    made = render("train", 24 + MOTIONS.index(name))
    y, x = made.mask[7].nonzero().double().T
    design = torch.stack([x, y, torch.ones_like(x)], 1)
    flow = made.flow[:, 7][:, made.mask[7]].double().T
    (a, b, _), (c, d, _) = torch.linalg.lstsq(design, flow).solution.T.tolist()
    measured = ((c - b) / 2, (a + d) / 2)
    # Sines of 0.10..0.18 rad per frame, and rates of 0.035..0.065 per frame.
    for value, sign, low, high in ((measured[0], turn, 0.099, 0.18), (measured[1], spread, 0.034, 0.068)):
        if sign:
            assert low <= sign * value <= high
        else:  # a turn by a alone leaves cos(a) - 1 on the diagonal
            assert abs(value) < 0.02


@pytest.mark.parametrize(("name", "sign"), [("orbit_cw", 1), ("orbit_ccw", -1)])
def test_orbits_circle_their_way(name: str, sign: int) -> None:
    made = render("train", MOTIONS.index(name))
    flow = torch.stack([made.flow[:, t][:, made.mask[t]].mean(1) for t in range(15)])
    cross = flow[:-1, 0] * flow[1:, 1] - flow[:-1, 1] * flow[1:, 0]  # velocity turns cw: x towards y
    assert (sign * cross > 0).all()


@pytest.mark.parametrize(("name", "axis"), [("oscillate_h", 0), ("oscillate_v", 1)])
def test_oscillations_turn_back_along_their_axis(name: str, axis: int) -> None:
    made = render("train", MOTIONS.index(name))
    flow = torch.stack([made.flow[:, t][:, made.mask[t]].mean(1) for t in range(15)])
    assert flow[:, axis].min() < -0.5
    assert flow[:, axis].max() > 0.5
    assert flow[:, 1 - axis].abs().max() <= 0.151


def nearest_mean_accuracy(features: np.ndarray, labels: np.ndarray, half: int) -> float:
    """Trains class means on the first half, tests on the second."""
    spread = features[:half].std(0) + 1e-9
    means = np.stack([features[:half][labels[:half] == k].mean(0) for k in range(12)]) / spread
    distance = ((features[half:, None] / spread - means) ** 2).sum(-1)
    return float((distance.argmin(1) == labels[half:]).mean())


def test_looks_say_nothing_about_the_class_and_motion_does() -> None:
    made = [render("train", i, frames=8, size=32) for i in range(480)]
    labels = np.array([m.label for m in made])
    colours, areas, motion = [], [], []
    for m in made:
        # Mean and spread of each colour, averaged over time, and the area of the sprite in mid-clip.
        values = m.clip.permute(1, 0, 2, 3).flatten(2)
        colours.append(torch.cat([values.mean(2), values.std(2)], 1).mean(0).numpy())
        areas.append(m.mask[3:5].float().mean()[None].numpy())
        motion.append(m.flow[:, m.mask[:-1]].mean(1).numpy())
    # Chance is 1/12; the standard deviation of the score of 240 guesses is 0.018.
    for looks in (colours, areas):
        assert nearest_mean_accuracy(np.stack(looks), labels, 240) < 1 / 12 + 0.05
    # The same classifier finds the four translations, at the least, from the mean flow.
    assert nearest_mean_accuracy(np.stack(motion), labels, 240) > 1 / 3


def looks_of(made: RenderedClip) -> np.ndarray:
    """What a single frame shows: mean colour of sprite and background, and the background's spatial spectrum."""
    frame, mask = made.clip[:, 4], made.mask[4]
    ground = torch.where(mask, frame[:, ~mask].mean(1)[:, None, None].expand_as(frame), frame)
    spectrum = torch.fft.rfft2(ground.mean(0) - ground.mean()).abs()[:8, :8].flatten() ** 0.5
    return torch.cat([4 * frame[:, mask].mean(1), 8 * frame[:, ~mask].mean(1), 0.1 * spectrum]).numpy()


def test_looks_of_actions12_mostly_betray_the_class(actions: list[RenderedClip]) -> None:
    labels = np.array([m.label for m in actions])
    accuracy = nearest_mean_accuracy(np.stack([looks_of(m) for m in actions]), labels, 240)
    # Far above chance (1 in 12), never better than the share of typical clips, give or take three standard deviations
    # of 240 draws.
    assert 0.55 < accuracy < TYPICAL + 3 * (TYPICAL * (1 - TYPICAL) / 240) ** 0.5


def test_no_two_classes_of_actions12_look_alike() -> None:
    assert len(set(LOOKS)) == 12
    for a, b in zip(LOOKS[::2], LOOKS[1::2], strict=True):  # opposite motions
        assert a.lobes != b.lobes
        assert abs(np.angle(np.exp(1j * (a.hue - b.hue)))) > np.pi / 2


def test_actions12_moves_like_motion12(actions: list[RenderedClip]) -> None:
    """Translations go their way at their speed, whatever the clip looks like."""
    for name, axis, sign in (("left", 0, -1), ("right", 0, 1), ("up", 1, -1), ("down", 1, 1)):
        for made in actions[MOTIONS.index(name) :: 12]:
            along = torch.stack([sign * made.flow[axis, t][made.mask[t]].mean() for t in range(7)])
            # Half of 64 pixels in half of 16 frames: the same pixels per frame.
            assert along.min() > 0.9 - 0.151
            assert along.max() < 1.8 + 0.151


def test_flow_of_actions12_warps_the_next_frame_onto_this_one() -> None:
    for index in (0, 2, 6, 10):
        made = render("test", index, recipe="actions12")
        core = -F.max_pool2d(-made.mask[7][None].float(), 5, 1, 2)[0] > 0
        core[:2] = core[-2:] = core[:, :2] = core[:, -2:] = False
        after = made.clip[:, 8]
        warped = mismatch(made.clip[:, 7], warp_back(after, made.flow[:, 7]), core)
        assert warped < 0.9 * mismatch(made.clip[:, 7], after, core), MOTIONS[made.label]


@pytest.mark.parametrize(
    ("split", "index", "shape", "message"),
    [
        ("training", 0, {}, "Unknown split 'training': choose one of train"),
        ("test", -1, {}, "Cannot render clip -1"),
        ("test", 0, {"frames": 1}, "with 1 frames of 64 pixels"),
        ("test", 0, {"size": 15}, "with 16 frames of 15 pixels"),
        ("test", 0, {"recipe": "action12"}, "did you mean 'actions12'"),
    ],
)
def test_impossible_clips_are_refused(split: str, index: int, shape: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        render(split, index, **shape)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"split": "tset"}, r"Unknown split 'tset' \(did you mean 'test'\?\)"),
        ({"length": "abc"}, "length must be a whole number of at least 1, not 'abc'"),
        ({"length": 0}, "length must be a whole number of at least 1, not 0"),
        ({"size": 8}, "size must be a whole number of at least 16, not 8"),
        ({"frames": 1}, "frames must be a whole number of at least 2, not 1"),
        ({"frames": 2.5}, "frames must be a whole number"),
        ({"frames": True}, "frames must be a whole number"),
    ],
)
def test_impossible_data_sets_are_refused_when_they_are_made(
    name: str, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(BenchError, match=message):
        DATASETS.create({"name": name, **parameters})


@pytest.mark.parametrize("recipe", RECIPES)
def test_data_set_lists_and_loads_the_same_clips(recipe: str) -> None:
    data = DATASETS.create(f"{recipe}(split='val', frames=4, size=16, length=25)")
    refs = data.refs()
    assert len(refs) == 25
    assert len({r.id for r in refs}) == 25
    assert [r.label for r in refs] == [i % 12 for i in range(25)]
    assert list(data.classes) == list(MOTIONS)
    made = render("val", 13, frames=4, size=16, recipe=recipe)
    assert torch.equal(data.load(refs[13]), made.clip)
    assert torch.equal(data.render(refs[13]).flow, made.flow)
    assert refs[13].label == made.label
