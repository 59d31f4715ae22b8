"""libjpeg's arithmetic on tensors: what its decoder makes of its encoder's work, to the last bit, on any device.

The codec of the Independent JPEG Group in its standard setting: accurate integer transforms, chroma averaged over the
pixels that share it and interpolated by a triangle filter. Entropy coding loses nothing and is left out. Whole numbers
are held in floating point, where their sums are exact: up to ``2^24`` in single precision; products with matrices are
in double, which no setting of a device makes coarser.

Sources: ITU-T T.81 and T.871 (JFIF); the transform: Loeffler, Ligtenberg and Moschytz, Practical Fast 1-D DCT
Algorithms with 11 Multiplications, ICASSP 1989.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.defense.codec import PIXELS_PER_CHROMA, quanta

# JFIF's colours in units of 2^-16, rounded: luma and chroma of RGB, and back.
_Y = (19595, 38470, 7471)
_CB_CR = ((-11059, -21709, 32768), (32768, -27439, -5329))
_RED, _GREEN, _BLUE = (91881,), (-22554, -46802), (116130,)  # of Cr, of both, of Cb
# The cosine transform of 8 values times sqrt(8), in units of 2^-13: each constant of the factored transform is rounded,
# so that entries which should be equal are not. Its transpose is the way back.
_WAVES = (
    (8192, 8192, 8192, 8192, 8192, 8192, 8192, 8192),
    (11363, 9633, 6437, 2260, -2260, -6437, -9633, -11363),
    (10703, 4433, -4433, -10703, -10703, -4433, 4433, 10703),
    (9633, -2259, -11362, -6436, 6436, 11362, 2259, -9633),
    (8192, -8192, -8192, 8192, 8192, -8192, -8192, 8192),
    (6437, -11362, 2261, 9633, -9633, -2261, 11362, -6437),
    (4433, -10704, 10704, -4433, -4433, 10704, -10704, 4433),
    (2260, -6436, 9633, -11363, 11363, -9633, 6436, -2260),
)


def transcoded(frames: Tensor, quality: int, subsampling: str) -> Tensor:
    """What is seen of frames that have been encoded and decoded.

    Args:
        frames: whole numbers of 0 to 255, ``(N, 3, H, W)``, of any type.
        quality: 1 to 100.
        subsampling: a key of :data:`bench.defense.codec.PIXELS_PER_CHROMA`.

    Returns:
        ``float32 (N, 3, H, W)``, whole numbers of 0 to 255; no gradient passes.
    """
    frames = frames.detach().float()
    step, (luma, chroma) = PIXELS_PER_CHROMA[subsampling], quanta(quality)
    height, width = frames.shape[-2:]
    # All planes are about 0. Chroma is rounded half a step down less one unit, so that 127.5 stays within a byte.
    y = _coded(_mixed(frames.unbind(1), _Y, 0.5 - 128), luma)[..., :height, :width] + 128
    others = torch.cat([_mixed(frames.unbind(1), weights, 0.5 - 2**-16) for weights in _CB_CR])
    down, right = -(-height // step[0]), -(-width // step[1])
    others = _coded(_narrower(others, step), chroma)[..., :down, :right]
    cb, cr = _wider(others, step)[..., :height, :width].chunk(2)
    channels = (_mixed((cr,), _RED, 0.5), _mixed((cb, cr), _GREEN, 0.5), _mixed((cb,), _BLUE, 0.5))
    seen = torch.empty_like(frames)
    for channel, shown in zip(channels, seen.unbind(1), strict=True):
        torch.clamp(channel.add_(y), 0, 255, out=shown)
    return seen


def _mixed(planes: Sequence[Tensor], weights: Sequence[int], added: float) -> Tensor:
    """The floor of a sum of planes, weighted in units of ``2^-16``, and a number."""
    total = planes[0] * (weights[0] / 2**16)
    for plane, weight in zip(planes[1:], weights[1:], strict=True):
        total.add_(plane, alpha=weight / 2**16)
    return total.add_(added).floor_()


def _coded(planes: Tensor, table: Tensor) -> Tensor:
    """Planes ``(n, h, w)`` of -128 to 127: transformed, quantised and back; ``(n, h', w')``, multiples of 8."""
    padded = F.pad(planes, (0, -planes.shape[2] % 8, 0, -planes.shape[1] % 8), mode="replicate").double()
    shape, table = padded.shape, table.to(padded)[:, None, :]
    waves = padded.new_tensor(_WAVES) / 2**13
    # Of both ways, the first half keeps two binary digits, and the second drops them and the transform's gain of 8.
    rows = _rounded((padded.view(-1, 8) @ waves.T).mul_(4)).view(-1, 8, shape[2])
    both = _rounded((waves @ rows).mul_(1 / 4)).view(-1, 8, shape[2] // 8, 8)
    # To the nearest multiple, of two equally near ones the larger: what is added is less than any other difference.
    levels = both.mul_((1 + 2**-20) / (8 * table)).round_().mul_(table).view_as(rows)
    columns = _rounded((waves.T @ levels).mul_(4)).view(-1, 8)
    return _rounded((columns @ waves).mul_(1 / 32)).clamp_(-128, 127).view(shape).float()


def _rounded(values: Tensor) -> Tensor:
    """Nearest whole numbers, halves up; in place."""
    return values.add_(0.5).floor_()


def _narrower(planes: Tensor, step: tuple[int, int]) -> Tensor:
    """One sample for ``step`` pixels: their mean, whose fractions go down and up in turn."""
    if step == (1, 1):
        return planes
    # To the right, pixels are repeated up to a whole block of samples; below, samples are.
    padded = F.pad(planes, (0, -planes.shape[2] % 16, 0, -planes.shape[1] % step[0]), mode="replicate")
    total = padded if step[0] == 1 else padded[:, 0::2] + padded[:, 1::2]
    total = total[..., 0::2] + total[..., 1::2]
    count = step[0] * step[1]
    return _in_turn(total / count, (count // 2 - 1) / count, (count // 2) / count)


def _wider(planes: Tensor, step: tuple[int, int]) -> Tensor:
    """``step`` pixels for one sample: three quarters of the nearer one and a quarter of the next."""
    if step == (1, 1):
        return planes
    if planes.shape[2] <= 2:  # too narrow for the filter
        return planes.repeat_interleave(step[0], 1).repeat_interleave(2, 2)
    if step[0] == 1:
        return _spread(planes, 2, 1, 2).div_(4).floor_()
    return _spread(_spread(planes, 1, 0, 0), 2, 8, 7).div_(16).floor_()


def _spread(planes: Tensor, axis: int, before: float, after: float) -> Tensor:
    """Two for each value along an axis: three times it, and the one before or after, and what is added to these."""
    count = planes.shape[axis]
    halves = [(3 * planes).add_(added) for added in (before, after)]
    for half, begin, outer in zip(halves, (1, 0), (0, count - 1), strict=True):
        half.narrow(axis, begin, count - 1).add_(planes.narrow(axis, 1 - begin, count - 1))
        half.select(axis, outer).add_(planes.select(axis, outer))  # beyond the border, the last one goes on
    return _alternating(halves, axis)


def _alternating(halves: list[Tensor], axis: int) -> Tensor:
    """Even and odd places along an axis."""
    both = torch.stack(halves, axis + 1) if axis < 2 else halves[0].new_empty(*halves[0].shape, 2)
    if axis == 2:  # faster than a stack along the last axis
        both[..., 0], both[..., 1] = halves
    return both.flatten(axis, axis + 1)


def _in_turn(planes: Tensor, even: float, odd: float) -> Tensor:
    """The floor, after a number is added to even columns and another one to odd ones."""
    return (planes.unflatten(2, (-1, 2)) + planes.new_tensor([even, odd])).floor_().flatten(2)
