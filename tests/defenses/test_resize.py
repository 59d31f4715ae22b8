"""Resizing, by hand."""

from __future__ import annotations

import torch
from kit.pictures import apply


def test_half_the_size_averages_squares_of_four() -> None:
    """A checkerboard becomes gray; a frame of one colour to the left and another to the right keeps its ends."""
    checkerboard = (torch.arange(8)[:, None] + torch.arange(10)) % 2
    clips = checkerboard.float().expand(1, 3, 2, 8, 10)
    torch.testing.assert_close(apply("resize", clips), torch.full_like(clips, 0.5))
    halves = torch.zeros(1, 3, 1, 8, 12)
    halves[..., 6:] = 1.0
    # Small: 0 0 0 1 1 1. Back: the pixels beside the edge lie a quarter of a small pixel from their own.
    expected = torch.tensor([0, 0, 0, 0, 0, 0.25, 0.75, 1, 1, 1, 1, 1])
    torch.testing.assert_close(apply("resize", halves)[0, 2, 0, 3], expected)
