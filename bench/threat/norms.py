"""Geometry of the balls around a clip."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from bench.errors import BenchError
from bench.seeds import ClipRandom


def per_clip(values: Tensor | float, like: Tensor) -> Tensor:
    """A number, or one per clip ``(B,)``, shaped to broadcast over clips ``(B, 3, T, H, W)``."""
    if not isinstance(values, Tensor):
        return like.new_full((), values)  # which copies nothing to the device
    tensor = values.to(like)
    return tensor.reshape(-1, *([1] * (like.ndim - 1))) if tensor.ndim else tensor


def whole_sizes(size: Tensor | float, clips: Tensor, name: str) -> list[int]:
    """Sizes in pixels, one per clip.

    Raises:
        BenchError: one of them is not whole; ``name`` is that of the budget.
    """
    values = torch.as_tensor(size, dtype=torch.float64).expand(len(clips)).tolist()
    for value in values:
        if value != int(value):
            raise BenchError(f"The size of a {name} budget is a whole number of pixels, not {value:g}.")
    return [int(value) for value in values]


class Norm(ABC):
    """Geometry of a ball around the clean clip. All methods act on batches and are exact per clip."""

    name: ClassVar[str]
    largest: ClassVar[float] = math.inf
    """A size that reaches every clip; a larger one is a slip, as of who writes 8 for 8/255."""
    whole: ClassVar[bool] = False
    """Whether sizes are whole numbers of pixels."""

    def words(self, size: float) -> str:
        """A size as tables print it: ``4/255`` where it is whole in that unit."""
        in_255 = size * 255
        whole = round(in_255) >= 1 and abs(in_255 - round(in_255)) < 1e-9
        return f"{round(in_255)}/255" if whole else f"{size:.9g}"

    @abstractmethod
    def random_start(self, clips: Tensor, size: Tensor | float, rng: ClipRandom) -> Tensor:
        """A point uniform in the ball around each clip, then clamped to ``[0, 1]``."""

    @abstractmethod
    def project(self, points: Tensor, clips: Tensor, size: Tensor | float) -> Tensor:
        """The nearest point of the ball, then clamped to ``[0, 1]`` (which never leaves the ball)."""

    def projector(self, clips: Tensor, size: Tensor | float) -> Callable[[Tensor], Tensor]:
        """:meth:`project` for many points around the same clips: it may work in place, and knows the balls already."""
        return lambda points: self.project(points, clips, size)

    @abstractmethod
    def direction(self, gradient: Tensor) -> Tensor:
        """The unit step of steepest ascent. A zero gradient gives a zero step."""

    @abstractmethod
    def distance(self, points: Tensor, clips: Tensor) -> Tensor:
        """``float64 (B,)``: the norm of the difference."""


class Linf(Norm):
    """Largest change of any value, in intensity units."""

    name = "linf"
    largest = 1.0

    def random_start(self, clips: Tensor, size: Tensor | float, rng: ClipRandom) -> Tensor:
        noise = rng.uniform(*clips.shape[1:], device=clips.device).to(clips.dtype)
        return (clips + (2 * noise - 1) * per_clip(size, clips)).clamp(0, 1)

    def project(self, points: Tensor, clips: Tensor, size: Tensor | float) -> Tensor:
        return self.projector(clips, size)(points.clone())

    def projector(self, clips: Tensor, size: Tensor | float) -> Callable[[Tensor], Tensor]:
        radius = per_clip(size, clips)
        low, high = (clips - radius).clamp_(0, 1), (clips + radius).clamp_(0, 1)
        return lambda points: points.clamp_(low, high)

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def distance(self, points: Tensor, clips: Tensor) -> Tensor:
        return (points.double() - clips.double()).abs().flatten(1).amax(1)


class L2(Norm):
    """Euclidean length of the change over the whole clip, in intensity units."""

    name = "l2"

    def words(self, size: float) -> str:
        return f"{size:.9g}"

    def random_start(self, clips: Tensor, size: Tensor | float, rng: ClipRandom) -> Tensor:
        noise = rng.normal(*clips.shape[1:], device=clips.device).to(clips.dtype)
        # A Gaussian direction and a radius ~ u^(1/n) are uniform in the n-ball.
        radius = rng.uniform(1, device=clips.device).double().pow(1 / clips[0].numel()).to(clips.dtype)
        unit = noise / per_clip(noise.flatten(1).norm(dim=1), clips)
        return (clips + unit * per_clip(radius[:, 0], clips) * per_clip(size, clips)).clamp(0, 1)

    def project(self, points: Tensor, clips: Tensor, size: Tensor | float) -> Tensor:
        delta = points - clips
        length = per_clip(delta.flatten(1).double().norm(dim=1).to(clips.dtype), clips)
        factor = (per_clip(size, clips) / length.clamp_min(1e-30)).clamp(max=1)
        return (clips + delta * factor).clamp(0, 1)

    def direction(self, gradient: Tensor) -> Tensor:
        # Scale by the largest value first: gradients of 1e-30 must not vanish when squared.
        peak = gradient.flatten(1).abs().amax(1)
        scaled = gradient / per_clip(torch.where(peak > 0, peak, 1.0), gradient)
        length = scaled.flatten(1).norm(dim=1)
        return scaled / per_clip(torch.where(length > 0, length, 1.0), gradient)

    def distance(self, points: Tensor, clips: Tensor) -> Tensor:
        return (points.double() - clips.double()).flatten(1).norm(dim=1)


class OneFrame(Norm):
    """Largest change of any value of one frame; every other frame is as it was. Which frame is free.

    The ball is the union of the linf balls on the single frames, and not convex: a point halfway between two of its
    points may change two frames.
    """

    name = "one-frame"
    largest = 1.0

    def random_start(self, clips: Tensor, size: Tensor | float, rng: ClipRandom) -> Tensor:
        """A frame drawn at random, and in it a point uniform in the ball, then clamped to ``[0, 1]``."""
        frame = rng.integers(clips.shape[2], 1, device=clips.device)[:, 0]
        noise = 2 * rng.uniform(*clips.shape[1:], device=clips.device).to(clips.dtype) - 1
        return (clips + noise * self._only(frame, clips) * per_clip(size, clips)).clamp(0, 1)

    def project(self, points: Tensor, clips: Tensor, size: Tensor | float) -> Tensor:
        """The nearest point of ball and cube: the one frame is kept that is dearest to give up."""
        within = Linf().project(points, clips, size)
        dropped, kept = ((points - other).double().square().sum((1, 3, 4)) for other in (clips, within))
        return torch.where(self._only((dropped - kept).argmax(1), clips), within, clips)

    def direction(self, gradient: Tensor) -> Tensor:
        """The sign, in the one frame whose gradient has the largest sum of absolute values."""
        return gradient.sign() * self._only(gradient.double().abs().sum((1, 3, 4)).argmax(1), gradient)

    def distance(self, points: Tensor, clips: Tensor) -> Tensor:
        """``float64 (B,)``: the largest change, infinite where several frames differ."""
        change = (points.double() - clips.double()).abs().amax((1, 3, 4))
        return change.amax(1).where((change > 0).sum(1) <= 1, float("inf"))

    @staticmethod
    def _only(frame: Tensor, clips: Tensor) -> Tensor:
        """``bool (B, 1, T, 1, 1)``: whether a frame is the one given for each clip, ``(B,)``."""
        return (torch.arange(clips.shape[2], device=clips.device) == frame[:, None])[:, None, :, None, None]


class Flicker(Norm):
    """Largest of the offsets by which the colours of whole frames are shifted (Pony et al., CVPR 2021).

    A frame has one offset for each colour, added to every pixel; the sum is clamped to ``[0, 1]``. As pixels saturate
    at different offsets, the ball is not convex.
    """

    name = "flicker"
    largest = 1.0

    def random_start(self, clips: Tensor, size: Tensor | float, rng: ClipRandom) -> Tensor:
        """Offsets uniform in ``[-size, size]``."""
        noise = rng.uniform(*clips.shape[1:3], 1, 1, device=clips.device).to(clips.dtype)
        return (clips + (2 * noise - 1) * per_clip(size, clips)).clamp(0, 1)

    def project(self, points: Tensor, clips: Tensor, size: Tensor | float) -> Tensor:
        """The nearest point of the ball, exactly.

        For one colour of one frame, the squared distance is a parabola in the offset between any two offsets at which
        a pixel saturates. The best offset of each such piece is known in closed form; the best piece is taken.
        """
        x, p = clips.double().flatten(3), points.double().flatten(3)
        most = per_clip(size, x)
        # Rising through -x a pixel leaves 0, rising through 1 - x it comes to rest at 1.
        ends, order = torch.cat([-x, 1 - x], -1).sort(-1)

        def so_far(leaving: Tensor, resting: Tensor) -> Tensor:
            """A sum over pixels on each piece, from its change where a pixel leaves 0 and where it rests at 1."""
            return torch.cat([leaving, resting], -1).gather(-1, order).cumsum(-1)[..., :-1]

        change, one = p - x, torch.ones_like(x)
        count, total = so_far(one, -one), so_far(change, -change)
        rest = so_far(change.square() - p.square(), (1 - p).square() - change.square())
        low, high = ends[..., :-1].maximum(-most), ends[..., 1:].minimum(most)
        offset = (total / count.clamp_min(1)).clamp_min(low).minimum(high)
        error = (count * offset - 2 * total) * offset + rest
        piece = error.masked_fill(low > high, float("inf")).argmin(-1, keepdim=True)
        return (clips + offset.gather(-1, piece)[..., None].to(clips.dtype)).clamp(0, 1)

    def direction(self, gradient: Tensor) -> Tensor:
        """One sign per colour and frame, that of the gradient's sum."""
        return gradient.double().sum((3, 4), keepdim=True).sign().to(gradient.dtype).expand_as(gradient)

    def distance(self, points: Tensor, clips: Tensor) -> Tensor:
        """``float64 (B,)``: the largest offset, infinite where no offsets lead from the clip to the point.

        A pixel at 1 says that the offset is at least ``1 - x``, one at 0 that it is at most ``-x``.
        """
        change = (points.double() - clips.double()).flatten(3)
        p = points.flatten(3)
        least = change.masked_fill(p <= 0, -1.0).amax(3)
        most = change.masked_fill(p >= 1, 1.0).amin(3)
        offset = least.clamp_min(0) - most.clamp_max(0)
        # Adding an offset rounds: allow a few units in the last place.
        exact = least <= most + 8 * torch.finfo(points.dtype).eps
        return offset.where(exact, float("inf")).flatten(1).amax(1)
