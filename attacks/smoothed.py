"""Averaging over the attacker's own noise: any attack, each of its gradients taken around the iterate, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from bench import (
    Around,
    AttackResult,
    Budget,
    Climb,
    ClipRandom,
    Objective,
    Target,
    Transform,
    Wrapped,
    at_least,
    parse_size,
    register,
)


class Surroundings(Wrapped):
    """A target whose gradient is the mean over an iterate and noisy copies of it. What it answers is of the iterate.

    Args:
        target: what is asked; its counters and streams stay its own.
        copies: noisy copies per gradient.
        noise: standard deviation of the noise, in units of ``[0, 1]``.
        rng: where the noise comes from, one stream per clip of the batch.
    """

    def __init__(self, target: Target, copies: int, noise: float, rng: ClipRandom) -> None:
        super().__init__(target)
        self._copies, self._noise, self._rng = copies, noise, rng

    def gradient(
        self,
        clips: Tensor,
        rows: Tensor | None,
        labels: Tensor,
        objective: Objective,
        then: Transform | None = None,
        weights: Tensor | None = None,
    ) -> Climb:
        climb = self._inner.gradient(clips, rows, labels, objective, then, weights)
        total = climb.gradient.clone()
        streams = self._rng if rows is None else self._rng.select(rows)
        for _ in range(self._copies):
            noise = streams.normal(*clips.shape[1:], device=clips.device).to(clips.dtype)
            # A clip like any other: the defence is never shown what it could not meet.
            near = (clips.detach() + self._noise * noise).clamp(0, 1)
            total += self._inner.gradient(near, rows, labels, objective, then, weights).gradient
        return climb._replace(gradient=total / (1 + self._copies))


@register(
    "smoothed",
    source="Athalye, Engstrom, Ilyas and Kwok, Synthesizing Robust Adversarial Examples, ICML 2018, with noise of the "
    "attacker's own for the transformation; a mean over noise as the derivative of a step: Duchi, Bartlett and "
    "Wainwright, Randomized Smoothing for Stochastic Optimization, SIAM Journal on Optimization 22, 2012",
)
class Smoothed(Around):
    """Runs another attack on gradients that are averaged over noisy copies of the iterate.

    A defence that rounds, thresholds or counts answers small changes with jumps, and the classifier's gradient at one
    of its answers says little about the next. EOT asks a deterministic defence once; here the noise is the attacker's.
    Each gradient is the mean of those at the iterate and at ``copies`` points around it, normal noise clamped to
    ``[0, 1]``; answers are always of the iterate itself, and so are decisions. An attack that differentiates logits of
    its own accord (``fab``) goes on as it is.

    Args:
        attack: which attack, as a grid names it: ``pgd``, ``apgd``, ``"eot(draws=5)"``, ...
        copies: noisy copies per gradient.
        noise: standard deviation of the noise, in units of ``[0, 1]``, a number or a fraction such as ``8/255``.
    """

    def __init__(self, attack: str | Mapping[str, Any] = "pgd", copies: int = 6, noise: float | str = "8/255") -> None:
        super().__init__(attack)
        at_least("copies", copies, 1)
        self.noise = parse_size(noise)
        if not self.noise > 0:
            raise ValueError(f"noise must be above 0, not {noise}")
        self.copies = copies

    def passes(self, budget: Budget) -> tuple[int, int]:
        forwards, backwards = self.attack.passes(budget)
        return forwards + self.copies * backwards, (1 + self.copies) * backwards

    def run(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> AttackResult:
        return self.attack.run(Surroundings(target, self.copies, self.noise, rng), clips, labels, budget, rng)
