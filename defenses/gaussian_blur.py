"""Gaussian blur of every frame."""

from __future__ import annotations

from kornia.filters import gaussian_blur2d
from torch import Tensor

from bench import ClipRandom, Filter, clip01, register


@register(
    "gaussian_blur",
    source="Raff, Sylvester, Forsyth and McLean, Barrage of Random Transforms for Adversarially Robust Defense, CVPR "
    "2019, with a fixed sigma",
)
class GaussianBlur(Filter):
    """Blurs every frame with the same Gaussian (Kornia); border pixels are repeated outwards.

    It is linear, so its exact gradient exists, and ``bpda`` is exact, too.

    Args:
        sigma: standard deviation in pixels. The barrage draws it from 0.1 to 2; 1 is this benchmark's choice, for
            frames of any size.
        size: side of the square window in pixels, odd.
    """

    def __init__(self, sigma: float = 1.0, size: int = 5) -> None:
        super().__init__()
        if not sigma > 0:
            raise ValueError(f"sigma must be positive, not {sigma}")
        if not isinstance(size, int) or size < 1 or size % 2 == 0:
            raise ValueError(f"size must be an odd number of pixels, not {size}")
        self.sigma, self.size = sigma, size

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        frames = clips.flatten(1, 2)  # (B, 3T, H, W)
        blurred = gaussian_blur2d(frames, (self.size, self.size), (self.sigma, self.sigma), border_type="replicate")
        return clip01(blurred.view_as(clips))
