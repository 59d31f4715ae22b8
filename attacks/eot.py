"""Expectation over transformation: any attack, each of its looks averaged over several draws of the defence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from bench import (
    Answer,
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
    plurality,
    register,
)


class Expectation(Wrapped):
    """A randomised target seen as its average over draws. A deterministic one is asked once.

    Args:
        target: what is asked; its counters and streams stay its own.
        draws: number of draws.
        average: see :class:`EOT`.
        at_once: draws that go through the network together.
    """

    def __init__(self, target: Target, draws: int, average: str, at_once: int) -> None:
        super().__init__(target)
        self._average = average
        draws = draws if target.stochastic else 1
        self._chunks = [min(at_once, draws - first) for first in range(0, draws, at_once)]

    def ask(self, clips: Tensor, rows: Tensor | None = None, then: Transform | None = None) -> Answer:
        """The logits, and a second objective, averaged over draws; the decision is the most frequent one."""
        answers = []
        climbed = torch.is_grad_enabled() and clips.requires_grad
        for count in self._chunks:
            draw = self._again if climbed and len(self._chunks) > 1 else self._inner.ask
            answer = draw(_repeat(clips, count), self._rows(rows).repeat(count), then)
            deviation = None if answer.deviation is None else answer.deviation.unflatten(0, (count, len(clips)))
            decision = _by_draw(answer.decision, count, len(clips))
            each = None if answer.votes is None else _votes_by_draw(answer.votes, count, len(clips))
            answers.append(Answer(_by_draw(answer.logits, count, len(clips)), decision, deviation, each))
        logits = torch.cat([a.logits for a in answers])
        decision = plurality(torch.cat([a.decision for a in answers]))
        deviations = [a.deviation for a in answers if a.deviation is not None]
        votes = [a.votes for a in answers if a.votes is not None]
        return Answer(
            logits.mean(0),
            decision,
            torch.cat(deviations).mean(0) if deviations else None,
            torch.cat(votes).mean(0) if votes else None,
        )

    def _again(self, clips: Tensor, rows: Tensor, then: Transform | None) -> Answer:
        """Asks, and keeps no graph: on the way back the same is drawn again."""
        streams = self.streams or ClipRandom(())
        places = streams.tell()
        found: list[Answer] = []

        def look(x: Tensor) -> tuple[Tensor | None, ...]:
            now = streams.tell()
            streams.seek(places)
            try:
                answer = self._inner.ask(x, rows, then)
            finally:
                if found:
                    streams.seek(now)
            found.append(answer)
            return answer.logits, answer.deviation, answer.votes

        # All of it is done again, not only up to the last tensor that is needed: streams and counters go on after that.
        with set_checkpoint_early_stop(False):
            looked: tuple[Any, ...] = checkpoint(look, clips, use_reentrant=False, preserve_rng_state=False)
        logits, deviation, votes = looked
        return Answer(logits, found[0].decision, deviation, votes)

    def value(self, clips: Tensor, rows: Tensor | None, labels: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
        if self._average == "logits":
            return Target.value(self, clips, rows, labels, objective)
        values, decisions = [], []
        for count in self._chunks:
            value, decision = self._inner.value(
                _repeat(clips, count), self._rows(rows).repeat(count), labels.repeat(count), objective
            )
            values.append(value.unflatten(0, (count, len(clips))))
            decisions.append(_by_draw(decision, count, len(clips)))
        return torch.cat(values).mean(0), plurality(torch.cat(decisions))

    def _rows(self, rows: Tensor | None) -> Tensor:
        return torch.arange(len(self.forwards)) if rows is None else rows

    def gradient(
        self,
        clips: Tensor,
        rows: Tensor | None,
        labels: Tensor,
        objective: Objective,
        then: Transform | None = None,
        weights: Tensor | None = None,
    ) -> Climb:
        if self._average == "logits":
            return super().gradient(clips, rows, labels, objective, then, weights)
        values, decisions, gradient = [], [], torch.zeros_like(clips)
        for count in self._chunks:
            climb = self._inner.gradient(
                _repeat(clips, count), self._rows(rows).repeat(count), labels.repeat(count), objective, then, weights
            )
            drawn = climb.gradient
            if self._average == "gradients":
                drawn = drawn / drawn.abs().mean((1, 2, 3, 4), keepdim=True).clamp_min(1e-30)
            gradient += drawn.unflatten(0, (count, len(clips))).sum(0)
            values.append(climb.value.unflatten(0, (count, len(clips))))
            decisions.append(_by_draw(climb.decision, count, len(clips)))
        votes = torch.cat(decisions)
        return Climb(torch.cat(values).mean(0), gradient / len(votes), plurality(votes))


def _repeat(clips: Tensor, count: int) -> Tensor:
    """Every clip once per draw: ``(count * b, 3, T, H, W)``."""
    return clips.repeat(count, 1, 1, 1, 1)


def _by_draw(answers: Tensor, count: int, clips: int) -> Tensor:
    """Answers ``(S * count * b, ...)`` about ``S`` altered copies, to ``(count, S * b, ...)``."""
    return answers.unflatten(0, (-1, count, clips)).transpose(0, 1).flatten(1, 2)


def _votes_by_draw(votes: Tensor, count: int, clips: int) -> Tensor:
    """Logits of candidates ``(V, S * count * b, K)``, to ``(count, V, S * b, K)``."""
    return torch.stack([_by_draw(vote, count, clips) for vote in votes], 1)


@register(
    "eot",
    source="Athalye, Engstrom, Ilyas and Kwok, Synthesizing Robust Adversarial Examples, ICML 2018; against randomised "
    "defences: Athalye, Carlini and Wagner, Obfuscated Gradients Give a False Sense of Security, ICML 2018; averaged "
    "logits: Nie et al., Diffusion Models for Adversarial Purification, ICML 2022, released code",
)
class EOT(Around):
    """Runs another attack on the expectation over a randomised defence: each of its passes becomes ``draws`` passes.

    A deterministic defence gives the same answer every time and is asked once.

    Args:
        attack: which attack, as a grid names it: ``pgd``, ``"apgd(loss='dlr')"``, ``tt``, ...
        draws: draws per pass.
        average: ``logits`` (the loss of the mean logits, as DiffPure's code does), ``losses`` (the mean
            loss, whose gradient is the mean of the gradients), or ``gradients`` (their mean after each is brought to
            one size, so that a draw that is confidently right, and hardly has a gradient, counts as much as another).
        at_once: draws that go through the network together, and whose graphs are in memory together. If there are more,
            averaged logits, which are known only when all draws are, cost another forward pass per draw on the way
            back; averaged losses and gradients do not.
    """

    def __init__(
        self,
        attack: str | Mapping[str, Any] = "pgd",
        draws: int = 20,
        average: Literal["logits", "losses", "gradients"] = "logits",
        at_once: int = 5,
    ) -> None:
        at_least("draws", draws, 1)
        at_least("at_once", at_once, 1)
        if average not in ("logits", "losses", "gradients"):
            raise ValueError(f"average must be logits, losses or gradients, not {average!r}")
        super().__init__(attack)
        self.draws, self.average, self.at_once = draws, average, at_once

    def passes(self, budget: Budget) -> tuple[int, int]:
        forwards, backwards = self.attack.passes(budget)
        twice = self.average == "logits" and self.draws > self.at_once
        return self.draws * (forwards + (backwards if twice else 0)), self.draws * backwards

    def run(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> AttackResult:
        return self.attack.run(Expectation(target, self.draws, self.average, self.at_once), clips, labels, budget, rng)
