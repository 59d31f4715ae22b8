"""Threat models: what an attack may do to a clip, and the effort it may spend."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from bench.errors import BenchError, nearest, short
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
        raise BenchError(f"Unknown norm {short(name)}{nearest(name, NORMS)}; known: {', '.join(NORMS)}.")
    return NORMS[name]


_DECIMAL = r"[0-9]{1,30}(?:\.[0-9]{0,30})?(?:[eE][+-]?[0-9]{1,3})?|\.[0-9]{1,30}(?:[eE][+-]?[0-9]{1,3})?"
_SIZE = re.compile(rf"\s*([+-]?(?:{_DECIMAL}))\s*(?:/\s*([0-9]{{1,30}})\s*)?", re.ASCII)


def parse_size(text: str | float) -> float:
    """Reads ``4/255``, ``0.0157`` or ``2`` as a float.

    Raises:
        BenchError: not a number, negative or infinite.
    """
    try:
        number = _fraction(text) if isinstance(text, str) else _number(text)
    except (ValueError, TypeError, OverflowError, ZeroDivisionError):
        raise BenchError(f"Cannot read the size {short(text)}: write a number or a fraction such as 4/255.") from None
    if not math.isfinite(number) or number < 0:
        raise BenchError(f"A size must be finite and not negative, not {short(text)}.")
    return number


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError("a truth value is no size")
    return float(value)


def _fraction(text: str) -> float:
    """What is neither a decimal nor one over a whole number is refused before it is computed: 1e999999999 takes
    hours."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError("not a number")
    return float(Fraction(match[1]) / int(match[2] or 1))


def _is_number(value: Any, kind: type) -> bool:
    return type(value) is not bool and isinstance(value, kind)


_OTHER_WORDS = {
    "eps": "size",
    "epsilon": "size",
    "radius": "size",
    "alpha": "step_size",
    "eps_iter": "step_size",
    "stepsize": "step_size",
    "iters": "steps",
    "num_steps": "steps",
    "n_steps": "steps",
    "nb_iter": "steps",
    "iterations": "steps",
    "num_restarts": "restarts",
    "n_restarts": "restarts",
    "p": "norm",
    "ord": "norm",
}
"""What other libraries call the keys of a budget."""


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
        BenchError: unknown norm, a size that is negative or larger than anything in its norm, or a count below one.
    """

    norm: str = "linf"
    size: float | Tensor = 4 / 255
    steps: int = 10
    step_size: float | None = None
    restarts: int = 1

    def __post_init__(self) -> None:
        norm_of(self.norm)
        self._check_size()
        counts: dict[str, Any] = {"steps": self.steps, "restarts": self.restarts}
        for key, value in counts.items():
            if not _is_number(value, Integral):
                raise BenchError(f"A budget's {key} must be a whole number, not {short(value)}.")
        if self.steps < 1 or self.restarts < 1:
            raise BenchError(f"A budget needs at least 1 step and 1 restart, not {self.steps} and {self.restarts}.")
        step: Any = self.step_size
        if step is None:
            return
        if not _is_number(step, Real) or not step > 0:
            raise BenchError(f"A budget's step_size must be a positive number, not {short(step)}.")
        self._check_range("step_size", float(step))

    def scaled(self, factor: float) -> Budget:
        """The same with a size that many times as large, in whole pixels where only these count, and no larger than
        anything in its norm."""
        geometry = self.geometry
        if isinstance(self.size, Tensor):
            size = factor * self.size
            return replace(self, size=(size.floor() if geometry.whole else size).clamp(max=geometry.largest))
        one = factor * self.size
        return replace(self, size=min(float(math.floor(one)) if geometry.whole else one, geometry.largest))

    def _check_size(self) -> None:
        given: Any = self.size
        if not isinstance(given, Tensor) and not _is_number(given, Real):
            raise BenchError(f"A budget's size must be a number, not {short(given)}; in a grid 4/255 is one too.")
        sizes = torch.as_tensor(self.size, dtype=torch.float64)
        if not bool((sizes >= 0).all()):
            raise BenchError(f"A budget's size must not be negative, but it is {self.size}.")
        if not sizes.numel():
            return
        self._check_range("size", float(sizes.max()))
        # Not even infinity is a number of pixels.
        if self.geometry.whole and not bool((sizes == sizes.floor()).logical_and(sizes.isfinite()).all()):
            fault = sizes[(sizes != sizes.floor()) | ~sizes.isfinite()].flatten()[0]
            raise BenchError(f"The size of a {self.norm} budget is a whole number of pixels, not {float(fault):g}.")

    def _check_range(self, key: str, value: float) -> None:
        """Clips are in ``[0, 1]``, and who writes 8 means 8/255."""
        if value <= self.geometry.largest:
            return
        meant = f" (did you mean {value:g}/255?)" if value <= 255 else ""
        raise BenchError(
            f"A budget's {key} in {self.norm} is at most {self.geometry.largest:g}, as clips are in [0, 1], not "
            f"{value:g}{meant}."
        )

    @classmethod
    def parse(cls, settings: Mapping[str, Any]) -> Budget:
        """Reads a budget from a grid: ``{norm: linf, size: 4/255, steps: 10, step_size: 1/255, restarts: 1}``.

        Raises:
            BenchError: an unknown key (the nearest one is named) or an unreadable value.
        """
        known = ("norm", "size", "steps", "step_size", "restarts")
        if not isinstance(settings, Mapping):
            raise BenchError(f"A budget is a mapping such as {{norm: linf, size: 4/255}}, not {short(settings)}.")
        for key in settings:
            if key not in known:
                word = _OTHER_WORDS.get(str(key).lower().replace("-", "_"))
                meant = f" (did you mean {word!r}?)" if word else nearest(str(key), known)
                raise BenchError(f"A budget has no key {short(key)}{meant}; keys: {', '.join(known)}.")
        values = dict(settings)
        for key in ("size", "step_size"):
            if key in values and (key == "size" or values[key] is not None):
                values[key] = parse_size(values[key])
        for key in ("steps", "restarts"):
            if key in values and (not isinstance(values[key], int) or isinstance(values[key], bool)):
                raise BenchError(f"A budget's {key} must be a whole number, not {short(values[key])}.")
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
