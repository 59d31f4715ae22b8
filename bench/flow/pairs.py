"""Flow of many pairs of frames in bounded memory: every frame is encoded once, pairs are matched a few at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bench.errors import BenchError
from bench.flow.base import Features, FlowEstimator

_Found = TypeVar("_Found")


def with_updates(flow: FlowEstimator, updates: int | None) -> FlowEstimator:
    """The same network with another number of updates, where it has such a setting: a view, since a graph that is
    computed again on the way back must find the number it was made with."""
    if updates is None or not hasattr(flow, "updates"):
        return flow
    view: Any = copy.copy(flow)
    view.updates = updates
    return view


def saving(work: Callable[..., _Found], *inputs: Tensor) -> _Found:
    """``work(*inputs)``; with a gradient, it is computed again on the way back and keeps only its inputs."""
    if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        return checkpoint(work, *inputs, use_reentrant=False, preserve_rng_state=False)
    return work(*inputs)


def encode(flow: FlowEstimator, frames: Tensor, at_once: int = 0) -> Features:
    """Features of frames ``(N, 3, H, W)``, each computed once.

    Args:
        at_once: frames that go through the network together, recomputed on the way back; 0 for all, kept.
    """
    if not at_once:
        return flow.features(frames)
    parts = [saving(flow.features, chunk) for chunk in frames.split(at_once)]
    return tuple(torch.cat(features) for features in zip(*parts, strict=True))


def flow_of_pairs(flow: FlowEstimator, frames: Tensor, pairs: Sequence[tuple[int, int]], at_once: int = 0) -> Tensor:
    """Flow between chosen frames, forward, backward or far apart.

    Args:
        flow: the estimator.
        frames: ``float32 (N, 3, H, W)`` in ``[0, 1]``.
        pairs: numbers of the first and the second frame of each pair, at least one.
        at_once: frames, and then pairs, that are in memory together; 0 for all. The graph of the others is computed
            again on the way back, so that memory does not grow with their number.

    Returns:
        ``(len(pairs), 2, H, W)`` in pixels.
    """
    features = encode(flow, frames, at_once)
    size = at_once or len(pairs)
    flows = []
    for begin in range(0, len(pairs), size):
        first, second = zip(*pairs[begin : begin + size], strict=True)

        def match(*features: Tensor, first: Sequence[int] = first, second: Sequence[int] = second) -> Tensor:
            return flow.match(tuple(f[list(first)] for f in features), tuple(f[list(second)] for f in features))

        flows.append(saving(match, *features) if at_once else match(*features))
    return torch.cat(flows)


def clip_flow(flow: FlowEstimator, clips: Tensor, at_once: int = 0) -> Tensor:
    """Flow between neighbouring frames, as :meth:`FlowEstimator.clip_flow`, in bounded memory.

    Args:
        flow: the estimator.
        clips: ``float32 (B, 3, T, H, W)`` in ``[0, 1]``, ``T >= 2``.
        at_once: see :func:`flow_of_pairs`.

    Returns:
        ``(B, 2, T-1, H, W)`` in pixels.

    Raises:
        BenchError: the input is not a batch of RGB clips of two frames or more.
    """
    if not at_once:
        return flow.clip_flow(clips)
    if clips.ndim != 5 or clips.shape[1] != 3 or clips.shape[2] < 2:
        raise BenchError(f"Flow needs clips (B, 3, T, H, W) of at least two frames, not {tuple(clips.shape)}.")
    batch, frames = len(clips), clips.shape[2]
    pairs = [(b * frames + t, b * frames + t + 1) for b in range(batch) for t in range(frames - 1)]
    flows = flow_of_pairs(flow, clips.transpose(1, 2).flatten(0, 1), pairs, at_once)
    return flows.unflatten(0, (batch, frames - 1)).transpose(1, 2)
