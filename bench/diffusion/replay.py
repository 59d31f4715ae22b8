"""Gradient checkpointing that keeps nothing but inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, work: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        ctx.work = work
        ctx.save_for_backward(x)
        return work(x)  # without a graph: forward runs under no_grad

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        (x,) = ctx.saved_tensors
        # Half-precision networks lose gradients below 1e-7, which confident classifiers send: each row goes through at
        # size one. Powers of two change no digit.
        largest = grads[0].flatten(1).abs().amax(1)
        scale = torch.ldexp(torch.ones_like(largest), torch.frexp(largest).exponent)
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(ctx.work(leaf), leaf, grads[0] / _like(scale, grads[0]))
        return None, gradient * _like(scale, gradient)


def _like(scale: Tensor, values: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (values.ndim - 1)).to(values.dtype)


def replayed(work: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``work(x)``, computed again on the way back instead of keeping its graph.

    ``torch.utils.checkpoint`` keeps the nodes of the graph, if not their tensors: megabytes per call of a large
    network, which add up over a trajectory. Here only ``x`` is kept.

    Args:
        work: a function of ``x`` alone, row by row: it must draw no random numbers, and nothing else it uses, its
            weights included, receives a gradient.
        x: rows along its first axis.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        replayable: Tensor = _Replay.apply(work, x)
        return replayable
    return work(x)
