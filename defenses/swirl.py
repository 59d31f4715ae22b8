"""Swirl of every frame."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from bench import ClipRandom, Purifier, clip01, register

_LEAST_STRENGTH, _LEAST_RADIUS = 0.01, 10 / 256


@register(
    "swirl",
    source="Raff, Sylvester, Forsyth and McLean, Barrage of Random Transforms for Adversarially Robust Defense, CVPR "
    "2019",
)
class Swirl(Purifier):
    """Twists the frames around a random point, less and less with the distance from it.

    Centre, strength and radius are drawn once per clip, all uniform, and are the same for all its frames. Beyond the
    border the frame is mirrored. Resampling is linear in the values, so the exact gradient exists; the identity would
    credit it to the wrong places, so here ``bpda`` is exact, too.

    Args:
        strength: largest angle at the centre, in radians; the smallest is 0.01. The barrage uses 2 or 3.
        radius: largest distance to which the twist is felt, in frame heights; the smallest is 10/256.
    """

    stochastic = True

    def __init__(self, strength: float = 2.0, radius: float = 200 / 256) -> None:
        super().__init__()
        if not strength >= _LEAST_STRENGTH:
            raise ValueError(f"strength must be at least {_LEAST_STRENGTH}, not {strength}")
        if not radius >= _LEAST_RADIUS:
            raise ValueError(f"radius must be at least 10/256 of the frame height, not {radius}")
        self.strength, self.radius = strength, radius

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        height, width = clips.shape[-2:]
        strength, radius, x, y = rng.uniform(4, device=clips.device).to(clips.dtype).unbind(1)
        strength = _LEAST_STRENGTH + strength * (self.strength - _LEAST_STRENGTH)
        radius = _LEAST_RADIUS + radius * (self.radius - _LEAST_RADIUS)
        return self.twist(clips, strength, radius * height, x * (width - 1), y * (height - 1))

    def bpda(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return self.purify(clips, rng)

    @staticmethod
    def twist(clips: Tensor, strength: Tensor, radius: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Twists each clip by an angle ``(B,)`` in radians around a centre, ``radius``, ``x`` and ``y`` in pixels."""
        height, width = clips.shape[-2:]
        strength, radius, x, y = (number.to(clips)[:, None, None] for number in (strength, radius, x, y))
        right = torch.arange(width, device=clips.device) - x
        down = torch.arange(height, device=clips.device)[:, None] - y
        # At the radius, less than a thousandth of the strength is left.
        angle = strength * torch.exp(-torch.hypot(right, down) * 5 / (radius * math.log(2)))
        column = x + right * angle.cos() - down * angle.sin()
        row = y + right * angle.sin() + down * angle.cos()
        places = torch.stack([(2 * column + 1) / width - 1, (2 * row + 1) / height - 1], dim=-1)  # (B, H, W, 2)
        frames = clips.flatten(1, 2)  # (B, 3T, H, W)
        twisted = F.grid_sample(frames, places, mode="bilinear", padding_mode="reflection", align_corners=False)
        return clip01(twisted.view_as(clips))
