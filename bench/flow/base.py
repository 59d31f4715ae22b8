"""Optical flow of clips behind one small interface, differentiable with respect to the frames."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import BenchError

Features = tuple[Tensor, ...]
"""What an estimator keeps of a frame: tensors whose first axis counts frames."""


class FlowEstimator(nn.Module, ABC):
    """Base class: the features of a frame are computed once, however many pairs the frame belongs to.

    Subclasses implement :meth:`features` and :meth:`match`. Flow is *forward* flow in pixels: channel 0 along x
    (right), channel 1 along y (down); the content of pixel ``p`` of the first frame is at ``p + flow(p)`` in the
    second.
    """

    @abstractmethod
    def features(self, frames: Tensor) -> Features:
        """Frames ``float32 (N, 3, H, W)`` in ``[0, 1]`` to the tensors that :meth:`match` compares."""

    @abstractmethod
    def match(self, first: Features, second: Features) -> Tensor:
        """Features of ``N`` pairs of frames to their flow ``(N, 2, H, W)`` in pixels."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Flow ``(N, 2, H, W)`` from ``first`` to ``second``, both ``float32 (N, 3, H, W)`` in ``[0, 1]``.

        Raises:
            BenchError: the two are not equally many RGB frames of one size.
        """
        if first.ndim != 4 or first.shape[1] != 3 or first.shape != second.shape:
            raise BenchError(
                f"Flow needs two batches of RGB frames (N, 3, H, W) of one shape, not {tuple(first.shape)} "
                f"and {tuple(second.shape)}."
            )
        return self.match(self.features(first), self.features(second))

    def clip_flow(self, clips: Tensor) -> Tensor:
        """Flow between neighbouring frames.

        Args:
            clips: ``float32 (B, 3, T, H, W)`` in ``[0, 1]``, ``T >= 2``.

        Returns:
            ``(B, 2, T-1, H, W)`` in pixels.

        Raises:
            BenchError: the input is not a batch of RGB clips of two frames or more.
        """
        if clips.ndim != 5 or clips.shape[1] != 3 or clips.shape[2] < 2:
            raise BenchError(f"Flow needs clips (B, 3, T, H, W) of at least two frames, not {tuple(clips.shape)}.")
        batch, _, frames = clips.shape[:3]
        features = self.features(clips.transpose(1, 2).flatten(0, 1))
        split = [f.unflatten(0, (batch, frames)) for f in features]
        first = tuple(f[:, :-1].flatten(0, 1) for f in split)
        second = tuple(f[:, 1:].flatten(0, 1) for f in split)
        return self.match(first, second).unflatten(0, (batch, frames - 1)).transpose(1, 2)


def warp(second: Tensor, flow: Tensor) -> Tensor:
    """Backward warp: what frame ``second`` shows at ``p + flow(p)``, bilinear, zero outside the frame.

    Args:
        second: ``(N, C, H, W)``, any channels.
        flow: ``(N, 2, H, W)`` in pixels of that resolution, channel 0 along x.

    Returns:
        ``(N, C, H, W)``, aligned with the first frame.
    """
    height, width = second.shape[-2:]
    x = torch.arange(width, dtype=flow.dtype, device=flow.device)
    y = torch.arange(height, dtype=flow.dtype, device=flow.device)
    # align_corners: -1 and 1 are the centres of the outermost pixels.
    to_x = 2 * (x[None, None] + flow[:, 0]) / max(width - 1, 1) - 1
    to_y = 2 * (y[None, :, None] + flow[:, 1]) / max(height - 1, 1) - 1
    return F.grid_sample(second, torch.stack([to_x, to_y], -1), mode="bilinear", align_corners=True)


def splat(values: Tensor, flow: Tensor) -> Tensor:
    """The transpose of :func:`warp`: gives each position of the second frame what the warp took from it.

    Args:
        values: ``(N, C, H, W)``, one per position of the first frame.
        flow: ``(N, 2, H, W)`` in pixels of that resolution, channel 0 along x; differentiable.

    Returns:
        ``(N, C, H, W)``, with ``(warp(x, flow) * values).sum() == (x * splat(values, flow)).sum()``.
    """
    batch, channels, height, width = values.shape
    x = torch.arange(width, dtype=flow.dtype, device=flow.device) + flow[:, 0]
    y = torch.arange(height, dtype=flow.dtype, device=flow.device)[:, None] + flow[:, 1]
    splatted = values.new_zeros(batch, channels, height * width)
    left, top = x.detach().floor(), y.detach().floor()
    for column, row in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
        weight = (1 - (x - column).abs()) * (1 - (y - row).abs())
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        place = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long()
        deposit = (values * (weight * inside)[:, None]).flatten(2)
        splatted = splatted.scatter_add(2, place.flatten(1)[:, None].expand_as(deposit), deposit)
    return splatted.unflatten(2, (height, width))


def endpoint_error(flow: Tensor, truth: Tensor) -> Tensor:
    """Distance in pixels between two flows, channels on axis 1: ``(N, 2, ...)`` to ``(N, ...)``."""
    return (flow - truth).norm(dim=1)
