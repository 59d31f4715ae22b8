"""The defended classifier: one module for attack and evaluation, and the ways to differentiate it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.attack import Target
from bench.defense import Defense, Purifier, RobustModel
from bench.errors import BenchError
from bench.seeds import ClipRandom

Gradient = Literal["exact", "bpda", "none"]
GRADIENTS: dict[str, str] = {
    "exact": "autograd through the defence",
    "bpda": "the defence forward, its surrogate (the identity by default) backward",
    "none": "the attacker does not differentiate the defence",
}


class _Backward(torch.autograd.Function):
    """Value of one tensor, gradient of another (straight-through): the building block of BPDA."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, surrogate: Tensor) -> Tensor:
        ctx.shape = surrogate.shape
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        (grad,) = grads
        # One surrogate for V candidates: each candidate's gradient reaches it.
        return None, grad.sum(0) if grad.ndim > len(ctx.shape) else grad


@dataclass(frozen=True)
class Decision:
    """What the defence finally answers.

    Attributes:
        prediction: ``int64 (B,)``: hard plurality of the votes, ties to the lowest class.
        votes: ``int64 (V, B)``: the class each candidate is given.
        logits: ``(B, K)``: what attacks see, see :meth:`DefendedClassifier.forward`.
    """

    prediction: Tensor
    votes: Tensor
    logits: Tensor


def plurality(votes: Tensor, classes: int) -> Tensor:
    """Most frequent class of each column of ``votes (V, B)``; a tie goes to the lowest class."""
    if len(votes) == 1:
        return votes[0].cpu()
    counts = F.one_hot(votes, classes).sum(0)
    return torch.from_numpy(np.argmax(counts.cpu().numpy(), axis=1))  # NumPy: first maximum, guaranteed


class DefendedClassifier(nn.Module):
    """A classifier behind a defence.

    The same object is attacked and evaluated, so an attack can never face a different pipeline from the one
    that is scored. Weights take no gradient.

    Args:
        classifier: clips ``(B, 3, T, H, W)`` to logits ``(B, K)``; put in evaluation mode.
        defense: a purifier, or a robust model, which wraps the classifier.
        gradient: how the attacker differentiates the defence, a key of :data:`GRADIENTS`.

    Raises:
        BenchError: the gradient does not exist for this defence.
    """

    def __init__(self, classifier: nn.Module, defense: Defense, gradient: str = "exact") -> None:
        super().__init__()
        reason = why_not(defense, gradient)
        if reason:
            raise BenchError(reason)
        self.purifier = defense if isinstance(defense, Purifier) else None
        self.classifier = classifier if isinstance(defense, Purifier) else defense.wrap(classifier)
        self.gradient = gradient
        self.stochastic = defense.stochastic
        self.eval()
        self.requires_grad_(False)

    def candidates(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        """Purified clips ``(V, B, 3, T, H, W)``, with the gradient of :attr:`gradient` attached."""
        if self.purifier is None:
            return clips[None]
        if self.gradient == "exact" or not (torch.is_grad_enabled() and clips.requires_grad):
            purified = self.purifier.purify(clips, rng)
        else:
            replay = rng.clone()
            with torch.no_grad():
                purified = self.purifier.purify(clips, rng)
            if self.gradient == "bpda":
                purified = _Backward.apply(purified, self.purifier.surrogate(clips, replay))
        return purified if purified.ndim == clips.ndim + 1 else purified[None]

    def vote_logits(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        """Logits of every candidate, ``(V, B, K)``."""
        candidates = self.candidates(clips, rng)
        return self.classifier(candidates.flatten(0, 1)).unflatten(0, candidates.shape[:2])

    @staticmethod
    def pool(votes: Tensor) -> Tensor:
        """The one definition of the logits that attacks see: ``(V, B, K)`` to ``(B, K)``.

        A single candidate keeps its logits untouched; several are averaged as probabilities and returned as
        log-probabilities, so the pooled prediction is the soft vote.
        """
        return votes[0] if len(votes) == 1 else torch.logsumexp(votes.log_softmax(-1), 0) - np.log(len(votes))

    def forward(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        """Clips ``(B, 3, T, H, W)`` to the pooled logits ``(B, K)``."""
        return self.pool(self.vote_logits(clips, rng))

    @torch.no_grad()
    def decide(self, clips: Tensor, rng: ClipRandom) -> Decision:
        """The final, hard decision on a batch: what every outcome is judged by."""
        logits = self.vote_logits(clips, rng)
        votes = logits.argmax(-1)
        return Decision(plurality(votes, logits.shape[-1]), votes.cpu(), self.pool(logits).cpu())

    def target(self, rng: ClipRandom, *, transfer: bool = False) -> Target:
        """What an attack is given: the differentiable, pass-counting view of this module.

        Args:
            rng: one stream per clip of the batch, for the defence's own randomness.
            transfer: whether the clips are meant for other pipelines too, see :class:`Target`.
        """

        def look(clips: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            votes = self.vote_logits(clips, rng.select(rows))
            return self.pool(votes), plurality(votes.detach().argmax(-1), votes.shape[-1])

        return Target(look, len(rng), stochastic=self.stochastic, transfer=transfer)


def why_not(defense: Defense, gradient: str) -> str | None:
    """One sentence that says why this gradient does not exist for this defence, or ``None`` if it does."""
    name = type(defense).__name__
    if gradient not in GRADIENTS:
        return f"Unknown gradient {gradient!r}; known: {', '.join(GRADIENTS)}."
    if gradient == "exact" and isinstance(defense, Purifier) and not defense.differentiable:
        return f"{name} has no exact gradient because part of it is not differentiable; use bpda."
    if gradient == "bpda" and isinstance(defense, RobustModel):
        return f"{name} is a network, differentiable as it is: there is nothing for bpda to replace; use exact."
    return None
