"""Non-local means of every frame."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bench import ClipRandom, Purifier, clip01, parse_size, register


@register(
    "nonlocal_means",
    source="Xu, Evans and Qi, Feature Squeezing: Detecting Adversarial Examples in Deep Neural Networks, NDSS 2018; "
    "filter: Buades, Coll and Morel, A Non-local Algorithm for Image Denoising, CVPR 2005",
)
class NonlocalMeans(Purifier):
    """Averages pixels whose surroundings look alike.

    The weight of a pixel is ``exp(-d / strength^2)``, where ``d`` is the mean squared difference of the two patches
    over all three RGB channels. Every frame by itself, with the same parameters; border pixels are repeated outwards.
    It is smooth, and its exact gradient exists. Feature squeezing compares colours in another space, so equal strengths
    are not quite equal.

    Args:
        window: side of the square that is searched, in pixels, odd. Feature squeezing uses 11 and 13.
        patch: side of the squares that are compared, in pixels, odd.
        strength: in units of ``[0, 1]``, a number or a fraction. Feature squeezing uses ``2/255`` and ``4/255``.
    """

    def __init__(self, window: int = 11, patch: int = 3, strength: float | str = 4 / 255) -> None:
        super().__init__()
        for name, size in (("window", window), ("patch", patch)):
            if not isinstance(size, int) or size < 1 or size % 2 == 0:
                raise ValueError(f"{name} must be an odd number of pixels, not {size}")
        self.window, self.patch, self.strength = window, patch, parse_size(strength)
        if not self.strength > 0:
            raise ValueError(f"strength must be positive, not {strength}")

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        frames = clips.transpose(1, 2).flatten(0, 1)  # (BT, 3, H, W)
        border = self.window // 2 + self.patch // 2
        padded = F.pad(frames, (border, border, border, border), mode="replicate")
        total, weights = torch.zeros_like(frames), torch.zeros_like(frames[:, :1])
        for place in range(self.window**2):
            # Recomputed on the way back: otherwise a gradient needs a hundred times the memory of the clip.
            value, weight = checkpoint(self._compare, padded, place, use_reentrant=False, preserve_rng_state=False)
            total, weights = total + value, weights + weight
        return clip01((total / weights).unflatten(0, (len(clips), -1)).transpose(1, 2))

    def _compare(self, padded: Tensor, place: int) -> tuple[Tensor, Tensor]:
        """The pixels at one place of the window around every pixel, times their weight, and that weight."""
        reach, half = self.window // 2, self.patch // 2
        rows, columns = (side - 2 * reach for side in padded.shape[-2:])
        down, right = divmod(place, self.window)
        here = padded[..., reach : reach + rows, reach : reach + columns]
        there = padded[..., down : down + rows, right : right + columns]
        unlike = (here - there).square().mean(1, keepdim=True)
        unlike = unlike.unfold(2, self.patch, 1).mean(-1).unfold(3, self.patch, 1).mean(-1)  # over the patch
        weight = torch.exp(-unlike / self.strength**2)
        return there[..., half : rows - half, half : columns - half] * weight, weight
