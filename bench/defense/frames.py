"""Work on frames one by one, in portions that suit the device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_VALUES_AT_ONCE = 2**20
"""On a CPU: about what its cache holds. An accelerator takes all at once."""


def by_frames(work: Callable[[Tensor], Tensor], clips: Tensor) -> Tensor:
    """Applies to clips what treats every frame by itself.

    Args:
        work: frames ``(N, 3, H, W)`` to as many of the same size; ``N`` is nobody's choice, and must not matter.
        clips: ``(B, 3, T, H, W)``.

    Returns:
        The shape and the type of ``clips``.
    """
    batch = len(clips)
    frames = clips.transpose(1, 2).flatten(0, 1)
    if clips.device.type == "cpu":
        size = max(1, _VALUES_AT_ONCE // max(1, frames[0].numel()))
        done = torch.cat([work(part).to(clips.dtype) for part in frames.split(size)])
    else:
        done = work(frames).to(clips.dtype)
    return done.unflatten(0, (batch, -1)).transpose(1, 2)
