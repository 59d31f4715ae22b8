"""How badly the frames of a clip agree along its own optical flow, and where each pixel should go to mend it.

The losses are those of unsupervised optical flow (Jonschkowski et al., What Matters in Unsupervised Optical Flow, ECCV
2020), turned around as the motion-consistency defence does (Zhang, Mao, Yang and Vondrick, Adversarially Robust Video
Perception by Seeing Motion, arXiv 2212.07815, 2022): the flow network is fixed and the *frames* are moved, so that,
unlike there, the gradient reaches both frames of a pair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from bench.errors import BenchError, at_least, nearest
from bench.flow.base import FlowEstimator, warp
from bench.flow.estimators import load_flow
from bench.flow.pairs import encode, saving

CONSTRAINTS = ("forward", "backward", "long")

# --- pairs of frames -------------------------------------------------------------------------------------------------


def in_frame(flow: Tensor) -> Tensor:
    """Where the content of a pixel is still inside the second frame.

    Args:
        flow: ``(N, 2, H, W)`` in pixels.

    Returns:
        ``(N, 1, H, W)`` of zeros and ones, in the flow's type, without a gradient.
    """
    height, width = flow.shape[-2:]
    x = torch.arange(width, dtype=flow.dtype, device=flow.device) + flow[:, :1].detach()
    y = torch.arange(height, dtype=flow.dtype, device=flow.device)[:, None] + flow[:, 1:].detach()
    return ((x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)).to(flow.dtype)


def _l1(one: Tensor, other: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    return (one - other).abs(), inside


def _l2(one: Tensor, other: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    return (one - other).square(), inside


def _ssim(one: Tensor, other: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    # A window counts if the whole of it is inside; there is none around the outermost pixels.
    return (1 - ssim(one, other)) / 2, 1 - F.max_pool2d(1 - inside, 3, stride=1)


def ssim(one: Tensor, other: Tensor) -> Tensor:
    """Structural similarity over windows of 3x3 with equal weights, as flow networks use it.

    Source: Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity, IEEE TIP 2004.

    Args:
        one, other: ``(N, C, H, W)`` in ``[0, 1]``, ``H, W >= 3``.

    Returns:
        ``(N, C, H-2, W-2)`` in ``[-1, 1]``: one value for each window that fits in.
    """
    mean = partial(F.avg_pool2d, kernel_size=3, stride=1)
    a, b = mean(one), mean(other)
    spread = mean(one.square()) - a.square() + mean(other.square()) - b.square()
    common = mean(one * other) - a * b
    c1, c2 = 0.01**2, 0.03**2
    return (2 * a * b + c1) * (2 * common + c2) / ((a.square() + b.square() + c1) * (spread + c2))


SIMILARITIES: dict[str, Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "l1": _l1,
    "l2": _l2,
    "ssim": _ssim,
}
"""Two images and the in-frame mask to the error at each place and the mask of those places."""


def photometric(first: Tensor, second: Tensor, flow: Tensor, similarity: str = "l1") -> Tensor:
    """How much the first frame differs from the second one, warped back to it: the mean over what is in the frame.

    The gradient reaches both frames and the flow, but not the mask.

    Args:
        first, second: ``(N, C, H, W)`` in ``[0, 1]``.
        flow: from first to second, ``(N, 2, H, W)`` in pixels.
        similarity: ``l1`` (absolute error), ``l2`` (squared error) or ``ssim`` (``(1 - SSIM) / 2``).

    Returns:
        ``(N,)``; 0 where no pixel stays in the frame.

    Raises:
        BenchError: unknown similarity.

    Source: Zhang, Mao, Yang and Vondrick, Adversarially Robust Video Perception by Seeing Motion, arXiv 2212.07815,
    2022, single constraint. The mask is our choice (``docs/decisions.md``); the paper names none.
    """
    error, inside = similarity_of(similarity)(warp(second, flow), first, in_frame(flow))
    total = (error * inside).sum((1, 2, 3))
    return total / (error.shape[1] * inside.sum((1, 2, 3))).clamp_min(1)


def similarity_of(name: str) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Looks a similarity up.

    Raises:
        BenchError: unknown name.
    """
    if name not in SIMILARITIES:
        raise BenchError(f"Unknown similarity {name!r}{nearest(name, SIMILARITIES)}; known: {', '.join(SIMILARITIES)}.")
    return SIMILARITIES[name]


def smoothness(flow: Tensor, image: Tensor, edge: float = 150.0) -> Tensor:
    """Second differences of the flow, except across edges of the image.

    ``mean exp(-edge/3 sum_c |I(x+1) - I(x-1)|) |V(x+1) - 2 V(x) + V(x-1)|``, the same along y, and the sum of both.
    Means are over the pixels that have both neighbours, and over the two channels of the flow. As in Jonschkowski et
    al. (ECCV 2020), from whom the paper takes it, the edge at a pixel is the difference of its two neighbours; unlike
    their code, which works at a quarter of the resolution and averages over x and y, full resolution and the sum.

    Args:
        flow: ``(N, 2, H, W)`` in pixels, ``H, W >= 3``.
        image: the frame it starts from, ``(N, C, H, W)`` in ``[0, 1]``.
        edge: how fast an edge frees the flow.

    Returns:
        ``(N,)``.
    """
    total = flow.new_zeros(len(flow))
    for axis in (3, 2):
        size = flow.shape[axis] - 2
        before, here, after = (flow.narrow(axis, k, size) for k in range(3))
        contrast = (image.narrow(axis, 2, size) - image.narrow(axis, 0, size)).abs().sum(1, keepdim=True)
        bend = (after - 2 * here + before).abs()
        total = total + ((-edge / 3 * contrast).exp() * bend).mean((1, 2, 3))
    return total


# --- whole clips -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """Two frames of a clip that are compared: their numbers, and their weights in the two terms of the loss."""

    first: int
    second: int
    photometric: float
    smoothness: float


class MotionLoss(nn.Module):
    """The loss that the motion-consistency defence lowers.

    ``(sum over constraints of weight * sum over pairs of photometric + smooth * sum over forward pairs of smoothness) /
    number of forward pairs``. As in equations 1 and 10 of the paper, a pair weighs the same whichever constraint it
    belongs to (63, 63 and 32 of them in 64 frames); unlike there, the sum is divided by the one number, so that a
    single constraint is a mean over its pairs. Photometric error and smoothness are means over pixels and channels of
    clips in ``[0, 1]``; the paper leaves the reduction over channels and the weight of the smoothness open.

    Constraints:

    - ``forward``: each frame against the next one.
    - ``backward``: each frame against the one before; the forward loss of the reversed clip.
    - ``long``: frame ``i`` against frame ``i + distance``. By default half the clip, and the last frame of a clip of
      odd length has no partner.

    Smoothness is asked of the forward flow only, so that several constraints contain the single one; without
    ``forward``, the first constraint's flow is smoothed and its pairs are counted.

    Clips are looked at one by one, so that a clip's gradient is the same, to the last bit, in any batch: the defence
    takes its sign.

    Args:
        flow: the flow network, frozen; every frame is encoded once, however many pairs it belongs to.
        constraints: which of :data:`CONSTRAINTS`.
        weights: of the constraints, in their order; 1 each if empty.
        similarity: see :func:`photometric`.
        smooth: weight of the smoothness of flow in pixels. For a tenth of the photometric loss on clean clips,
            :meth:`balanced` finds 1.6 on actions12 and 0.75 on motion12 with ``flow_tiny``.
        edge: see :func:`smoothness`.
        distance: of the long range, in frames; 0 for half the clip.
        pairs_at_once: how many frames, and then pairs of frames, are in memory together, 0 for all; the others' graph
            is computed again on the way back. Only where the gradient itself is differentiated, each group of pairs
            encodes its own frames once more.

    Raises:
        BenchError: an unknown constraint or similarity, or a number out of range.
    """

    def __init__(
        self,
        flow: FlowEstimator,
        constraints: Sequence[str] = ("forward",),
        weights: Sequence[float] = (),
        similarity: str = "l1",
        smooth: float = 1.5,
        edge: float = 150.0,
        distance: int = 0,
        pairs_at_once: int = 0,
    ) -> None:
        super().__init__()
        self.flow = flow
        self.constraints = _names(constraints)
        self.weights = tuple(weights) or (1.0,) * len(self.constraints)
        if len(self.weights) != len(self.constraints) or not all(_positive(w) for w in self.weights):
            raise BenchError(
                f"There must be one positive weight for each of the constraints {', '.join(self.constraints)}, not "
                f"{weights!r}."
            )
        similarity_of(similarity)
        if not (_positive(smooth) or smooth == 0) or not (_positive(edge) or edge == 0):
            raise BenchError(f"smoothness and edge must be finite and not negative, not {smooth!r} and {edge!r}.")
        at_least("distance", distance, 0)
        at_least("pairs_at_once", pairs_at_once, 0)
        self.similarity, self.smooth, self.edge = similarity, smooth, edge
        self.distance, self.pairs_at_once = distance, pairs_at_once

    def pairs(self, frames: int) -> list[Pair]:
        """The pairs of a clip of ``frames`` frames.

        Raises:
            BenchError: the clip is too short.
        """
        if frames < 2:
            raise BenchError(f"Motion consistency compares frames of a clip: it needs at least two, not {frames}.")
        bent = "forward" if "forward" in self.constraints else self.constraints[0]
        count = len(self._places(bent, frames))
        pairs = []
        for name, weight in zip(self.constraints, self.weights, strict=True):
            bend = 1 / count if name == bent else 0.0
            pairs += [Pair(i, j, weight / count, bend) for i, j in self._places(name, frames)]
        return pairs

    def _places(self, constraint: str, frames: int) -> list[tuple[int, int]]:
        if constraint == "forward":
            return [(i, i + 1) for i in range(frames - 1)]
        if constraint == "backward":
            return [(i + 1, i) for i in range(frames - 1)]
        if self.distance >= frames:
            raise BenchError(
                f"The long-range constraint compares frames {self.distance} apart, but the clips have {frames}: lower "
                "distance, or leave it at 0 for half the clip."
            )
        apart = self.distance or frames // 2
        return [(i, i + apart) for i in range(frames - apart if self.distance else apart)]

    def terms(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """The two parts of the loss, the smoothness without its weight.

        Args:
            clips: ``(B, 3, T, H, W)`` in ``[0, 1]``.

        Returns:
            Photometric and smoothness, ``(B,)`` each.

        Raises:
            BenchError: the input is not a batch of RGB clips, or the clips are too short.
        """
        pairs = self._pairs_of(clips)
        rows = [self._terms(pairs, clip, self.pairs_at_once) for clip in clips.split(1)]
        photo, smooth = torch.stack(rows).unbind(1)
        return photo, smooth

    def forward(self, clips: Tensor) -> Tensor:
        """The loss of each clip, ``(B,)``; see :meth:`terms`."""
        photo, smooth = self.terms(clips)
        return photo + self.smooth * smooth

    def gradient(self, clips: Tensor) -> Tensor:
        """Gradient of each clip's loss with respect to the clip: a shape like ``clips``, whatever the grad mode.

        It can be differentiated in turn, if ``clips`` takes a gradient: everything is then computed again on the way
        back, one clip and one group of pairs after the other, and only ``clips`` is kept.

        Raises:
            BenchError: as :meth:`terms`.
        """
        pairs = self._pairs_of(clips)
        if torch.is_grad_enabled() and clips.requires_grad:
            return torch.cat([_Slope.apply(self, pairs, clip) for clip in clips.split(1)])
        return torch.cat([self.slope(pairs, clip) for clip in clips.split(1)])

    @torch.no_grad()
    def balanced(self, clips: Tensor, share: float = 0.1) -> float:
        """The weight at which the smoothness is a share of the photometric loss, on average over clean clips."""
        photo, smooth = self.terms(clips)
        return share * float(photo.mean() / smooth.mean())

    def _pairs_of(self, clips: Tensor) -> list[Pair]:
        if clips.ndim != 5 or clips.shape[1] != 3:
            raise BenchError(
                f"Motion consistency takes RGB clips (B, 3, T, H, W), not {tuple(clips.shape)}; a classifier of "
                "optical flow must compute the flow itself, as flow_stream_tiny does."
            )
        # In the order of time, so that a group shares frames.
        return sorted(self.pairs(clips.shape[2]), key=lambda p: min(p.first, p.second))

    def groups(self, pairs: Sequence[Pair]) -> list[Sequence[Pair]]:
        """Pairs that are in memory together."""
        size = self.pairs_at_once or len(pairs)
        return [pairs[i : i + size] for i in range(0, len(pairs), size)]

    def _terms(self, pairs: Sequence[Pair], clip: Tensor, at_once: int) -> Tensor:
        """Photometric and smoothness that some pairs add to the loss of one clip ``(1, 3, T, H, W)``: ``(2,)``."""
        used = sorted({p.first for p in pairs} | {p.second for p in pairs})
        frames = clip[0].transpose(0, 1)[used]
        features = encode(self.flow, frames, at_once)
        if not at_once:
            return self._part(pairs, used, frames, *features)
        groups = self.groups(pairs)
        return torch.stack([saving(partial(self._part, g, used), frames, *features) for g in groups]).sum(0)

    def _part(self, pairs: Sequence[Pair], used: list[int], frames: Tensor, *features: Tensor) -> Tensor:
        """:meth:`_terms` of a group of pairs, from all ``used`` frames and their features."""
        first, second = [used.index(p.first) for p in pairs], [used.index(p.second) for p in pairs]
        flow = self.flow.match(tuple(f[first] for f in features), tuple(f[second] for f in features))
        photo = photometric(frames[first], frames[second], flow, self.similarity)
        bend = smoothness(flow, frames[first], self.edge)
        weights = flow.new_tensor([[p.photometric for p in pairs], [p.smoothness for p in pairs]])
        return (weights * torch.stack([photo, bend])).sum(1)

    def slope(self, pairs: Sequence[Pair], clip: Tensor) -> Tensor:
        """Gradient of what some pairs add to the loss of a clip ``(1, 3, T, H, W)``; differentiable if the clip is."""
        twice = torch.is_grad_enabled() and clip.requires_grad
        with torch.enable_grad(), _TwiceDifferentiable() if twice else nullcontext():
            x = clip if twice else clip.detach().requires_grad_(True)
            # What is differentiated twice is kept whole: it is one group.
            photo, smooth = self._terms(pairs, x, 0 if twice else self.pairs_at_once).unbind()
            (gradient,) = torch.autograd.grad(photo + self.smooth * smooth, x, create_graph=twice)
        return gradient


class _Slope(torch.autograd.Function):
    """The gradient of the loss of a clip. On the way back each group of pairs is computed anew, by itself."""

    @staticmethod
    def forward(ctx: Any, loss: MotionLoss, pairs: Sequence[Pair], clip: Tensor) -> Tensor:
        ctx.loss, ctx.pairs = loss, pairs
        ctx.save_for_backward(clip)
        return loss.slope(pairs, clip.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, Tensor]:
        (clip,) = ctx.saved_tensors
        total = torch.zeros_like(clip)
        for group in ctx.loss.groups(ctx.pairs):
            with torch.enable_grad():
                leaf = clip.detach().requires_grad_(True)
                total += torch.autograd.grad(ctx.loss.slope(group, leaf), leaf, grads[0])[0]
        return None, None, total


def load_motion_flow(flow: str, weights: str, updates: int) -> FlowEstimator:
    """The flow network of defence and attacks: :func:`bench.flow.estimators.load_flow` with the paper's weights.

    Those are RAFT's for Sintel, ``C_T_SKHT_V1`` of ``raft_large``; ``raft_small`` has none, and keeps its default.
    """
    return load_flow(flow, weights or ("C_T_SKHT_V1" if flow == "raft_large" else None), updates=updates)


def _names(constraints: Sequence[str]) -> tuple[str, ...]:
    given = (constraints,) if isinstance(constraints, str) else tuple(constraints)
    for name in given:
        if name not in CONSTRAINTS:
            raise BenchError(
                f"Unknown constraint {name!r}{nearest(name, CONSTRAINTS)}; known: {', '.join(CONSTRAINTS)}."
            )
    if not given or len(set(given)) < len(given):
        raise BenchError(f"constraints must name each of one or more constraints once, not {constraints!r}.")
    return given


def _positive(number: object) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and 0 < number < float("inf")


# --- second derivatives ----------------------------------------------------------------------------------------------


class _TwiceDifferentiable(TorchFunctionMode):
    """Inside, ``grid_sample`` has a second derivative, which PyTorch long had not (issue 34704)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (bilinear if func is F.grid_sample else func)(*args, **(kwargs or {}))


def bilinear(
    input: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Tensor:
    """``torch.nn.functional.grid_sample`` of images, put together from parts that are differentiable twice.

    Args:
        input: ``(N, C, H, W)``.
        grid: ``(N, h, w, 2)``; -1 and 1 are the centres of the outermost pixels.

    Returns:
        ``(N, C, h, w)``, zero outside.
    """
    if (mode, padding_mode, align_corners) != ("bilinear", "zeros", True):
        raise NotImplementedError("only bilinear sampling with zeros outside and aligned corners")
    height, width = input.shape[-2:]
    x, y = (grid[..., 0] + 1) * (width - 1) / 2, (grid[..., 1] + 1) * (height - 1) / 2
    left, top = x.detach().floor(), y.detach().floor()
    right, below = x - left, y - top  # how far beyond the pixel to the left, and above
    sampled = input.new_zeros(input.shape[0], input.shape[1], grid.shape[1] * grid.shape[2])
    for column, row, weight in (
        (left, top, (1 - right) * (1 - below)),
        (left + 1, top, right * (1 - below)),
        (left, top + 1, (1 - right) * below),
        (left + 1, top + 1, right * below),
    ):
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        place = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long()
        values = input.flatten(2).gather(2, place.flatten(1)[:, None].expand(-1, input.shape[1], -1))
        sampled = sampled + values * (weight * inside).flatten(1)[:, None]
    return sampled.unflatten(2, grid.shape[1:3])
