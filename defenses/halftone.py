"""Halftoning of every frame by error diffusion."""

from __future__ import annotations

import torch
from torch import Tensor

from bench import ClipRandom, Purifier, register


@register(
    "halftone",
    source="Lo and Patel, Error Diffusion Halftoning Against Adversarial Examples, ICIP 2021; weights: Floyd and "
    "Steinberg, An Adaptive Algorithm for Spatial Greyscale, Proceedings of the SID 17, 1976",
)
class Halftone(Purifier):
    """Turns every value into 0 or 1 and diffuses the error to the neighbours that come later.

    Frame by frame and channel by channel, left to right in every row: the error of a pixel goes to the right (7/16) and
    to the three pixels below (3/16, 5/16, 1/16 from left to right). Shares that fall off the frame are lost, and the
    running value is not clipped.

    There is no exact gradient (that of a threshold is 0 or none): ``bpda`` is the identity.

    Args:
        threshold: from where on a value, with the errors it has received, becomes 1, in units of ``[0, 1]``.
    """

    differentiable = False

    def __init__(self, threshold: float = 0.5) -> None:
        super().__init__()
        if not 0 < threshold < 1:
            raise ValueError(f"threshold must be between 0 and 1, not {threshold}")
        self.threshold = threshold

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        pixels = clips.detach().permute(3, 4, 0, 1, 2)  # (H, W, B, 3, T)
        dots = torch.empty_like(pixels)
        height, width = pixels.shape[:2]
        # The pixels with column + 2 row = step do not depend on each other, only on the three steps before. The errors
        # of a step are kept by row, that of row i at i + 1; where a step has no pixel in the frame, there is none.
        none = pixels.new_zeros(height + 1, *pixels.shape[2:])
        last, second, third = none, none, none
        for step in range(width + 2 * (height - 1)):
            first, end = max(0, (step - width + 2) // 2), min(height, step // 2 + 1)
            row = torch.arange(first, end, device=clips.device)
            column = step - 2 * row
            value = pixels[row, column]
            value = value + third[first:end] * (1 / 16)  # from the upper left
            value = value + second[first:end] * (5 / 16)  # from above
            value = value + last[first:end] * (3 / 16)  # from the upper right
            value = value + last[first + 1 : end + 1] * (7 / 16)  # from the left
            dot = (value >= self.threshold).to(clips.dtype)
            dots[row, column] = dot
            error = none.clone()
            error[first + 1 : end + 1] = value - dot
            last, second, third = error, last, second
        return dots.permute(2, 3, 4, 0, 1).contiguous()
