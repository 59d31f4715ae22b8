"""Threat models: what an attack may do to a clip, and the effort it may spend."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from bench.errors import BenchError, nearest
from bench.threat.framing import Framing
from bench.threat.norms import L2, Flicker, Linf, Norm, OneFrame
from bench.threat.ratios import MultL2, MultLinf
from bench.threat.regions import Border, Pixels, Rectangle

NORMS: dict[str, Norm] = {
    norm.name: norm
    for norm in (Linf(), L2(), OneFrame(), Flicker(), Rectangle(), Border(), Pixels(), MultLinf(), MultL2(), Framing())
}


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
        norm: one of :data:`NORMS`: ``linf``, ``l2``, ``one-frame``, ``flicker``, ``rectangle``, ``border``, ``pixels``,
            ``framing``, ``mult-linf`` or ``mult-l2``.
        size: radius of the ball, a float or ``(B,)``, one per clip: intensities (clips are in ``[0, 1]``), pixels for
            ``rectangle`` (the longer side), ``border`` and ``framing`` (its width) and ``pixels`` (how many in a
            frame), or ratios.
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
        parts = [
            f"{self.norm} {self.geometry.words(float(self.size))}",
            f"{self.steps} step{'s' if self.steps > 1 else ''}",
        ]
        if self.step_size is not None:
            parts.append(f"step size {self.step_size:.9g}")
        if self.restarts > 1:
            parts.append(f"{self.restarts} restarts")
        return ", ".join(parts)
