"""The weights of the colours."""

from __future__ import annotations

import torch
from kit.pictures import apply


def test_grayscale_weights() -> None:
    clips = torch.eye(3).reshape(3, 3, 1, 1, 1).expand(3, 3, 2, 4, 5)  # a red, a green and a blue clip
    for clip, luma in zip(apply("grayscale", clips), (0.299, 0.587, 0.114), strict=True):
        torch.testing.assert_close(clip, torch.full_like(clip, luma))
    white = torch.ones(1, 3, 1, 2, 2)
    torch.testing.assert_close(apply("grayscale", white), white)
