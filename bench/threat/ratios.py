"""Balls of multiplicative changes: every value is multiplied, and what is black stays black."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.seeds import ClipRandom
from bench.threat.norms import L2, Norm, per_clip


class MultLinf(Norm):
    """Largest ratio between a value and its clean one, less 1: ``1 / (1 + size) <= x' / x <= 1 + size``.

    Lo and Patel, MultAV: Multiplicative Adversarial Videos, AVSS 2021, "RB-Linf" with ``eps_m = 1 + size``. A value of
    0 cannot change.
    """

    name = "mult-linf"

    def words(self, size: float) -> str:
        return f"{size:.9g}"

    def random_start(self, clips: Tensor, size: Tensor | float, rng: ClipRandom) -> Tensor:
        """Every logarithm uniform in the ball, then clamped to ``[0, 1]``."""
        noise = 2 * rng.uniform(*clips.shape[1:], device=clips.device).to(clips.dtype) - 1
        return (clips * (noise * per_clip(size, clips).log1p()).exp()).clamp(0, 1)

    def project(self, points: Tensor, clips: Tensor, size: Tensor | float) -> Tensor:
        most = 1 + per_clip(size, clips)
        return points.maximum(clips / most).minimum(clips * most).clamp(0, 1)

    def direction(self, gradient: Tensor) -> Tensor:
        """The sign: of the exponent, for an attack that multiplies."""
        return gradient.sign()

    def distance(self, points: Tensor, clips: Tensor) -> Tensor:
        """``float64 (B,)``: infinite where a value left 0 or came to it."""
        return _logs(points, clips).abs().flatten(1).amax(1).expm1()


class MultL2(Norm):
    """Euclidean length of the logarithms of the ratios, over all values that are not 0.

    Lo and Patel, MultAV: Multiplicative Adversarial Videos, AVSS 2021, name an l2 bound that our sources do not
    define; this definition is ours (``docs/decisions.md``).
    """

    name = "mult-l2"

    def words(self, size: float) -> str:
        return f"{size:.9g}"

    def random_start(self, clips: Tensor, size: Tensor | float, rng: ClipRandom) -> Tensor:
        """The logarithms uniform in the ball, then clamped to ``[0, 1]``."""
        noise = rng.normal(*clips.shape[1:], device=clips.device).double() * (clips > 0)
        count = (clips > 0).flatten(1).sum(1).clamp_min(1)
        radius = rng.uniform(1, device=clips.device)[:, 0].double() ** (1 / count)
        length = noise.flatten(1).norm(dim=1).clamp_min(math.ulp(0.0))
        logs = noise * per_clip(radius / length, noise) * per_clip(size, noise)
        return (clips * logs.exp().to(clips.dtype)).clamp(0, 1)

    def project(self, points: Tensor, clips: Tensor, size: Tensor | float) -> Tensor:
        """The logarithms are scaled back to the ball, which is nearest in them; then clamped to ``[0, 1]``."""
        inside = points.clamp_min(torch.finfo(points.dtype).tiny).where(clips > 0, clips)
        logs = _logs(inside, clips)
        length = per_clip(logs.flatten(1).norm(dim=1), logs)
        factor = (per_clip(size, logs) / length.clamp_min(1e-30)).clamp(max=1)
        return (clips * (logs * factor).exp().to(clips.dtype)).clamp(0, 1)

    def direction(self, gradient: Tensor) -> Tensor:
        """The normalised gradient: of the exponent, for an attack that multiplies."""
        return L2().direction(gradient)

    def distance(self, points: Tensor, clips: Tensor) -> Tensor:
        """``float64 (B,)``: infinite where a value left 0 or came to it."""
        return _logs(points, clips).flatten(1).norm(dim=1)


def _logs(points: Tensor, clips: Tensor) -> Tensor:
    """``float64``: logarithm of the ratio; 0 where both are 0, infinite where one is."""
    ratio = points.double().log() - clips.double().log()
    return torch.where((points == 0) & (clips == 0), 0.0, ratio)
