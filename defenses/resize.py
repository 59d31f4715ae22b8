"""Resizing down and back."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from bench import ClipRandom, Filter, clip01, register


@register(
    "resize",
    source="VideoRobustBench's own baseline; resizing, there at random, as a defence: Xie et al., Mitigating "
    "Adversarial Effects Through Randomization, ICLR 2018",
)
class Resize(Filter):
    """Makes every frame smaller and then as large as it was, both with bilinear interpolation.

    It is linear, so its exact gradient exists, and ``bpda`` is exact, too.

    Args:
        scale: side of the small frame, in units of the side of the frame, above 0 and below 1; the same for all frames.
            Half the side is this benchmark's choice: in frames of even size, every 2x2 pixels are averaged.
    """

    def __init__(self, scale: float = 0.5) -> None:
        super().__init__()
        if not 0 < scale < 1:
            raise ValueError(f"scale must be above 0 and below 1, not {scale}")
        self.scale = scale

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        frames = clips.flatten(1, 2)  # (B, 3T, H, W)
        small = [max(1, round(self.scale * side)) for side in clips.shape[-2:]]
        for size in (small, clips.shape[-2:]):
            frames = F.interpolate(frames, size=tuple(size), mode="bilinear", align_corners=False)
        return clip01(frames.view_as(clips))
