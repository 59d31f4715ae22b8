"""Threat models: what an attack may do to a clip, and the geometry of each norm."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, ClassVar

import torch
from torch import Tensor

from bench.errors import BenchError, nearest
from bench.seeds import ClipRandom


def _per_clip(values: Tensor | float, like: Tensor) -> Tensor:
    """A number, or one per clip ``(B,)``, shaped to broadcast over clips ``(B, 3, T, H, W)``."""
    tensor = torch.as_tensor(values, dtype=like.dtype, device=like.device)
    return tensor.reshape(-1, *([1] * (like.ndim - 1))) if tensor.ndim else tensor


class Norm(ABC):
    """Geometry of a ball around the clean clip. All methods act on batches and are exact per clip."""

    name: ClassVar[str]

    @abstractmethod
    def random_start(self, clips: Tensor, size: Tensor | float, rng: ClipRandom) -> Tensor:
        """A point uniform in the ball around each clip, then clamped to ``[0, 1]``."""

    @abstractmethod
    def project(self, points: Tensor, clips: Tensor, size: Tensor | float) -> Tensor:
        """The nearest point of the ball, then clamped to ``[0, 1]`` (which never leaves the ball)."""

    @abstractmethod
    def direction(self, gradient: Tensor) -> Tensor:
        """The unit step of steepest ascent. A zero gradient gives a zero step."""

    @abstractmethod
    def distance(self, points: Tensor, clips: Tensor) -> Tensor:
        """``float64 (B,)``: the norm of the difference."""


class Linf(Norm):
    """Largest change of any value, in intensity units."""

    name = "linf"

    def random_start(self, clips: Tensor, size: Tensor | float, rng: ClipRandom) -> Tensor:
        noise = rng.uniform(*clips.shape[1:], device=clips.device).to(clips.dtype)
        return (clips + (2 * noise - 1) * _per_clip(size, clips)).clamp(0, 1)

    def project(self, points: Tensor, clips: Tensor, size: Tensor | float) -> Tensor:
        radius = _per_clip(size, clips)
        return clips.add((points - clips).clamp(-radius, radius)).clamp_(0, 1)

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def distance(self, points: Tensor, clips: Tensor) -> Tensor:
        return (points.double() - clips.double()).abs().flatten(1).amax(1)


class L2(Norm):
    """Euclidean length of the change over the whole clip, in intensity units."""

    name = "l2"

    def random_start(self, clips: Tensor, size: Tensor | float, rng: ClipRandom) -> Tensor:
        noise = rng.normal(*clips.shape[1:], device=clips.device).to(clips.dtype)
        # A Gaussian direction and a radius ~ u^(1/n) are uniform in the n-ball.
        radius = rng.uniform(1, device=clips.device).double().pow(1 / clips[0].numel()).to(clips.dtype)
        unit = noise / _per_clip(noise.flatten(1).norm(dim=1), clips)
        return (clips + unit * _per_clip(radius[:, 0], clips) * _per_clip(size, clips)).clamp(0, 1)

    def project(self, points: Tensor, clips: Tensor, size: Tensor | float) -> Tensor:
        delta = points - clips
        length = _per_clip(delta.flatten(1).double().norm(dim=1).to(clips.dtype), clips)
        factor = (_per_clip(size, clips) / length.clamp_min(1e-30)).clamp(max=1)
        return (clips + delta * factor).clamp(0, 1)

    def direction(self, gradient: Tensor) -> Tensor:
        # Scale by the largest value first: gradients of 1e-30 must not vanish when squared.
        peak = gradient.flatten(1).abs().amax(1)
        scaled = gradient / _per_clip(torch.where(peak > 0, peak, 1.0), gradient)
        length = scaled.flatten(1).norm(dim=1)
        return scaled / _per_clip(torch.where(length > 0, length, 1.0), gradient)

    def distance(self, points: Tensor, clips: Tensor) -> Tensor:
        return (points.double() - clips.double()).flatten(1).norm(dim=1)


class OneFrame(Norm):
    """Largest change of any value of one frame; every other frame is as it was. Which frame is free.

    The ball is the union of the linf balls on the single frames, and not convex: a point halfway between two of its
    points may change two frames.
    """

    name = "one-frame"

    def random_start(self, clips: Tensor, size: Tensor | float, rng: ClipRandom) -> Tensor:
        """A frame drawn at random, and in it a point uniform in the ball, then clamped to ``[0, 1]``."""
        frame = rng.integers(clips.shape[2], 1, device=clips.device)[:, 0]
        noise = 2 * rng.uniform(*clips.shape[1:], device=clips.device).to(clips.dtype) - 1
        return (clips + noise * self._only(frame, clips) * _per_clip(size, clips)).clamp(0, 1)

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

    def random_start(self, clips: Tensor, size: Tensor | float, rng: ClipRandom) -> Tensor:
        """Offsets uniform in ``[-size, size]``."""
        noise = rng.uniform(*clips.shape[1:3], 1, 1, device=clips.device).to(clips.dtype)
        return (clips + (2 * noise - 1) * _per_clip(size, clips)).clamp(0, 1)

    def project(self, points: Tensor, clips: Tensor, size: Tensor | float) -> Tensor:
        """The nearest point of the ball, exactly.

        For one colour of one frame, the squared distance is a parabola in the offset between any two offsets at which
        a pixel saturates. The best offset of each such piece is known in closed form; the best piece is taken.
        """
        x, p = clips.double().flatten(3), points.double().flatten(3)
        most = _per_clip(size, x)
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


NORMS: dict[str, Norm] = {norm.name: norm for norm in (Linf(), L2(), OneFrame(), Flicker())}


def norm_of(name: str) -> Norm:
    """Looks a norm up.

    Raises:
        BenchError: unknown name.
    """
    if not isinstance(name, str) or name not in NORMS:
        raise BenchError(f"Unknown norm {name!r}{nearest(name, NORMS)}; known: {', '.join(NORMS)}.")
    return NORMS[name]


def parse_size(text: str | float) -> float:
    """Reads ``4/255``, ``0.0157`` or ``2`` as a float.

    Raises:
        BenchError: not a number, negative or infinite.
    """
    try:
        if isinstance(text, bool):
            raise ValueError("a truth value is no size")
        number = float(Fraction(text.replace(" ", ""))) if isinstance(text, str) else float(text)
    except (ValueError, TypeError, OverflowError, ZeroDivisionError):
        raise BenchError(f"Cannot read the size {text!r}: write a number or a fraction such as 4/255.") from None
    if not math.isfinite(number) or number < 0:
        raise BenchError(f"A size must be finite and not negative, not {text!r}.")
    return number


@dataclass(frozen=True)
class Budget:
    """A threat model and the effort spent on it.

    Attributes:
        norm: ``linf``, ``l2``, ``one-frame`` or ``flicker``.
        size: radius of the ball in intensity units (clips are in ``[0, 1]``), a float or ``(B,)``, one per clip.
        steps: gradient steps of an iterative attack.
        step_size: length of one step, or ``None`` for the attack's own rule (``2.5 * size / steps`` for PGD).
        restarts: independent random starts.

    Raises:
        BenchError: unknown norm, negative size, or a count below one.
    """

    norm: str = "linf"
    size: float | Tensor = 4 / 255
    steps: int = 10
    step_size: float | None = None
    restarts: int = 1

    def __post_init__(self) -> None:
        norm_of(self.norm)
        if not bool((torch.as_tensor(self.size) >= 0).all()):
            raise BenchError(f"A budget's size must not be negative, but it is {self.size}.")
        if self.steps < 1 or self.restarts < 1:
            raise BenchError(f"A budget needs at least 1 step and 1 restart, not {self.steps} and {self.restarts}.")
        if self.step_size is not None and not self.step_size > 0:
            raise BenchError(f"A budget's step_size must be positive, not {self.step_size}.")

    @classmethod
    def parse(cls, settings: Mapping[str, Any]) -> Budget:
        """Reads a budget from a grid: ``{norm: linf, size: 4/255, steps: 10, step_size: 1/255, restarts: 1}``.

        Raises:
            BenchError: an unknown key (the nearest one is named) or an unreadable value.
        """
        known = ("norm", "size", "steps", "step_size", "restarts")
        for key in settings:
            if key not in known:
                raise BenchError(f"A budget has no key {key!r}{nearest(str(key), known)}; keys: {', '.join(known)}.")
        values = dict(settings)
        for key in ("size", "step_size"):
            if key in values and (key == "size" or values[key] is not None):
                values[key] = parse_size(values[key])
        for key in ("steps", "restarts"):
            if key in values and (not isinstance(values[key], int) or isinstance(values[key], bool)):
                raise BenchError(f"A budget's {key} must be a whole number, not {values[key]!r}.")
        return cls(**values)

    @property
    def geometry(self) -> Norm:
        return norm_of(self.norm)

    def select(self, rows: Tensor) -> Budget:
        """The budget of some clips of the batch."""
        if isinstance(self.size, Tensor) and self.size.ndim:
            return replace(self, size=self.size[rows.to(self.size.device)])
        return self

    def settings(self) -> dict[str, Any]:
        """Plain values for a cell's identity.

        Raises:
            BenchError: sizes differ from clip to clip, which no grid can express.
        """
        if isinstance(self.size, Tensor):
            raise BenchError("A budget with one size per clip has no place in a grid: give a single number.")
        return {
            "norm": self.norm,
            "size": float(self.size),
            "steps": self.steps,
            "step_size": self.step_size,
            "restarts": self.restarts,
        }

    def __str__(self) -> str:
        if isinstance(self.size, Tensor):
            return f"{self.norm} per-clip"
        in_255 = self.size * 255
        whole = self.norm != "l2" and round(in_255) >= 1 and abs(in_255 - round(in_255)) < 1e-9
        parts = [
            f"{self.norm} {round(in_255)}/255" if whole else f"{self.norm} {self.size:.9g}",
            f"{self.steps} step{'s' if self.steps > 1 else ''}",
        ]
        if self.step_size is not None:
            parts.append(f"step size {self.step_size:.9g}")
        if self.restarts > 1:
            parts.append(f"{self.restarts} restarts")
        return ", ".join(parts)
