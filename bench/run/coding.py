"""Adversarial clips as few bytes: what was added to the clean clip, without loss.

Attacks leave most values of a clip where the budget or a step ends: the clean value plus one of a few numbers. So a
clip has a small book of such steps, each value the number of its step, and an integer for how many float32 values the
sum lies beside it, mostly 0. A value that is near no step, as where a random start is left in the middle of the ball,
or of an l2 perturbation, is the distance to its clean value, counted in float32 values, byte plane by byte plane (as
Blosc shuffles: Alted, Why Modern CPUs Are Starving and What Can Be Done about It, Computing in Science & Engineering,
2010). Zstandard (RFC 8878) then codes each of these streams.

Everything is counted on the bits of the values, so every ``float32`` comes back as it was, ``-0.0`` too. A clip of
another shape or type than its clean one, or with a value that is not finite, is kept whole, as safetensors: it comes
back with the bits of its NaN.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from typing import Any

import numpy as np
import torch
import zstandard
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

MAGIC = b"advclip1"
"""With which every coded clip begins; another coding would begin with another."""

# Of Zstandard. Higher ones take longer and save nothing: what is left is noise.
_LEVEL = 1
# Steps that differ by less are one: rounding moves a sum by less than 2**-24, and a few sums by not much more.
_CELL = 2.0**-20
_MOST_STEPS, _FAR = 254, 255
_SAMPLE = 1 << 16
# Float32 values that a sum may lie beside its step.
_REACH = 127

Bits = NDArray[np.int32]


class Unreadable(Exception):
    """Bytes that are no coded clip, or the one of another clean clip."""


def encode(clean: Tensor, adversarial: Tensor) -> bytes:
    """A clip as bytes, from which :func:`decode` makes it again bit for bit.

    Args:
        clean: ``float32 (3, T, H, W)`` in ``[0, 1]``.
        adversarial: of any shape and type; few bytes where both are those of ``clean``.
    """
    before, after = _values(clean), _values(adversarial)
    head: dict[str, Any] = {"clean": digest(clean)}
    if before is None or after is None or clean.shape != adversarial.shape or not _finite(before, after):
        whole = save({"clip": adversarial.detach().cpu().contiguous()})
        return _packed({**head, "coding": "whole"}, [whole])
    steps = _steps(before, after)
    numbers = _nearest(before, after, steps)
    beside = _bits(after) - _bits(_sums(before, steps, numbers))
    numbers[(beside > _REACH) | (beside < -_REACH)] = _FAR
    near = numbers != _FAR
    far = _bits(after)[~near] - _bits(before)[~near]
    streams = [
        steps.astype("<f4").tobytes(),
        _few(numbers) if len(steps) < 15 else numbers.tobytes(),
        beside[near].astype(np.int8).tobytes(),
        *_planes(far),
    ]
    return _packed({**head, "coding": "steps", "check": zlib.crc32(after.tobytes())}, streams)


def decode(coded: bytes, clean: Tensor) -> Tensor:
    """The adversarial clip, on the CPU.

    Args:
        clean: the clip that it was made of, as it was when it was coded.

    Raises:
        Unreadable: these bytes are none, or the clean clip is another one now.
    """
    head, streams = _unpacked(coded)
    if head.get("clean") != digest(clean):
        raise Unreadable("it belongs to another clean clip")
    try:
        if head["coding"] == "whole":
            return load(streams[0])["clip"]
        after = _added(clean, streams)
    except (KeyError, ValueError, IndexError, TypeError, SafetensorError) as error:
        raise Unreadable(str(error)) from error
    if zlib.crc32(after.tobytes()) != head.get("check"):
        raise Unreadable("its values are not those that were coded")
    return torch.from_numpy(after.reshape(clean.shape))


def digest(clip: Tensor) -> str:
    """Tells clips apart by type, shape and bits: 32 hex digits."""
    plain = clip.detach().cpu().contiguous()
    told = hashlib.sha256(f"{plain.dtype} {tuple(plain.shape)}\n".encode())
    told.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return told.hexdigest()[:32]


def _values(clip: Tensor) -> NDArray[np.float32] | None:
    """All values of a clip in a row, if they are ``float32``."""
    if clip.dtype != torch.float32 or clip.layout != torch.strided:
        return None
    return clip.detach().cpu().contiguous().numpy().reshape(-1)


def _finite(*clips: NDArray[np.float32]) -> bool:
    return all(bool(np.isfinite(clip).all()) for clip in clips)


def _bits(values: NDArray[np.float32]) -> Bits:
    return values.view(np.int32)


def _steps(before: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.float32]:
    """The numbers that were most often added, the most frequent first; those of single values are left out."""
    every = max(1, len(before) // _SAMPLE)
    added = after[::every].astype(np.float64) - before[::every]
    added = added[np.abs(added) <= 1]
    cells, places, counts = np.unique(np.rint(added / _CELL), return_inverse=True, return_counts=True)
    middles = np.bincount(places, added, len(cells)) / np.maximum(counts, 1)
    often = [i for i in np.argsort(-counts, kind="stable")[:_MOST_STEPS] if counts[i] > 2 + len(added) // 4096]
    steps = middles[often].astype(np.float32)
    # What was left alone is exact, whatever was rounded.
    return np.where(np.abs(steps) < _CELL / 2, np.float32(0), steps)


def _nearest(before: NDArray[np.float32], after: NDArray[np.float32], steps: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The number of the step that each value is near to; ``_FAR`` if there is none."""
    half = round(1 / _CELL) + 2
    table = np.full(2 * half + 1, _FAR, np.uint8)
    for number in reversed(range(len(steps))):  # the more frequent step has the cell that two share
        cell = half + round(float(steps[number]) / _CELL)
        table[cell - 1 : cell + 2] = number
    with np.errstate(over="ignore"):
        cells = np.rint((after - before) * np.float32(1 / _CELL)).clip(-half, half).astype(np.int32)
    numbers = table[cells + half]
    # A sum that was cut off at 0 or 1 belongs to any step that leads there.
    if len(steps):
        for edge, extreme in ((0.0, steps.argmin()), (1.0, steps.argmax())):
            numbers[(after == edge) & (numbers == _FAR)] = extreme
    return numbers


def _sums(before: NDArray[np.float32], steps: NDArray[np.float32], numbers: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Clean values plus their steps, cut off at 0 and 1; what has no step, or one of 0, as it is."""
    book = np.zeros(256, np.float32)
    book[: len(steps)] = steps
    added = book[numbers]
    return np.where(added == 0, before, (before + added).clip(0, 1))


def _few(numbers: NDArray[np.uint8]) -> bytes:
    """Two numbers of less than 15, or ``_FAR``, in a byte."""
    small = np.minimum(numbers, 15)
    even = np.append(small, np.zeros(len(small) % 2, np.uint8))
    return (even[0::2] << 4 | even[1::2]).astype(np.uint8).tobytes()


def _apart(pairs: bytes, count: int) -> NDArray[np.uint8]:
    """What :func:`_few` was given."""
    read = np.frombuffer(pairs, np.uint8)
    numbers = np.stack([read >> 4, read & 15], 1).reshape(-1)[:count]
    return np.where(numbers == 15, np.uint8(_FAR), numbers)


def _planes(distances: Bits) -> list[bytes]:
    """Four streams, that of the lowest bytes first; small numbers of either sign have zeros in the upper ones."""
    folded = ((distances << 1) ^ (distances >> 31)).astype("<u4")
    return [plane.tobytes() for plane in folded.view(np.uint8).reshape(-1, 4).T]


def _from_planes(planes: list[bytes]) -> Bits:
    together = np.stack([np.frombuffer(plane, np.uint8) for plane in planes], 1)
    folded = np.ascontiguousarray(together).view("<u4").reshape(-1).astype(np.uint32)
    return ((folded >> 1).astype(np.int32)) ^ -(folded & 1).astype(np.int32)


def _added(clean: Tensor, streams: list[bytes]) -> NDArray[np.float32]:
    """The values of an adversarial clip."""
    before = _values(clean)
    if before is None:
        raise ValueError("the clean clip is not float32")
    steps = np.frombuffer(streams[0], "<f4").astype(np.float32)
    numbers = _apart(streams[1], len(before)) if len(steps) < 15 else np.frombuffer(streams[1], np.uint8)
    if len(numbers) != len(before):
        raise ValueError("it has another number of values")
    near = numbers != _FAR
    after = _sums(before, steps, numbers)
    bits = _bits(after)
    bits[near] += np.frombuffer(streams[2], np.int8)
    bits[~near] += _from_planes(streams[3:7])
    return after


def _packed(head: dict[str, Any], streams: list[bytes]) -> bytes:
    """The head, as JSON, and the streams, each coded by itself."""
    coder = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=False)
    coded = [coder.compress(stream) for stream in streams]
    text = json.dumps({**head, "streams": [[len(c), len(s)] for c, s in zip(coded, streams, strict=True)]}).encode()
    return b"".join([MAGIC, struct.pack("<I", len(text)), text, *coded])


def _unpacked(packed: bytes) -> tuple[dict[str, Any], list[bytes]]:
    try:
        if packed[: len(MAGIC)] != MAGIC:
            raise ValueError("it does not begin as one")
        start = len(MAGIC) + 4
        (length,) = struct.unpack("<I", packed[len(MAGIC) : start])
        head = json.loads(packed[start : start + length])
        start += length
        coder, streams = zstandard.ZstdDecompressor(), []
        for coded, plain in head["streams"]:
            streams.append(coder.decompress(packed[start : start + coded], max_output_size=plain) if plain else b"")
            start += coded
    except (ValueError, TypeError, KeyError, struct.error, zstandard.ZstdError) as error:
        raise Unreadable(str(error)) from error
    return head, streams
