"""Jitter in another colour space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from bench import ClipRandom, Purifier, clip01, register

# Largest shift of each channel: hue, saturation, value of 0 to 1; XYZ of white (0.95, 1, 1.09); L* of 0 to 100; Y' of
# 0 to 1.
_SHIFTS: dict[str, tuple[float, float, float]] = {
    "hsv": (0.05, 0.25, 0.25),
    "xyz": (0.05, 0.05, 0.05),
    "lab": (5.0, 2.0, 2.0),
    "yuv": (0.05, 0.02, 0.02),
}
# IEC 61966-2-1 (sRGB) and its white, D65; BT.601.
_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE = (0.95047, 1.0, 1.08883)
_YUV = ((0.299, 0.587, 0.114), (-0.14714119, -0.28886916, 0.43601035), (0.61497538, -0.51496512, -0.10001026))


@register(
    "color_jitter",
    source="Raff, Sylvester, Forsyth and McLean, Barrage of Random Transforms for Adversarially Robust Defense, CVPR "
    "2019",
)
class ColorJitter(Purifier):
    """Moves all colours of a clip by one step in HSV, XYZ, CIELAB or YUV.

    The three shifts are drawn once per clip, uniform and independent, up to the barrage's bounds: 0.05, 0.25 and 0.25
    in HSV, 0.05 each in XYZ, 5, 2 and 2 in CIELAB, 0.05, 0.02 and 0.02 in YUV. Hue turns around; what leaves the range
    of saturation, value or RGB is cut off. It is differentiable but where two channels of a pixel change places.

    Args:
        space: ``hsv``, ``xyz``, ``lab`` or ``yuv``.
        strength: of the shifts, as a multiple of those bounds.
    """

    stochastic = True

    def __init__(self, space: Literal["hsv", "xyz", "lab", "yuv"] = "hsv", strength: float = 1.0) -> None:
        super().__init__()
        if space not in _SHIFTS:
            raise ValueError(f"space must be one of {', '.join(_SHIFTS)}, not {space!r}")
        if not 0 <= strength < float("inf"):
            raise ValueError(f"strength must be finite and not negative, not {strength}")
        self.space, self.strength = space, strength

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        drawn = 2 * rng.uniform(3, device=clips.device).to(clips.dtype) - 1
        shift = self.strength * drawn * drawn.new_tensor(_SHIFTS[self.space])
        return self.shifted(clips, shift)

    def shifted(self, clips: Tensor, shift: Tensor) -> Tensor:
        """Clips ``(B, 3, T, H, W)`` after a shift ``(B, 3)`` of the three channels of the colour space."""
        there, back = _SPACES[self.space]
        moved = back(there(clips) + shift[:, :, None, None, None])
        return clip01(moved)


def rgb_to_hsv(rgb: Tensor) -> Tensor:
    """Hue in turns, saturation and value, all of ``[0, 1]``; grey has hue and saturation 0."""
    r, g, b = rgb.unbind(1)
    high, low = rgb.amax(1), rgb.amin(1)
    spread = high - low
    safe = torch.where(spread > 0, spread, 1.0)
    sextant = torch.where(high == r, (g - b) / safe, torch.where(high == g, 2 + (b - r) / safe, 4 + (r - g) / safe))
    saturation = spread / torch.where(high > 0, high, 1.0)
    return torch.stack([(sextant / 6).remainder(1.0), saturation, high], 1)


def hsv_to_rgb(hsv: Tensor) -> Tensor:
    """The inverse; hue counts modulo 1, saturation and value are cut off at 0 and 1."""
    hue, saturation, value = hsv[:, 0], clip01(hsv[:, 1]), clip01(hsv[:, 2])
    channels = []
    for n in (5, 3, 1):
        k = (n + 6 * hue).remainder(6.0)
        channels.append(value - value * saturation * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, 1)


def rgb_to_xyz(rgb: Tensor) -> Tensor:
    """CIE XYZ of sRGB, 1 for the luminance of white."""
    linear = torch.where(rgb > 0.04045, ((rgb.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    return _mixed(_XYZ, linear)


def xyz_to_rgb(xyz: Tensor) -> Tensor:
    """The inverse; what is no colour of sRGB comes out beyond ``[0, 1]``."""
    linear = _mixed(_inverse(_XYZ), xyz)
    return torch.where(linear > 0.0031308, 1.055 * linear.clamp_min(0.0031308) ** (1 / 2.4) - 0.055, 12.92 * linear)


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """CIELAB under D65, L* of 0 to 100."""
    xyz = rgb_to_xyz(rgb)
    part = xyz / xyz.new_tensor(_WHITE).view(3, 1, 1, 1)
    edge = (6 / 29) ** 3
    x, y, z = torch.where(part > edge, part.clamp_min(edge) ** (1 / 3), part * 841 / 108 + 4 / 29).unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def lab_to_rgb(lab: Tensor) -> Tensor:
    """The inverse of :func:`rgb_to_lab`."""
    light, a, b = lab.unbind(1)
    y = (light + 16) / 116
    part = torch.stack([y + a / 500, y, y - b / 200], 1)
    xyz = torch.where(part > 6 / 29, part**3, (part - 4 / 29) * 108 / 841)
    return xyz_to_rgb(xyz * xyz.new_tensor(_WHITE).view(3, 1, 1, 1))


def rgb_to_yuv(rgb: Tensor) -> Tensor:
    """Luma and chroma of BT.601, of gamma-corrected values."""
    return _mixed(_YUV, rgb)


def yuv_to_rgb(yuv: Tensor) -> Tensor:
    """The inverse of :func:`rgb_to_yuv`."""
    return _mixed(_inverse(_YUV), yuv)


_Matrix = tuple[tuple[float, float, float], ...]


def _mixed(matrix: _Matrix, colors: Tensor) -> Tensor:
    return torch.einsum("ij,bj...->bi...", colors.new_tensor(matrix), colors)


def _inverse(matrix: _Matrix) -> _Matrix:
    rows = torch.tensor(matrix, dtype=torch.float64).inverse().tolist()
    return tuple((row[0], row[1], row[2]) for row in rows)


_SPACES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "hsv": (rgb_to_hsv, hsv_to_rgb),
    "xyz": (rgb_to_xyz, xyz_to_rgb),
    "lab": (rgb_to_lab, lab_to_rgb),
    "yuv": (rgb_to_yuv, yuv_to_rgb),
}
