"""The shipped flow network: two pyramid levels, correlation, soft-argmax, small refinements.

Coarse to fine as in PWC-Net (Sun et al., CVPR 2018) with the expected displacement under the matching
probabilities as the first estimate (soft-argmax, Kendall et al., ICCV 2017) and RAFT's convex up-sampling (Teed and
Deng, ECCV 2020, section 3.3); much smaller than either, for frames of about 64 pixels.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.flow.base import Features, FlowEstimator, warp


def correlation(first: Tensor, second: Tensor, radius: int) -> Tensor:
    """Inner products of each position's features with those at displacements up to ``radius``.

    Args:
        first, second: ``(N, C, H, W)``.

    Returns:
        ``(N, (2 radius + 1)^2, H, W)``; displacements row by row, x fastest. Positions outside the frame count as
        zero features.
    """
    height, width = first.shape[-2:]
    side = 2 * radius + 1
    # Channels last, one displacement at a time: three times as fast as unfolding all neighbourhoods.
    kept = first.permute(0, 2, 3, 1).contiguous()
    padded = F.pad(second, (radius,) * 4).permute(0, 2, 3, 1).contiguous()
    scores = [
        torch.linalg.vecdot(kept, padded[:, dy : dy + height, dx : dx + width])
        for dy in range(side)
        for dx in range(side)
    ]
    return torch.stack(scores, 1)


def displacements(radius: int) -> Tensor:
    """The displacements of :func:`correlation`, ``(2, (2 radius + 1)^2)``, channel 0 along x."""
    axis = torch.arange(-radius, radius + 1, dtype=torch.float32)
    return torch.stack([axis.repeat(len(axis)), axis.repeat_interleave(len(axis))])


def _layers(*channels: int, dilations: tuple[int, ...]) -> nn.Sequential:
    """3x3 convolutions, each followed by a leaky ReLU."""
    net = nn.Sequential()
    for (inputs, outputs), dilation in zip(pairwise(channels), dilations, strict=True):
        net.append(nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation))
        net.append(nn.LeakyReLU(0.1))
    return net


def _unit(features: Tensor) -> Tensor:
    """Features ``(N, C, H, W)``, centred over the frame and scaled to unit length at each position."""
    return F.normalize(features - features.mean(dim=(2, 3), keepdim=True), dim=1, eps=1e-3)


def upsample_convex(flow: Tensor, mask: Tensor) -> Tensor:
    """Doubles a flow's resolution: each fine pixel is a convex combination of nine coarse neighbours.

    Args:
        flow: ``(N, 2, H, W)``, in pixels of the coarse grid.
        mask: ``(N, 36, H, W)``, logits of the 9 weights of each of the 4 fine pixels.

    Returns:
        ``(N, 2, 2H, 2W)``, in pixels of the fine grid.
    """
    batch, _, height, width = flow.shape
    weight = mask.view(batch, 1, 9, 4, height, width).softmax(2)
    padded = F.pad(2 * flow, (1, 1, 1, 1), mode="replicate")
    around = F.unfold(padded, 3).view(batch, 2, 9, 1, height, width)
    return F.pixel_shuffle((weight * around).sum(2).flatten(1, 2), 2)


class TinyFlow(FlowEstimator):
    """Flow for frames of about 64 pixels that move by up to about 8 pixels.

    Args:
        fine, coarse: feature channels at half and quarter resolution.
        width: channels of the refinements.
        reach_fine, reach_coarse: radius of the correlation at either level, in positions of that level.
    """

    places_fine: Tensor
    places_coarse: Tensor

    def __init__(
        self, fine: int = 32, coarse: int = 48, width: int = 48, reach_fine: int = 2, reach_coarse: int = 3
    ) -> None:
        super().__init__()
        self.reach_fine, self.reach_coarse = reach_fine, reach_coarse
        self.register_buffer("places_fine", displacements(reach_fine), persistent=False)
        self.register_buffer("places_coarse", displacements(reach_coarse), persistent=False)
        self.encode_fine = nn.Sequential(
            nn.Conv2d(3, fine, 5, stride=2, padding=2), nn.LeakyReLU(0.1), nn.Conv2d(fine, fine, 3, padding=1)
        )
        self.encode_coarse = nn.Sequential(
            nn.LeakyReLU(0.1),
            nn.Conv2d(fine, coarse, 3, stride=2, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(coarse, coarse, 3, padding=1),
        )
        seen = (2 * reach_coarse + 1) ** 2 + coarse + 2
        self.refine_coarse = _layers(seen, width, width, width, dilations=(1, 2, 4))
        self.head_coarse = nn.Conv2d(width, 2, 3, padding=1)
        self.pass_on = nn.Conv2d(width, 16, 1)
        seen = (2 * reach_fine + 1) ** 2 + fine + 4 + 16
        self.refine_fine = _layers(seen, width, width, width, dilations=(1, 2, 1))
        self.head_fine = nn.Conv2d(width, 2 + 36, 3, padding=1)
        self.sharpness = nn.Parameter(torch.full((2,), 2.5))  # of the softmax over displacements, as a logarithm
        for head in (self.head_coarse, self.head_fine):  # the first estimate is the soft-argmax itself
            for parameter in head.parameters():
                nn.init.zeros_(parameter)

    def features(self, frames: Tensor) -> Features:
        # Exposure flickers between frames; matching needs the same content to look the same.
        centred = frames - frames.mean(dim=(1, 2, 3), keepdim=True)
        frames = centred / (centred.square().mean(dim=(1, 2, 3), keepdim=True) + 1e-4).sqrt()
        height, width = frames.shape[-2:]
        frames = F.pad(frames, (0, -width % 4, 0, -height % 4), mode="replicate")
        fine = self.encode_fine(frames)
        size = torch.tensor([height, width]).expand(len(frames), 2)
        coarse = self.encode_coarse(fine)
        return fine, _unit(fine), coarse, _unit(coarse), size

    def match(self, first: Features, second: Features) -> Tensor:
        return self.levels(first, second)[-1]

    def levels(self, first: Features, second: Features) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The estimates in turn: soft-argmax and refined at quarter resolution, half, full; each in pixels of its own
        grid."""
        (fine, fine1, coarse, coarse1, size), (_, fine2, _, coarse2, _) = first, second
        guess, scores = self._argmax(coarse1, coarse2, self.reach_coarse, self.places_coarse, self.sharpness[0])
        hidden = self.refine_coarse(torch.cat([scores, coarse, guess], 1))
        quarter = guess + self.head_coarse(hidden)

        start = 2 * F.interpolate(quarter, scale_factor=2, mode="bilinear", align_corners=False)
        shift, scores = self._argmax(fine1, warp(fine2, start), self.reach_fine, self.places_fine, self.sharpness[1])
        passed = F.interpolate(self.pass_on(hidden), scale_factor=2, mode="nearest")
        head = self.head_fine(self.refine_fine(torch.cat([scores, fine, shift, start, passed], 1)))
        half = start + head[:, :2]
        height, width = size[0].tolist()
        return guess, quarter, half, upsample_convex(half, head[:, 2:])[..., :height, :width]

    @staticmethod
    def _argmax(first: Tensor, second: Tensor, reach: int, places: Tensor, sharpness: Tensor) -> tuple[Tensor, Tensor]:
        """Expected displacement ``(N, 2, H, W)`` under the matching probabilities, and those scores."""
        scores = correlation(first, second, reach)
        probability = (sharpness.exp() * scores).softmax(1)
        return torch.einsum("nkhw,dk->ndhw", probability, places), scores
