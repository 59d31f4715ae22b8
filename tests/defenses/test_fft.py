"""The low-pass filter on single waves."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from kit.pictures import apply


@pytest.mark.parametrize(("height", "width"), [(32, 32), (32, 48), (16, 33)])
def test_fft_keeps_low_waves_and_removes_high_ones(height: int, width: int) -> None:
    y, x = torch.arange(height)[:, None] / height, torch.arange(width) / width
    slow = 0.2 * torch.sin(2 * math.pi * (2 * y + 3 * x))
    fast = 0.2 * torch.sin(2 * math.pi * (2 * y + (width // 2 - 2) * x))  # fast along one axis is enough
    clips = (0.5 + slow + fast).expand(2, 3, 2, height, width)
    found = apply("fft", clips)
    torch.testing.assert_close(found, (0.5 + slow).expand_as(found), rtol=0, atol=1e-5)
    torch.testing.assert_close(apply("fft(keep=1)", clips), clips, rtol=0, atol=1e-5)


def test_fft_cuts_where_it_says() -> None:
    """Of 32 pixels a quarter of the frequencies is 0 to 4 waves per frame."""
    for waves in range(1, 16):
        clips = (0.5 + 0.3 * torch.cos(2 * math.pi * waves * torch.arange(32) / 32)).expand(1, 3, 1, 8, 32)
        found = apply("fft(keep=0.25)", clips)
        expected: Any = clips if waves <= 4 else torch.full_like(clips, 0.5)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
