"""Mean filter of every frame."""

from __future__ import annotations

from kornia.filters import box_blur
from torch import Tensor

from bench import ClipRandom, Filter, clip01, register


@register(
    "mean",
    source="Raff, Sylvester, Forsyth and McLean, Barrage of Random Transforms for Adversarially Robust Defense, CVPR "
    "2019, with a fixed square window",
)
class Mean(Filter):
    """Replaces every value by the mean of the square around it (Kornia); border pixels are repeated outwards.

    It is linear, so its exact gradient exists, and ``bpda`` is exact, too.

    Args:
        size: side of the square in pixels, odd, the same for all frames. The barrage takes disks of radius 2 or 3; 3x3
            is this benchmark's choice.
    """

    def __init__(self, size: int = 3) -> None:
        super().__init__()
        if not isinstance(size, int) or size < 1 or size % 2 == 0:
            raise ValueError(f"size must be an odd number of pixels, not {size}")
        self.size = size

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        frames = clips.flatten(1, 2)  # (B, 3T, H, W)
        return clip01(box_blur(frames, (self.size, self.size), border_type="replicate").view_as(clips))
