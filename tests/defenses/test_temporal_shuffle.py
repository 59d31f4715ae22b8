"""The temporal shuffle: gathers done by hand, and draws that are counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.pictures import scene
from torch import Tensor, nn

from bench import BenchError, ClipRandom, DefendedClassifier
from bench.defenses.temporal_shuffle import TemporalShuffle
from bench.registry import DEFENSES

few = settings(max_examples=30, deadline=None, derandomize=True, database=None)


@few
@given(st.integers(1, 20), st.integers(0, 9), st.integers(0, 1000))
def test_window_shuffle_permutes_inside_each_window(frames: int, window: int, seed: int) -> None:
    order = TemporalShuffle(window=window).order(frames, ClipRandom([seed, seed + 1]))
    assert order.shape == (2, frames)
    size = window or frames
    for row in order.tolist():
        for start in range(0, frames, size):
            inside = range(start, min(start + size, frames))
            assert sorted(row[start : start + size]) == list(inside)


def test_window_shuffle_draws_every_order_equally_often() -> None:
    order = TemporalShuffle(window=3).order(3, ClipRandom(range(3000)))
    counts = torch.unique(order, dim=0, return_counts=True)[1]
    assert len(counts) == 6
    assert counts.min() > 400  # 500 expected, standard deviation 20
    assert counts.max() < 600


def is_chunked(order: list[int], reach: int, length: int) -> bool:
    """Whether the rule of ``chunks`` can make this order: tried run by run, from the definition."""
    frames, at = len(order), 0
    while at < frames:
        start = order[at]
        if start - at == 0 or abs(start - at) > reach or not 0 <= start < frames:
            return False
        # `length` frames are copied, fewer only where the source or the clip ends.
        count = min(length, frames - start, frames - at)
        if order[at : at + count] != list(range(start, start + count)):
            return False
        at += count
    return True


@few
@given(st.integers(2, 24), st.integers(1, 4), st.integers(1, 6), st.integers(0, 1000))
def test_chunks_shuffle_copies_runs_from_nearby(frames: int, reach: int, length: int, seed: int) -> None:
    shuffle = TemporalShuffle("chunks", reach=reach, length=length)
    for row in shuffle.order(frames, ClipRandom(range(seed, seed + 4))).tolist():
        assert len(row) == frames
        assert is_chunked(row, reach, length), row
    assert not is_chunked(list(range(frames)), reach, length)


def test_chunks_shuffle_draws_each_offset_equally_often() -> None:
    order = TemporalShuffle("chunks").order(16, ClipRandom(range(2000)))
    # The first start has only +1 and +2 inside the clip; the second, at frame 4, has all four offsets.
    first = order[:, 0].bincount(minlength=16)
    second = order[:, 4].bincount(minlength=16)
    assert first.nonzero().flatten().tolist() == [1, 2]
    assert second.nonzero().flatten().tolist() == [2, 3, 5, 6]
    assert (first[[1, 2]] - 1000).abs().max() < 100
    assert (second[[2, 3, 5, 6]] - 500).abs().max() < 90


def test_single_frame_survives_a_chunks_shuffle() -> None:
    assert TemporalShuffle("chunks").order(1, ClipRandom([0])).tolist() == [[0]]


@pytest.mark.parametrize("shuffle", [TemporalShuffle(window=0), TemporalShuffle("chunks")])
def test_shuffle_order_belongs_to_the_clip(shuffle: TemporalShuffle) -> None:
    clips = torch.arange(16.0).reshape(1, 1, 16, 1, 1).expand(3, 3, 16, 2, 2) / 16
    together = shuffle.purify(clips, ClipRandom([1, 2, 3]))
    orders = (together[:, 0, :, 0, 0] * 16).round().long().tolist()
    assert len({tuple(o) for o in orders}) == 3
    assert torch.equal(together, shuffle.purify(clips, ClipRandom([1, 2, 3])))
    assert torch.equal(together[2:], shuffle.purify(clips[2:], ClipRandom([3])))
    rng = ClipRandom([1, 2, 3])
    shuffle.purify(clips, rng)
    assert not torch.equal(together, shuffle.purify(clips, rng))  # a fresh draw each time


@pytest.mark.parametrize("shuffle", [TemporalShuffle(window=3), TemporalShuffle("chunks")])
def test_shuffle_moves_whole_frames_and_scatters_gradients_back(shuffle: TemporalShuffle) -> None:
    clips = scene(2, 7, 3, 4).requires_grad_(True)
    rng = ClipRandom([5, 6])
    order = shuffle.order(7, rng.clone()).tolist()
    shuffled = shuffle.purify(clips, rng)
    weight = torch.randn(shuffled.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((weight * shuffled).sum(), clips)
    expected = torch.zeros_like(gradient)
    for b in range(2):
        for t, source in enumerate(order[b]):
            assert torch.equal(shuffled[b, :, t], clips[b, :, source])
            expected[b, :, source] += weight[b, :, t]
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("gradient", ["exact", "bpda"])
@pytest.mark.parametrize("shuffle", [TemporalShuffle(window=3), TemporalShuffle("chunks")])
def test_gradients_of_the_shuffle_equal_finite_differences(shuffle: TemporalShuffle, gradient: str) -> None:
    """Through a smooth classifier that cares about frame order, in double precision, the same draws replayed."""

    class Smooth(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            generator = torch.Generator().manual_seed(2)
            self.inner = nn.Parameter(torch.randn(5, 3 * 5 * 2 * 2, generator=generator, dtype=torch.float64))
            self.outer = nn.Parameter(torch.randn(3, 5, generator=generator, dtype=torch.float64))

        def forward(self, clips: Tensor) -> Tensor:
            return torch.tanh(clips.flatten(1) @ self.inner.T / 4) @ self.outer.T

    defended = DefendedClassifier(Smooth(), shuffle, gradient)
    clips = scene(2, 5, 2, 2).double().requires_grad_(True)
    rng = ClipRandom([3, 4])
    assert torch.autograd.gradcheck(lambda x: defended(x, rng.clone()), (clips,), eps=1e-6, atol=1e-7)
    plain = torch.autograd.grad(defended.classifier(clips)[:, 0].sum(), clips)[0]
    shuffled = torch.autograd.grad(defended(clips, rng.clone())[:, 0].sum(), clips)[0]
    assert not torch.allclose(plain, shuffled)


@pytest.mark.parametrize(
    "how",
    [
        {"variant": "blocks"},
        {"window": -1},
        {"variant": "chunks", "reach": 0},
        {"variant": "chunks", "length": 0},
    ],
)
def test_shuffle_refuses(how: dict[str, Any]) -> None:
    with pytest.raises(BenchError, match=r"'temporal_shuffle' refuses its parameters"):
        DEFENSES.create({"name": "temporal_shuffle", **how})
