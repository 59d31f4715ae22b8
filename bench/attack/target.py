"""The classifier as an attack sees it: differentiable, and every pass is counted per clip."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench.records.identity import Gradient
from bench.seeds import ClipRandom


class _CountBackward(torch.autograd.Function):
    """The identity; counts the clips whose gradient passes through it."""

    @staticmethod
    def forward(ctx: Any, clips: Tensor, count: Callable[[], None]) -> Tensor:
        ctx.count = count
        return clips.view_as(clips)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        ctx.count()
        return grads[0], None


Objective = Callable[[Tensor, Tensor], Tensor]
"""Logits ``(b, K)`` and classes ``(b,)`` to one value per clip ``(b,)``, larger is better for the attacker."""


@dataclass(frozen=True)
class EachVote:
    """An objective of every candidate that votes by itself, averaged; in place of that of their mean probability.

    The mean probability is carried by the candidates that are surest, and has little gradient from the others. A hard
    vote counts them equally, and so does this.

    Args:
        objective: of one candidate.
        enough: where the value of a candidate is cut off, so that those already lost take no more of the budget; no
            gradient comes from them.

    Source: mean of the cross-entropies: Jiang et al., VideoPure, IEEE TCSVT 2025, released code.
    """

    objective: Objective
    enough: float | None = None

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        value = self.objective(logits, labels)
        return value if self.enough is None else value.clamp(max=self.enough)

    def over(self, votes: Tensor, labels: Tensor) -> Tensor:
        """Votes ``(V, b, K)`` and classes ``(b,)`` to ``(b,)``."""
        value = self(votes.flatten(0, 1), labels.repeat(len(votes)))
        return value.unflatten(0, votes.shape[:2]).mean(0)


# How far below the lowest finite logit a class is put that is ruled out: its probability is nothing beside any other's.
_RULED_OUT = 100.0


def bounded(logits: Tensor) -> Tensor:
    """Logits ``(..., K)`` as losses take them: minus infinity, by which a network rules a class out, becomes a number.

    It is a constant far below the others, so that decisions and probabilities stay, and no gradient becomes
    not-a-number. A row that rules out all classes stays as it is.
    """
    out = logits.detach().isneginf()  # not asked whether there are any: that would wait for the device at every look
    lowest = logits.detach().masked_fill(out, float("inf")).amin(-1, keepdim=True)
    floor = (lowest - _RULED_OUT).clamp_min(torch.finfo(logits.dtype).min)
    return torch.where(out & lowest.isfinite(), floor, logits)


Transform = Callable[[Tensor], Tensor]
"""Clips ``(b, 3, T, H, W)`` to ``S`` altered copies of each, ``(S * b, 3, T, H, W)``, the copies one after another."""


@dataclass(frozen=True)
class Answer:
    """What a classifier says about clips.

    Attributes:
        logits: ``(b, K)``.
        decision: ``int64 (b,)``, the hard decision. It is what the judge goes by, and with several voting candidates
            not always the largest logit.
        deviation: ``(b,)``, a second objective of the gradient ``diffattack``, or ``None``.
        votes: logits of every candidate, ``(V, b, K)``; ``None`` where ``logits`` are all there is.
    """

    logits: Tensor
    decision: Tensor
    deviation: Tensor | None = None
    votes: Tensor | None = None

    def value(self, objective: Objective, labels: Tensor) -> Tensor:
        """An objective at this answer, ``(b,)``: of the pooled logits, or of each vote if it is :class:`EachVote`."""
        if isinstance(objective, EachVote) and self.votes is not None:
            return objective.over(self.votes, labels)
        return objective(self.logits, labels)


class Climb(NamedTuple):
    """What a gradient attack learns from one look.

    Attributes:
        value: ``(b,)``, the objective.
        gradient: the shape of the clips.
        decision: ``int64 (b,)``, the hard decision; ``(S * b,)`` of altered copies.
    """

    value: Tensor
    gradient: Tensor
    decision: Tensor


class Target:
    """The classifier as an attack sees it: differentiable, and every pass is counted per clip.

    Args:
        function: ``(clips (b, 3, T, H, W), rows (b,)) -> logits (b, K)``, or an :class:`Answer`. One that takes a third
            argument, a :class:`Transform` or ``None``, applies it between the defence and the classifier.
        batch: number of clips in the batch under attack.
        stochastic: whether two calls on the same clip may differ.
        transfer: whether the clips are meant for another pipeline than this one (gray-box, black-box), so
            that fooling this one is not the end.
        selection: of a network that chooses between branches of its own, how: clips to one logit per branch. Such calls
            are not counted.
        views: of such a network, other ways through it by name: clips to logits. Nor are these.
        ways: of a defended classifier, other ways to differentiate it: see :meth:`through`.
        streams: what it draws from, one per clip, if it is random: whoever goes back in them is answered alike.

    Attributes:
        decisive: whether a misclassification seen here is final: neither stochastic nor transfer.
        forwards, backwards: ``int64 (B,)``, passes spent on each clip so far.
    """

    def __init__(
        self,
        function: Callable[..., Tensor | Answer],
        batch: int,
        *,
        stochastic: bool = False,
        transfer: bool = False,
        selection: Callable[[Tensor], Tensor] | None = None,
        views: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
        ways: Callable[[Gradient], Callable[..., Tensor | Answer]] | None = None,
        streams: ClipRandom | None = None,
    ) -> None:
        self._function, self._ways, self.streams = function, ways, streams
        self.selection, self.views = selection, dict(views or {})
        self.stochastic = stochastic
        self.decisive = not (stochastic or transfer)
        self.forwards = torch.zeros(batch, dtype=torch.int64)
        self.backwards = torch.zeros(batch, dtype=torch.int64)

    @classmethod
    def of(cls, model: Target | nn.Module, batch: int) -> Target:
        """Wraps a plain classifier; a target is returned as it is."""
        if isinstance(model, Target):
            return model

        def look(clips: Tensor, rows: Tensor, then: Transform | None = None) -> Tensor:
            # A copy: a network that works in place must not move the attack's iterate.
            logits: Tensor = model((clips if then is None else then(clips)).clone())
            return logits

        return cls(look, batch)

    def through(self, gradient: Gradient) -> Target:
        """The same classifier, differentiated in another way; passes are counted and streams drawn from together.

        ``none`` is the classifier without its defence: clips made there are made for transfer. A plain classifier has
        one gradient, its own.

        Raises:
            BenchError: the gradient does not exist for this defence.
        """
        if self._ways is None:
            return self
        other = copy.copy(self)
        other._function, other._ways = self._ways(gradient), None
        other.decisive = self.decisive and gradient != "none"
        return other

    def __call__(self, clips: Tensor, rows: Tensor | None = None, then: Transform | None = None) -> Tensor:
        """Logits of some clips.

        Args:
            clips: ``(b, 3, T, H, W)``.
            rows: ``(b,)``, which clips of the batch these are; needed as soon as some have left it, or are there
                several times.
            then: applied to the clips as they leave the defence; the logits are then those of the ``S * b`` altered
                copies, and a pass is counted for each.
        """
        return self.ask(clips, rows, then).logits

    def gradient(
        self,
        clips: Tensor,
        rows: Tensor | None,
        labels: Tensor,
        objective: Objective,
        then: Transform | None = None,
        weights: Tensor | None = None,
    ) -> Climb:
        """Value of an objective on some clips, its gradient, and the decision: what every gradient attack climbs.

        Args:
            clips, rows, then: as for a call.
            labels: ``(b,)``.
            weights: ``(S,)``, of the copies that ``then`` makes; equal ones if not given.
        """
        x = clips.detach().requires_grad_(True)
        value, decision = self._value(x, rows, labels, objective, then, weights)
        (gradient,) = torch.autograd.grad(value.sum(), x)
        return Climb(value.detach(), gradient, decision)

    def value(self, clips: Tensor, rows: Tensor | None, labels: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
        """What :meth:`gradient` says of some clips without it, for a forward pass: the objective and the decision."""
        value, decision = self._value(clips.detach().requires_grad_(True), rows, labels, objective, None, None)
        return value.detach(), decision

    def _value(
        self,
        x: Tensor,
        rows: Tensor | None,
        labels: Tensor,
        objective: Objective,
        then: Transform | None,
        weights: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        answer = self.ask(x, rows, then)
        copies = len(answer.logits) // len(x)
        value = answer.value(objective, labels.repeat(copies)).unflatten(0, (copies, len(x)))
        value = value.mean(0) if weights is None else (weights.to(value)[:, None] * value).sum(0)
        if answer.deviation is not None:
            value = value + answer.deviation
        return value, answer.decision

    def ask(self, clips: Tensor, rows: Tensor | None = None, then: Transform | None = None) -> Answer:
        """All that is known of some clips; every other way of asking comes here. For the arguments see a call."""
        if rows is None:
            rows = torch.arange(len(self.forwards))
        where = rows.cpu()
        copies = 1

        def count() -> None:
            self.backwards.index_add_(0, where, torch.full_like(where, copies))

        if clips.requires_grad:
            clips = _CountBackward.apply(clips, count)
        found = self._function(clips, where) if then is None else self._function(clips, where, then)
        answer = found if isinstance(found, Answer) else Answer(bounded(found), found.detach().argmax(1))
        copies = max(1, len(answer.logits) // len(clips))
        self.forwards.index_add_(0, where, torch.full_like(where, copies))
        return answer


class Wrapped(Target):
    """A target in front of another one: what it says of itself, its counters and its streams are the inner one's.

    Args:
        inner: what is asked.
    """

    def __init__(self, inner: Target) -> None:
        self._inner, self._ways, self.streams = inner, None, inner.streams
        self.stochastic, self.decisive = inner.stochastic, inner.decisive
        self.forwards, self.backwards = inner.forwards, inner.backwards
        self.selection, self.views = inner.selection, inner.views

    def ask(self, clips: Tensor, rows: Tensor | None = None, then: Transform | None = None) -> Answer:
        return self._inner.ask(clips, rows, then)

    def value(self, clips: Tensor, rows: Tensor | None, labels: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
        return self._inner.value(clips, rows, labels, objective)
