"""Colour spaces against the standard library and published values; the shifts."""

from __future__ import annotations

import colorsys
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import ClipRandom
from bench.defenses.color_jitter import ColorJitter, lab_to_rgb, rgb_to_hsv, rgb_to_lab, rgb_to_xyz, rgb_to_yuv

BOUNDS = {"hsv": (0.05, 0.25, 0.25), "xyz": (0.05,) * 3, "lab": (5.0, 2.0, 2.0), "yuv": (0.05, 0.02, 0.02)}
# XYZ and CIELAB of the primaries of sRGB under D65, and their luma by BT.601.
KNOWN = {
    (1.0, 1.0, 1.0): ((0.9505, 1.0, 1.0888), (100.0, 0.0, 0.0), 1.0),
    (1.0, 0.0, 0.0): ((0.4125, 0.2127, 0.0193), (53.24, 80.09, 67.20), 0.299),
    (0.0, 1.0, 0.0): ((0.3576, 0.7152, 0.1192), (87.73, -86.18, 83.18), 0.587),
    (0.0, 0.0, 1.0): ((0.1804, 0.0722, 0.9502), (32.30, 79.19, -107.86), 0.114),
    (0.0, 0.0, 0.0): ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 0.0),
}


def of_colour(*colour: float) -> Tensor:
    return torch.tensor(colour, dtype=torch.float64).view(1, 3, 1, 1, 1)


def colours(count: int = 60) -> Tensor:
    """Clips of one pixel each, ``(B, 3, 1, 1, 1)``."""
    drawn = torch.rand(count, 3, 1, 1, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    grey = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64).view(3, 1, 1, 1, 1).expand(3, 3, 1, 1, 1)
    return torch.cat([drawn, grey])


def test_xyz_lab_and_luma_of_the_primaries() -> None:
    for colour, (xyz, lab, luma) in KNOWN.items():
        torch.testing.assert_close(
            rgb_to_xyz(of_colour(*colour)).flatten(), of_colour(*xyz).flatten(), atol=1e-4, rtol=0
        )
        torch.testing.assert_close(
            rgb_to_lab(of_colour(*colour)).flatten(), of_colour(*lab).flatten(), atol=0.05, rtol=0
        )
        y, u, v = rgb_to_yuv(of_colour(*colour)).flatten().tolist()
        # U and V are the differences to blue and red, scaled to 0.436 and 0.615 of theirs.
        expected = (luma, 0.436 * (colour[2] - luma) / (1 - 0.114), 0.615 * (colour[0] - luma) / (1 - 0.299))
        assert (y, u, v) == pytest.approx(expected, abs=1e-4)


def test_hsv_is_that_of_the_standard_library() -> None:
    for pixel in colours().flatten(1).tolist():
        found = rgb_to_hsv(of_colour(*pixel)).flatten().tolist()
        assert found == pytest.approx(colorsys.rgb_to_hsv(*pixel), abs=1e-12)


@pytest.mark.parametrize("space", list(BOUNDS))
def test_no_shift_changes_nothing(space: Any) -> None:
    clips = colours()
    jitter = ColorJitter(space, strength=0.0)
    torch.testing.assert_close(jitter.purify(clips, ClipRandom(range(len(clips)))), clips, atol=1e-5, rtol=0)


def test_shifts_of_hue_saturation_and_value_are_those_of_the_standard_library() -> None:
    """Hue goes around: red a little back is a red with some blue."""
    clips, shift = colours(), torch.tensor([[-0.04, 0.2, -0.1]], dtype=torch.float64)
    found = ColorJitter("hsv").shifted(clips, shift.expand(len(clips), 3)).flatten(1)
    for pixel, result in zip(clips.flatten(1).tolist(), found.tolist(), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        moved = colorsys.hsv_to_rgb((h - 0.04) % 1, min(s + 0.2, 1), max(v - 0.1, 0))
        assert result == pytest.approx(moved, abs=1e-9)


def test_a_shift_of_lightness_is_one_of_lightness() -> None:
    clips = 0.3 + 0.4 * colours()  # none leaves the range
    moved = ColorJitter("lab").shifted(clips, torch.tensor([[3.0, 1.0, -2.0]]).double().expand(len(clips), 3))
    torch.testing.assert_close(
        rgb_to_lab(moved) - rgb_to_lab(clips), of_colour(3.0, 1.0, -2.0).expand_as(clips), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(lab_to_rgb(rgb_to_lab(clips)), clips, atol=1e-6, rtol=0)


@pytest.mark.parametrize("space", list(BOUNDS))
def test_one_shift_for_all_pixels_of_a_clip_within_the_bounds(space: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def noted(self: ColorJitter, clips: Tensor, shift: Tensor) -> Tensor:
        seen.append(shift)
        return clips

    monkeypatch.setattr(ColorJitter, "shifted", noted)
    ColorJitter(space).purify(torch.full((500, 3, 2, 2, 2), 0.5), ClipRandom(range(500)))
    (shift,) = seen
    assert shift.shape == (500, 3)
    bounds = torch.tensor(BOUNDS[space])
    assert (shift.abs() <= bounds).all()
    assert (shift.amax(0) > 0.95 * bounds).all()
    assert (shift.amin(0) < -0.95 * bounds).all()
    assert shift.mean(0).abs().div(bounds).max() < 0.1


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="space must be one of hsv, xyz, lab, yuv"):
        ColorJitter("cmyk")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="strength must be finite"):
        ColorJitter(strength=-1.0)
