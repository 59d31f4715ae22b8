"""Bilateral filter of every frame."""

from __future__ import annotations

from kornia.filters import bilateral_blur
from torch import Tensor

from bench import ClipRandom, Filter, clip01, parse_size, register


@register(
    "bilateral",
    source="Tomasi and Manduchi, Bilateral Filtering for Gray and Color Images, ICCV 1998; as a defence: Raff, "
    "Sylvester, Forsyth and McLean, Barrage of Random Transforms for Adversarially Robust Defense, CVPR 2019",
)
class Bilateral(Filter):
    """Averages neighbours that are close in place and in colour: it smooths and keeps edges (Kornia).

    The same for all frames; border pixels are repeated outwards. The distance of two colours is the sum of the three
    absolute differences. It is smooth almost everywhere, and its exact gradient exists; ``bpda`` is exact,
    too.

    Args:
        size: side of the square window in pixels, odd.
        sigma_color: reach in colour, in units of ``[0, 1]``, a number or a fraction such as ``25/255``.
        sigma_space: reach in space, in pixels. The barrage draws radius and reach for a rank filter; the three defaults
            are this benchmark's choice.
    """

    def __init__(self, size: int = 5, sigma_color: float | str = 25 / 255, sigma_space: float = 2.0) -> None:
        super().__init__()
        if not isinstance(size, int) or size < 1 or size % 2 == 0:
            raise ValueError(f"size must be an odd number of pixels, not {size}")
        if not sigma_space > 0:
            raise ValueError(f"sigma_space must be positive, not {sigma_space}")
        self.size, self.sigma_color, self.sigma_space = size, parse_size(sigma_color), sigma_space
        if not self.sigma_color > 0:
            raise ValueError(f"sigma_color must be positive, not {sigma_color}")

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        window, reach = (self.size, self.size), (self.sigma_space, self.sigma_space)
        frames = clips.transpose(1, 2).flatten(0, 1)  # (BT, 3, H, W)
        smooth = bilateral_blur(frames, window, self.sigma_color, reach, border_type="replicate")
        return clip01(smooth.unflatten(0, (len(clips), -1)).transpose(1, 2))
