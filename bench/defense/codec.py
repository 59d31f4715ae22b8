"""JPEG on tensors: what a decoder makes of an encoder's work, with a derivative wherever rounding has one."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.defense.rounding import Rounding, with_value

PIXELS_PER_CHROMA = {"4:4:4": (1, 1), "4:2:2": (1, 2), "4:2:0": (2, 2)}
"""Chroma sub-sampling: how many pixels, down and right, share one sample of colour."""

# JFIF (ITU-T T.871): RGB to luma and to chroma about 0, all with steps of 1/255.
_KR, _KB = 0.299, 0.114
_KG = 1 - _KR - _KB
_YCBCR = (
    (_KR, _KG, _KB),
    (-_KR / (2 - 2 * _KB), -_KG / (2 - 2 * _KB), 0.5),
    (0.5, -_KG / (2 - 2 * _KR), -_KB / (2 - 2 * _KR)),
)
# ITU-T T.81, Annex K.1, Tables K.1 and K.2: one line per vertical frequency.
_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)


def cosines(size: int = 8) -> Tensor:
    """The orthonormal discrete cosine transform (type II), ``float64 (size, size)``, one line per frequency."""
    places = torch.arange(size, dtype=torch.float64)
    waves = torch.cos(math.pi / size * (places + 0.5) * places[:, None]) * math.sqrt(2 / size)
    waves[0] /= math.sqrt(2)
    return waves


def quanta(quality: int) -> tuple[Tensor, Tensor]:
    """The quanta of luma and chroma, ``float64 (8, 8)``: the standard's tables, scaled as libjpeg does.

    Args:
        quality: 1 to 100.
    """
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    tables = (torch.tensor(table, dtype=torch.int64) for table in (_LUMA, _CHROMA))
    luma, chroma = (((table * percent + 50) // 100).clamp(1, 255).double() for table in tables)
    return luma, chroma


def jpeg(clips: Tensor, quality: int, subsampling: str, rounding: Rounding) -> Tensor:
    """Encodes and decodes every frame as libjpeg does, but for its fixed-point arithmetic.

    Colour transform, chroma averaged over the pixels that share it, discrete cosine transforms of 8x8 blocks, quanta,
    and all of it back, with chroma interpolated linearly between its samples. Frames whose sides are no multiples of
    the blocks are continued by their last pixels. Of the roundings, that of the coefficients is the caller's; where
    samples become bytes, and where the decoded values are clamped, the derivative is that of the identity.

    Args:
        clips: ``(B, 3, T, H, W)`` in ``[0, 1]``; bytes are expected: other values are rounded first.
        quality: 1 to 100.
        subsampling: a key of :data:`PIXELS_PER_CHROMA`.
        rounding: of coefficients, in units of their quantum: ``torch.round`` is the codec itself.

    Returns:
        ``(B, 3, T, H, W)`` in ``[0, 1]``.
    """
    colours = clips.new_tensor(_YCBCR)
    step, (luma, chroma) = PIXELS_PER_CHROMA[subsampling], quanta(quality)
    frames = _whole(255 * clips.transpose(1, 2).flatten(0, 1))  # (BT, 3, H, W)
    y, *others = _whole(torch.einsum("cd,bdhw->bchw", colours, frames)).split(1, dim=1)
    planes = [128 + _coded(y - 128, luma, rounding)]
    planes += [_wider(_coded(_narrower(plane, step), chroma, rounding), step, y.shape) for plane in others]
    planes = [_whole(plane) for plane in planes]
    decoded = torch.einsum("cd,bdhw->bchw", torch.linalg.inv(colours), torch.cat(planes, dim=1))
    inside = with_value(decoded, decoded.round().clamp(0, 255))
    return (inside / 255).unflatten(0, (len(clips), -1)).transpose(1, 2)


def _whole(values: Tensor) -> Tensor:
    return with_value(values, values.round())


def _coded(plane: Tensor, table: Tensor, rounding: Rounding) -> Tensor:
    """A plane ``(b, 1, h, w)`` about 0: its blocks are transformed, rounded, and transformed back."""
    height, width = plane.shape[-2:]
    waves, table = cosines().to(plane), table.to(plane)
    padded = F.pad(plane, (0, -width % 8, 0, -height % 8), mode="replicate")
    blocks = padded.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)  # (b, 1, rows, columns, 8, 8)
    blocks = waves.T @ (rounding(waves @ blocks @ waves.T / table) * table) @ waves
    return blocks.transpose(3, 4).flatten(4, 5).flatten(2, 3)[..., :height, :width]


def _narrower(plane: Tensor, step: tuple[int, int]) -> Tensor:
    """One sample for ``step`` pixels: their mean, whose fractions go down and up in turn."""
    if step == (1, 1):
        return plane
    height, width = plane.shape[-2:]
    padded = F.pad(plane, (0, -width % step[1], 0, -height % step[0]), mode="replicate")
    return _in_turn(F.avg_pool2d(padded, step), 0.25 * (step[0] - 1), 0.5)


def _wider(plane: Tensor, step: tuple[int, int], shape: torch.Size) -> Tensor:
    """One sample per pixel again, a triangle filter: three quarters of the nearer one and a quarter of the next."""
    if step == (1, 1):
        return plane
    size = [side * count for side, count in zip(plane.shape[-2:], step, strict=True)]
    wide = F.interpolate(plane, size=size, mode="bilinear", align_corners=False)
    wide = _in_turn(wide, *((0.25, 0.5) if step == (1, 2) else (0.5, 0.4375)))
    return wide[..., : shape[-2], : shape[-1]]


def _in_turn(plane: Tensor, even: float, odd: float) -> Tensor:
    """Whole numbers: the floor, after a number is added to even columns and another one to odd ones."""
    added = plane.new_tensor([even, odd]).repeat(plane.shape[-1])[: plane.shape[-1]]
    return with_value(plane, (plane + added).floor())
