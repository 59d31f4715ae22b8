"""One random stream per clip."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import ClipRandom, seeds
from bench.seeds import philox, seed_of

few = settings(max_examples=30, deadline=None, derandomize=True, database=None)


def reference(*key: str) -> int:
    digest = hashlib.sha256("\x1f".join(key).encode("utf-8")).hexdigest()
    return int(digest[:16], 16) // 2


def test_seed_is_the_same_on_every_machine() -> None:
    assert seed_of("attack", 0, "test-00007") == reference("attack", "0", "test-00007")
    # sha256("a") starts with ca978112ca1bbdca.
    assert seed_of("a") == 0xCA978112CA1BBDCA // 2
    assert seed_of("clip", 3, None) == reference("clip", "3", "None")


@few
@given(
    st.lists(st.text("ab", max_size=3), min_size=1, max_size=3),
    st.lists(st.text("ab", max_size=3), min_size=1, max_size=3),
)
def test_other_keys_give_other_seeds(one: list[str], other: list[str]) -> None:
    assert 0 <= seed_of(*one) < 2**63
    assert (seed_of(*one) == seed_of(*other)) == (one == other)


def draws(rng: ClipRandom) -> list[torch.Tensor]:
    return [rng.uniform(2, 3), rng.normal(4, 5), rng.integers(9, 6), rng.permutation(7)]


def test_stream_of_a_clip_ignores_the_batch() -> None:
    together = draws(ClipRandom.for_clips(["a", "b", "c"], "attack", 1))
    alone = draws(ClipRandom.for_clips(["c"], "attack", 1))
    swapped = draws(ClipRandom.for_clips(["c", "a"], "attack", 1))
    for t, a, s in zip(together, alone, swapped, strict=True):
        assert torch.equal(t[2:], a)
        assert torch.equal(t[[2, 0]], s)


def test_streams_differ_between_clips_and_keys() -> None:
    rng = ClipRandom.for_clips(["a", "b"], "attack", 1)
    first = rng.uniform(50)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, rng.uniform(50))
    assert not torch.equal(first, ClipRandom.for_clips(["a", "b"], "attack", 2).uniform(50))


def words(key: int, count: int) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """The first words of a stream by NumPy's generator, in halves, the lower one first."""
    drawn = np.random.Philox(key=key).random_raw(count)
    return np.stack([drawn & 0xFFFFFFFF, drawn >> 32], -1).astype(np.uint32).ravel()


def test_uniform_numbers_are_the_upper_bits_of_numpys_philox() -> None:
    expected = (words(reference("k", "a"), 3) >> 8) / 2**24
    assert torch.equal(ClipRandom.for_clips(["a"], "k").uniform(5)[0], torch.from_numpy(expected[:5]).float())


def test_integers_are_remainders_of_numpys_philox() -> None:
    drawn = np.random.Philox(key=11).random_raw(6)
    assert ClipRandom([11]).integers(1000, 6)[0].tolist() == [int(word) // 2 % 1000 for word in drawn]


def test_normal_numbers_are_those_of_box_and_muller() -> None:
    """In double precision, from the same words: a radius, and a direction in one of eight octants."""
    drawn = words(11, 5000).reshape(-1, 2)
    uniform = ((drawn[:, 0] >> 1).astype(np.float32) + np.float32(0.5)).astype(np.float64) / 2**31
    radius = np.sqrt(-2 * np.log(uniform))
    angle = (drawn[:, 1] >> 3) / 2**29 * np.pi / 4
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    swapped = (drawn[:, 1] & 1).astype(bool)
    x, y = np.where(swapped, y, x), np.where(swapped, x, y)
    expected = np.stack([np.where(drawn[:, 1] & 2, -x, x), np.where(drawn[:, 1] & 4, -y, y)], -1).ravel()
    assert np.allclose(ClipRandom([11]).normal(10000)[0].numpy(), expected, atol=3e-6)


def test_normal_numbers_are_normal() -> None:
    drawn = ClipRandom([1]).normal(200_000)[0].double().numpy()
    assert scipy.stats.kstest(drawn, "norm").pvalue > 0.01
    assert scipy.stats.kurtosis(drawn) == pytest.approx(0, abs=0.05)
    assert abs(np.corrcoef(drawn[::2], drawn[1::2])[0, 1]) < 0.01


@few
@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**62)), min_size=1, max_size=4), st.integers(1, 9))
def test_words_on_any_device_are_numpys(streams: list[tuple[int, int]], blocks: int) -> None:
    """What other devices compute, computed on this one."""
    found = philox([key for key, _ in streams], [begin for _, begin in streams], blocks)
    for row, (key, begin) in zip(found, streams, strict=True):
        expected = np.random.Philox(key=key, counter=begin).random_raw(4 * blocks)
        assert np.array_equal(row.numpy().view(np.uint64), expected)


def test_draws_do_not_depend_on_how_they_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU draws in parts, other devices at once."""
    whole = ClipRandom([1, 2]).normal(1000)
    monkeypatch.setattr(seeds, "_AT_ONCE", 96)
    assert torch.equal(ClipRandom([1, 2]).normal(1000), whole)


def test_streams_go_back() -> None:
    rng = ClipRandom([1, 2, 3])
    rng.select([1]).uniform(5)
    places = rng.tell()
    first = draws(rng)
    rng.seek(places)
    assert all(torch.equal(a, b) for a, b in zip(first, draws(rng), strict=True))


def test_global_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    draws(ClipRandom([1, 2]))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("rows", [[1], torch.tensor([1])])
def test_selected_streams_are_shared(rows: list[int] | torch.Tensor) -> None:
    rng = ClipRandom([1, 2, 3])
    expected = ClipRandom([2])
    part = rng.select(rows)
    assert len(part) == 1
    assert torch.equal(part.uniform(4), expected.uniform(4))
    # What the selection drew is gone from the whole, and only for that clip.
    whole = rng.uniform(4)
    assert torch.equal(whole[1:2], expected.uniform(4))
    assert torch.equal(whole[0:1], ClipRandom([1]).uniform(4))


def test_clone_replays_and_stays_apart() -> None:
    rng = ClipRandom([4, 5])
    rng.normal(3)
    copy = rng.clone()
    first = draws(rng)
    for a, b in zip(first, draws(copy), strict=True):
        assert torch.equal(a, b)
    copy.uniform(100)
    fresh = ClipRandom([4, 5])
    fresh.normal(3)
    draws(fresh)
    assert torch.equal(rng.uniform(3), fresh.uniform(3))


def test_draws_have_their_ranges() -> None:
    rng = ClipRandom(range(20))
    uniform, integers, order = rng.uniform(500), rng.integers(3, 200), rng.permutation(6)
    assert uniform.dtype == torch.float32
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert set(integers.flatten().tolist()) == {0, 1, 2}
    assert order.sort(dim=1).values.equal(torch.arange(6).expand(20, 6))
    assert len({tuple(row) for row in order.tolist()}) > 10
    normal = rng.normal(1000)
    assert float(normal.mean()) == pytest.approx(0, abs=0.03)
    assert float(normal.std()) == pytest.approx(1, abs=0.03)
