"""Randomness that belongs to a clip: the same draws whatever the batch, the order, the engine or the device."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor


def seed_of(*key: object) -> int:
    """Derives a 63-bit seed from any printable key, the same on every machine and in every process."""
    digest = hashlib.sha256("\x1f".join(str(k) for k in key).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


# 64-bit words that one value of the counter gives.
_BLOCK = 4
# Words that are worked on together on a CPU: few enough for its cache, and enough for several threads.
_AT_ONCE = 1 << 18


@dataclass
class _Stream:
    """The stream of one clip: its key, and how many blocks were drawn from it."""

    key: int
    drawn: int = 0


class ClipRandom:
    """One random stream per clip of a batch.

    A word of a stream is a function of the clip's seed and of the number of words before it (a counter-based
    generator), and every draw is made of words by operations that IEEE 754 rounds in one way only. So all draws are
    made where they are needed, all clips of a batch together, and are the same to the last bit on every device.

    Args:
        seeds: one integer per clip.

    Source: Philox4x64-10: Salmon, Moraes, Dror and Shaw, Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011; on a CPU
    it is NumPy's. Normal: Box and Muller, A Note on the Generation of Random Normal Deviates, Annals of Mathematical
    Statistics, 1958.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._streams = [_Stream(int(s) % 2**64) for s in seeds]

    @classmethod
    def for_clips(cls, ids: Sequence[str], *key: object) -> ClipRandom:
        """Seeds one stream per clip id; ``key`` tells streams of the same clip apart."""
        return cls([seed_of(*key, clip_id) for clip_id in ids])

    def __len__(self) -> int:
        return len(self._streams)

    def select(self, rows: Sequence[int] | Tensor) -> ClipRandom:
        """The streams of some clips. They are shared, not copied: drawing from either advances both."""
        picked = ClipRandom(())
        picked._streams = [self._streams[int(r)] for r in rows]
        return picked

    def clone(self) -> ClipRandom:
        """Independent copies at the present state: used to replay the same draws."""
        copies = {id(s): replace(s) for s in self._streams}
        copy = ClipRandom(())
        # A clip that is there several times draws from one stream in turn, and so must its copy.
        copy._streams = [copies[id(s)] for s in self._streams]
        return copy

    def tell(self) -> list[int]:
        """How far each stream is, for :meth:`seek`."""
        return [s.drawn for s in self._streams]

    def seek(self, places: Sequence[int]) -> None:
        """Goes (back) to where the streams were when :meth:`tell` was asked."""
        for stream, place in zip(self._streams, places, strict=True):
            stream.drawn = place

    def uniform(self, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        """``float32 (B, *shape)``, uniform in ``[0, 1)``: the multiples of ``2**-24``."""
        count = _size(shape)
        halves = self._words(-(-count // 2), device).view(torch.int32)[:, :count]
        return ((halves >> 8) & 0xFFFFFF).to(torch.float32).mul_(2.0**-24).reshape(len(self), *shape)

    def normal(self, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        """``float32 (B, *shape)``, standard normal; at most 6.7 in size."""
        count = _size(shape)
        words = self._words(-(-count // 2), device)
        if words.is_cpu:
            normal = torch.empty(len(self), 2 * words.shape[1], dtype=torch.float32)
            for drawn, row in zip(words, normal, strict=True):
                for part, to in zip(drawn.split(_AT_ONCE), row.split(2 * _AT_ONCE), strict=True):
                    to.copy_(_box_muller(part))
        else:
            normal = _box_muller(words)
        return normal[:, :count].reshape(len(self), *shape)

    def integers(self, high: int, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        """``int64 (B, *shape)``, uniform in ``0 .. high - 1``."""
        words = self._words(_size(shape), device)
        # The remainder of 63 bits favours none by more than high / 2**63.
        return ((words >> 1) & (2**63 - 1)).remainder_(high).reshape(len(self), *shape)

    def permutation(self, n: int, device: torch.device | str = "cpu") -> Tensor:
        """``int64 (B, n)``, one random order of ``0 .. n - 1`` per clip."""
        return self._words(n, device).argsort(dim=1, stable=True)

    def _words(self, count: int, device: torch.device | str) -> Tensor:
        """``int64 (B, count)``: the next words of each stream, in as many whole blocks as hold them."""
        blocks = -(-count // _BLOCK)
        begins = []
        for stream in self._streams:
            begins.append(stream.drawn)
            stream.drawn += blocks
        keys = [stream.key for stream in self._streams]
        if torch.device(device).type == "cpu":
            drawn = np.empty((len(keys), count), dtype=np.uint64)
            for row, key, begin in zip(drawn, keys, begins, strict=True):
                row[:] = np.random.Philox(key=key, counter=begin).random_raw(count)
            return torch.from_numpy(drawn.view(np.int64))
        return philox(keys, begins, blocks, device)[:, :count]


def _size(shape: Sequence[int]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


# Multipliers and Weyl constants of Philox4x64, and its rounds (Salmon et al., table 2 and section 3.2).
_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_ROUNDS = 10
_LOW = 0xFFFFFFFF


def _signed(word: int) -> int:
    """The integer whose two's complement a 64-bit word is."""
    word %= 2**64
    return word - 2**64 if word >= 2**63 else word


def philox(keys: Sequence[int], begins: Sequence[int], blocks: int, device: torch.device | str = "cpu") -> Tensor:
    """Words of Philox4x64-10, as NumPy's ``Philox(key, counter=begin).random_raw`` gives them, on any device.

    Args:
        keys: one per stream, below ``2**64``.
        begins: blocks of each stream that were drawn before.
        blocks: how many to draw.

    Returns:
        ``int64 (B, 4 * blocks)``, the words' two's complements.
    """
    # NumPy counts up before it draws, so that the first block is that of 1.
    start = torch.tensor([[_signed(k) for k in keys], [b + 1 for b in begins]], dtype=torch.int64)
    start = start.to(device, non_blocking=True)
    key: Tensor = start[0, :, None]
    x0 = start[1, :, None] + torch.arange(blocks, device=start.device)
    x1, x2, x3 = (torch.zeros_like(x0) for _ in range(3))
    other = torch.zeros_like(key)  # the second half of the key
    for _ in range(_ROUNDS):
        high0, low0 = _product(x0, _MULTIPLIERS[0])
        high1, low1 = _product(x2, _MULTIPLIERS[1])
        x0, x1, x2, x3 = high1 ^ x1 ^ key, low1, high0 ^ x3 ^ other, low0
        key, other = key + _signed(_WEYL[0]), other + _signed(_WEYL[1])
    return torch.stack([x0, x1, x2, x3], -1).flatten(1)


def _product(x: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """High and low 64 bits of the products of 128 bits, all unsigned; ``int64`` wraps around."""
    (a, b), (c, d) = ((x >> 32) & _LOW, x & _LOW), divmod(factor, 2**32)
    below, one, two = b * d, a * d, b * c
    middle = ((below >> 32) & _LOW) + (one & _LOW) + (two & _LOW)
    high = a * c + ((one >> 32) & _LOW) + ((two >> 32) & _LOW) + (middle >> 32)
    return high, x * _signed(factor)


# Taylor series, the last coefficient first: 2 artanh(s) / s, sin(x) / x and cos(x), all in squares; off by less than
# 3e-9 for s up to .172 and x up to pi / 4.
_LOG = [2 / (2 * k + 1) for k in reversed(range(5))]
_SIN = [(-1.0) ** k / math.factorial(2 * k + 1) for k in reversed(range(5))]
_COS = [(-1.0) ** k / math.factorial(2 * k) for k in reversed(range(6))]


def _series(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    """Horner's scheme. A product is rounded before it is added to, which one kernel for both need not do."""
    value = torch.mul(x, coefficients[0]).add_(coefficients[1])
    for coefficient in coefficients[2:]:
        value.mul_(x).add_(coefficient)
    return value


def _log(x: Tensor) -> Tensor:
    """Natural logarithm of positive normal ``float32`` numbers, the same to the last bit everywhere."""
    bits = x.view(torch.int32)
    # From the mantissa at which it is split, so that what is left lies between sqrt(1/2) and sqrt(2).
    exponent = (bits - _SQRT_HALF) >> 23
    mantissa = (bits - (exponent << 23)).view(torch.float32)
    s = (mantissa - 1).div_(mantissa + 1)
    return _series(s * s, _LOG).mul_(s).add_(exponent.to(torch.float32).mul_(math.log(2)))


_SQRT_HALF = 0x3F3504F3  # the bits of sqrt(1/2)


def _box_muller(words: Tensor) -> Tensor:
    """Two normal numbers of each word: ``int64 (..., n)`` to ``float32 (..., 2 * n)``.

    The lower half of a word is the radius. Of the upper half, three bits are the octant and the rest the angle in it.
    """
    low, high = words.view(torch.int32).unflatten(-1, (-1, 2)).unbind(-1)
    # In (0, 1], and finest near 0, where the radius is large.
    uniform = ((low >> 1) & (2**31 - 1)).to(torch.float32).add_(0.5).mul_(2.0**-31)
    radius = _log(uniform).mul_(-2).clamp_min_(0).sqrt_()
    angle = ((high >> 3) & (2**29 - 1)).to(torch.float32).mul_(2.0**-29 * math.pi / 4)
    square = angle * angle
    sine, cosine = _series(square, _SIN).mul_(angle), _series(square, _COS)
    swapped = (high & 1).bool()
    x = torch.where(swapped, sine, cosine).mul_(radius)
    y = torch.where(swapped, cosine, sine).mul_(radius)
    # The other two bits are the signs, put where those of the numbers stand.
    return torch.stack([_signed_by(x, high << 30), _signed_by(y, high << 29)], -1).flatten(-2)


def _signed_by(x: Tensor, bits: Tensor) -> Tensor:
    """Numbers with their sign turned where the highest bit is set."""
    return (x.view(torch.int32) ^ (bits & -(2**31))).view(torch.float32)
