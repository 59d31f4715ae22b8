"""The flow network: its parts on problems with known answers, and the shipped weights on analytic flow."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench import BenchError
from bench.data.procedural import render
from bench.flow.base import endpoint_error
from bench.flow.estimators import load_flow
from bench.flow.tiny import TinyFlow, correlation, displacements, upsample_convex


def smooth(batch: int, height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, 8, 8, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)


def test_correlation_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.rand(2, 2, 5, 6, 7, generator=generator)
    found = correlation(first, second, 2)
    assert found.shape == (2, 25, 6, 7)
    places = displacements(2)
    for k in (0, 3, 12, 19, 24):
        dx, dy = (int(p) for p in places[:, k])
        for y, x in ((0, 0), (3, 4), (5, 6)):
            inside = 0 <= y + dy < 6 and 0 <= x + dx < 7
            expected = (first[:, :, y, x] * second[:, :, y + dy, x + dx]).sum(1) if inside else torch.zeros(2)
            torch.testing.assert_close(found[:, k, y, x], expected)


def test_convex_upsampling_keeps_a_constant_and_doubles_its_units() -> None:
    flow = torch.tensor([1.5, -0.5]).view(1, 2, 1, 1).expand(1, 2, 3, 4)
    mask = torch.randn(1, 36, 3, 4, generator=torch.Generator().manual_seed(0))
    found = upsample_convex(flow, mask)
    torch.testing.assert_close(found, 2 * flow[..., :1, :1].expand(1, 2, 6, 8))


def test_convex_upsampling_can_pick_a_neighbour() -> None:
    """A mask that favours neighbour 5 of 9, the right-hand one, for the fine pixel at row 1, column 0."""
    flow = torch.arange(8.0).view(1, 2, 2, 2)
    mask = torch.zeros(1, 9, 4, 2, 2)
    mask[:, 5, 2] = 50.0
    found = upsample_convex(flow, mask.flatten(1, 2))
    torch.testing.assert_close(found[0, 0, 1, 0], 2 * flow[0, 0, 0, 1])
    torch.testing.assert_close(found[0, 1, 3, 0], 2 * flow[0, 1, 1, 1])


def test_clip_flow_is_pairwise_flow_with_each_frame_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    net = TinyFlow().eval()
    clips = torch.stack([smooth(5, 32, 24, seed) for seed in range(2)]).transpose(1, 2)
    encoded: list[int] = []
    features = net.features
    monkeypatch.setattr(net, "features", lambda frames: (encoded.append(len(frames)), features(frames))[1])
    together = net.clip_flow(clips)
    assert encoded == [10]
    assert together.shape == (2, 2, 4, 32, 24)
    for t in range(4):
        pair = net(clips[:, :, t], clips[:, :, t + 1])
        torch.testing.assert_close(together[:, :, t], pair, rtol=1e-4, atol=1e-5)


def test_any_frame_size() -> None:
    assert TinyFlow()(smooth(1, 33, 46), smooth(1, 33, 46, 1)).shape == (1, 2, 33, 46)


def test_bad_input_is_refused() -> None:
    net = TinyFlow()
    with pytest.raises(BenchError, match="of one shape"):
        net(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 20))
    with pytest.raises(BenchError, match="at least two frames"):
        net.clip_flow(torch.rand(1, 3, 1, 16, 16))
    with pytest.raises(BenchError, match=r"no flow estimator 'tinny' \(did you mean 'tiny'\?\)"):
        load_flow("tinny")


@pytest.mark.parametrize("recipe", ["motion12", "actions12"])
def test_shipped_flow_is_four_times_better_than_none(recipe: str) -> None:
    """On the sprite; over the whole frame, where most pixels hardly move, two and a half times."""
    net = load_flow("tiny")
    sums = torch.zeros(2, 2)
    for index in range(2000, 2012):  # beyond the clips of the manifest's own figures
        clip = render("test", index, recipe=recipe)
        found, truth, moving = net.clip_flow(clip.clip[None]), clip.flow[None], clip.mask[None, :-1]
        error, zero = endpoint_error(found, truth), truth.norm(dim=1)
        for row, where in enumerate((moving, torch.ones_like(moving))):
            sums[row] += torch.stack([error[where].sum(), zero[where].sum()])
    assert sums[0, 0] < sums[0, 1] / 4
    assert sums[1, 0] < sums[1, 1] / 2.5


def test_flow_is_differentiable_with_respect_to_both_frames() -> None:
    """Against finite differences along a random direction, in double precision."""
    net = load_flow("tiny").double()
    clip = render("test", 0).clip[None, :, 3:5, 16:48, 16:48].double()
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1, 2, 1, 32, 32, generator=generator, dtype=torch.float64)
    for frame in (0, 1):
        direction = torch.zeros_like(clip)
        direction[:, :, frame] = torch.randn(1, 3, 32, 32, generator=generator, dtype=torch.float64)
        x = clip.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad((net.clip_flow(x) * weight).sum(), x)
        step = 1e-6
        up, down = ((net.clip_flow(clip + s * step * direction) * weight).sum() for s in (1, -1))
        assert float((gradient * direction).sum()) == pytest.approx(float((up - down) / (2 * step)), rel=1e-3)
