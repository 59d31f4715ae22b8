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


NORMS: dict[str, Norm] = {norm.name: norm for norm in (Linf(), L2())}


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
        norm: ``linf`` or ``l2``.
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
        whole = self.norm == "linf" and round(in_255) >= 1 and abs(in_255 - round(in_255)) < 1e-9
        parts = [
            f"{self.norm} {round(in_255)}/255" if whole else f"{self.norm} {self.size:.9g}",
            f"{self.steps} step{'s' if self.steps > 1 else ''}",
        ]
        if self.step_size is not None:
            parts.append(f"step size {self.step_size:.9g}")
        if self.restarts > 1:
            parts.append(f"{self.restarts} restarts")
        return ", ".join(parts)
