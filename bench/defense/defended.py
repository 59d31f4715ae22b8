"""The defended classifier: one module for attack and evaluation, and the ways to differentiate it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from bench.attack.target import Answer, Target, Transform, bounded
from bench.defense.base import Defense, InTurn, Purifier, RobustModel
from bench.defense.nature import PLAIN, Nature, drawing_from
from bench.errors import BenchError, Impossible
from bench.flow.pairs import saving
from bench.modes import float32_by_default
from bench.records.identity import Gradient
from bench.seeds import ClipRandom

GRADIENTS: dict[Gradient, str] = {
    "exact": "autograd through the defence",
    "bpda": "the defence forward, its stand-in (the identity by default) backward",
    "bpda-identity": "the defence forward, the identity backward even where it has a better stand-in: as papers do it",
    "bpda-negated": "the same with the opposite sign: for defences that turn a perturbation around",
    "bpda-lowpass": "the defence forward, a filter that keeps what it keeps of a perturbation backward",
    "surrogate": "the defence forward, the same process with fewer steps backward",
    "diffattack": "exact, and the deviation of the denoising trajectory is maximised too",
    "query": "none: the attacker asks the defence and differentiates nothing",
    "none": "the attacker does not differentiate the defence",
    "strongest": "each move of the attack in a way of its own: of `adaptive`",
}


class _Backward(torch.autograd.Function):
    """Value of one tensor, ``sign`` times the gradient of another (straight-through): the building block of BPDA."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, stand_in: Tensor, sign: int) -> Tensor:
        ctx.shape, ctx.sign = stand_in.shape, sign
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None]:
        (grad,) = grads
        # One stand-in for V candidates: each candidate's gradient reaches it.
        return None, ctx.sign * (grad.sum(0) if grad.ndim > len(ctx.shape) else grad), None


UNASKED = -1
"""In place of the vote of a candidate that was not asked, since the others had decided."""


@dataclass(frozen=True)
class Decision:
    """What the defence finally answers.

    Attributes:
        prediction: ``int64 (B,)``: by default the hard plurality of the votes, ties to the lowest class; a purifier may
            ask for the largest mean probability instead (:attr:`Purifier.vote`).
        votes: ``int64 (V, B)``: the class each candidate is given, :data:`UNASKED` for one that could change nothing.
        logits: ``(B, K)``: what attacks see, see :meth:`DefendedClassifier.forward`; of those asked.
        finite: ``bool (B,)``: whether all candidates and all their logits are finite; minus infinity, by which a
            network rules a class out, is one of the answers that there are. Where they are not, the prediction means
            nothing.
        purified: ``(V, B, 3, T, H, W)``: the candidates; the first alone where they are asked in turn.
    """

    prediction: Tensor
    votes: Tensor
    logits: Tensor
    finite: Tensor
    purified: Tensor


def decided(votes: Tensor, count: int) -> Tensor:
    """Whether the plurality of ``count`` votes is clear from the first of them, ``int64 (V, B)``: ``bool (B,)``.

    It is if the most frequent class is further ahead of the next than there are votes to come. A tie would go to the
    lowest class, of which this takes no advantage.
    """
    first = plurality(votes)
    others = votes != first
    counts = ((votes[:, None] == votes).sum(1) * others).amax(0)
    return (~others).sum(0) > counts + count - len(votes)


def plurality(votes: Tensor) -> Tensor:
    """Most frequent class of each column of ``int64 votes (V, B)``, on their device; a tie goes to the lowest class."""
    counts = (votes[:, None] == votes).sum(1)  # of each vote, how many are like it
    # A minimum of whole numbers does not depend on which of several it finds, as that of a maximum's place would.
    return votes.masked_fill(counts < counts.amax(0), torch.iinfo(votes.dtype).max).amin(0)


# How much of a device's memory a clip takes on its way through a network, in sizes of the clip: about twice what the
# largest networks here take, without and with what they keep for a gradient.
_PASSING, _KEPT = 16, 96


class DefendedClassifier(nn.Module):
    """A classifier behind a defence.

    The same networks are attacked and evaluated (:meth:`with_gradient` gives another view of them), so an attack
    can never face a different pipeline from the one that is scored. Weights take no gradient.

    Args:
        classifier: clips ``(B, 3, T, H, W)`` to logits ``(B, K)``; put in evaluation mode.
        defense: a purifier, or a robust model, which wraps a copy of the classifier, once.
        gradient: how the attacker differentiates the defence, a key of :data:`GRADIENTS`.
        nature: of the classifier, by which it is asked: see :class:`Nature`. A robust model that says
            ``stochastic = True`` is asked as a random one.

    Attributes:
        at_once: most rows, candidates of clips, that go through the classifier together. Where there are more, they go
            in portions, and with a gradient each portion is computed again on the way back, so that memory does not
            grow with their number. Answers do not depend on it, but for rounding. ``None``: all on a CPU, and on an
            accelerator what half of the memory that is free will hold.

    Raises:
        BenchError: the gradient does not exist for this defence.
    """

    at_once: int | None = None

    def __init__(
        self, classifier: nn.Module, defense: Defense, gradient: Gradient = "exact", nature: Nature = PLAIN
    ) -> None:
        super().__init__()
        reason = why_not(defense, gradient)
        if reason:
            raise BenchError(reason)
        self.defense = defense
        # A robust model may well work in place; the undefended rows keep the original.
        with float32_by_default():
            self.classifier = classifier if isinstance(defense, Purifier) else defense.wrap(copy.deepcopy(classifier))
        self.gradient = gradient
        draws = isinstance(defense, RobustModel) and defense.stochastic
        self.nature = replace(nature, random=nature.random or draws)
        self.stochastic = defense.stochastic or nature.random
        self.eval()
        self.requires_grad_(False)

    def with_gradient(self, gradient: Gradient) -> Self:
        """The same networks, differentiated in another way.

        Raises:
            BenchError: the gradient does not exist for this defence.
        """
        reason = why_not(self.defense, gradient)
        if reason:
            raise BenchError(reason)
        view = copy.copy(self)
        view.gradient = gradient
        return view

    @property
    def purifier(self) -> Purifier | None:
        """The defence, if it is one that changes clips."""
        return self.defense if isinstance(self.defense, Purifier) else None

    def candidates(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        """Purified clips ``(V, B, 3, T, H, W)``, with the gradient of :attr:`gradient` attached.

        Raises:
            BenchError: the purifier, or what stands for it backward, returns something of another shape.
        """
        purifier = self.purifier
        if purifier is None:
            return clips[None]
        gradient = self.gradient
        if gradient == "strongest":  # asked as a whole, and not through one of the attack's moves
            gradient = automatic(purifier)
        if gradient in ("exact", "diffattack") or not (torch.is_grad_enabled() and clips.requires_grad):
            purified = _purify(purifier, clips, rng)
        else:
            replay = rng.clone()
            with torch.no_grad():
                purified = _purify(purifier, clips, rng)
            if gradient not in ("none", "query"):
                stand_in = _stand_in(purifier, gradient, clips, replay, purified)
                purified = _Backward.apply(purified, stand_in, -1 if gradient == "bpda-negated" else 1)
        return purified if purified.ndim == clips.ndim + 1 else purified[None]

    def _deviating(self, clips: Tensor, rng: ClipRandom) -> tuple[Tensor, Tensor | None]:
        """:meth:`candidates`, and the second objective of ``diffattack``, ``(B,)``, where it is wanted."""
        purifier = self.purifier
        if purifier is not None and purifier.identity:  # the judge asks it whether it is; an attack need not
            return clips[None], None
        if purifier is None or self.gradient != "diffattack" or not (torch.is_grad_enabled() and clips.requires_grad):
            return self.candidates(clips, rng), None
        purified, deviation = purifier.deviation(clips.clone(), rng)
        _check(purifier, clips, purified)
        return purified if purified.ndim == clips.ndim + 1 else purified[None], deviation

    def _classify(self, candidates: Tensor, rng: ClipRandom) -> Tensor:
        """Logits ``(V, B, K)`` of candidates ``(V, B, 3, T, H, W)``.

        Args:
            rng: one stream per clip, from which one that draws is seeded; ``B`` may be a multiple of that.
        """
        clips = candidates.flatten(0, 1)
        if self.nature.one_by_one:
            logits = torch.cat([self._answer(clip, rng, i % len(rng)) for i, clip in enumerate(clips.clone().split(1))])
        # As many as there are clips fit: that is what the batch was cut for.
        elif len(clips) <= len(rng) or len(clips) <= (size := self._portion(clips)):
            logits = self._together(clips)
        else:
            logits = torch.cat([saving(self._together, part) for part in clips.split(size)])
        return logits.unflatten(0, candidates.shape[:2])

    def _portion(self, clips: Tensor) -> int:
        """How many of ``clips (N, 3, T, H, W)`` go through the classifier together, see :attr:`at_once`."""
        if self.at_once is not None:
            return self.at_once
        if not clips.is_cuda:
            return len(clips)
        free, _ = torch.cuda.mem_get_info(clips.device)
        free += torch.cuda.memory_reserved(clips.device) - torch.cuda.memory_allocated(clips.device)
        times = _KEPT if torch.is_grad_enabled() and clips.requires_grad else _PASSING
        return max(1, free // 2 // (times * clips[0].numel() * clips.element_size()))

    def _together(self, clips: Tensor) -> Tensor:
        """Logits ``(N, K)``; a network that works in place does so on a copy."""
        return self._checked(self.classifier(clips.clone()), len(clips))

    def _answer(self, clip: Tensor, rng: ClipRandom, row: int) -> Tensor:
        """Logits ``(1, K)`` of one clip ``(1, 3, T, H, W)``, asked alone."""
        if not self.nature.random:
            return self._checked(self.classifier(clip), 1)
        with drawing_from(int(rng.select([row]).integers(2**31 - 1))):
            return self._checked(self.classifier(clip), 1)

    def _checked(self, logits: object, count: int) -> Tensor:
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != count:
            returned = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
            raise BenchError(
                f"{type(self.classifier).__name__} must turn {count} clips into logits of shape ({count}, K), but "
                f"returned {returned}."
            )
        return logits

    def vote_logits(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        """Logits of every candidate, ``(V, B, K)``.

        Raises:
            BenchError: the classifier does not return ``(V * B, K)``.
        """
        return bounded(self._classify(self.candidates(clips, rng), rng))

    def verdict(self, votes: Tensor) -> Tensor:
        """The class that the candidates' logits ``(V, B, K)`` come to, ``int64 (B,)`` on their device: see
        :attr:`Purifier.vote`."""
        if self.purifier is not None and self.purifier.vote == "mean":
            return self.pool(votes).argmax(-1)
        return plurality(votes.argmax(-1))

    @staticmethod
    def pool(votes: Tensor) -> Tensor:
        """The one definition of the logits that attacks see: ``(V, B, K)`` to ``(B, K)``.

        A single candidate keeps its logits untouched; several are averaged as probabilities and returned as
        log-probabilities, so the pooled prediction is the soft vote. VideoPure's code averages the cross-entropies
        of the candidates instead, see :class:`~bench.attack.target.EachVote`.
        """
        return votes[0] if len(votes) == 1 else torch.logsumexp(votes.log_softmax(-1), 0) - np.log(len(votes))

    def forward(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        """Clips ``(B, 3, T, H, W)`` to the pooled logits ``(B, K)``."""
        return self.pool(self.vote_logits(clips, rng))

    @torch.no_grad()
    def decide(self, clips: Tensor, rng: ClipRandom) -> Decision:
        """The final, hard decision on a batch: what every outcome is judged by.

        A purifier that makes its candidates one by one (:class:`InTurn`) makes no more of them than it takes
        to decide; the decision is that of all, and ``finite`` is said of those that were made.
        """
        if (voting := self._in_turn()) is not None:
            single = [self._decide_in_turn(voting, clip, rng.select([i])) for i, clip in enumerate(clips.split(1))]
            return _batch(single)
        candidates = self.candidates(clips, rng)
        logits = self._classify(candidates, rng)
        finite = usable(logits).all(0) & torch.isfinite(candidates).flatten(2).all(-1).all(0)
        return Decision(
            prediction=self.verdict(logits).cpu(),
            votes=logits.argmax(-1).cpu(),
            logits=self.pool(logits).cpu(),
            finite=finite.cpu(),
            purified=candidates,
        )

    def _in_turn(self) -> InTurn | None:
        """The purifier, if its candidates are to be asked one by one: :meth:`InTurn.purify` is all that it shows to
        attacks, and they vote by themselves."""
        purifier = self.purifier
        if not isinstance(purifier, InTurn) or purifier.vote != "plurality":
            return None
        own = getattr(purifier.purify, "__func__", None) is InTurn.purify and type(purifier).measure is Purifier.measure
        return purifier if own else None

    def _decide_in_turn(self, purifier: InTurn, clip: Tensor, rng: ClipRandom) -> Decision:
        """:meth:`decide` on one clip ``(1, 3, T, H, W)``."""
        count = purifier.voters
        shown: list[Tensor] = []
        logits = clip.new_empty(0)
        finite = torch.ones(1, dtype=torch.bool, device=clip.device)
        for candidate in purifier.in_turn(clip.clone(), rng):
            _check(purifier, clip, candidate)
            answer = self._classify(candidate[None], rng)
            logits = torch.cat([logits, answer]) if shown else answer
            finite &= usable(answer)[0] & torch.isfinite(candidate).flatten(1).all(-1)
            shown = shown or [candidate]
            # The CPU has to know whether another one is made; that wait is nothing beside making it.
            if bool(decided(logits.argmax(-1), count)):
                break
        votes = torch.full((count, 1), UNASKED)
        votes[: len(logits)] = logits.argmax(-1).cpu()
        return Decision(self.verdict(logits).cpu(), votes, self.pool(logits).cpu(), finite.cpu(), shown[0][None])

    @torch.no_grad()
    def measure(self, clips: Tensor, purified: Tensor) -> Tensor:
        """What the purifier measures (:meth:`Purifier.measure`) of clips as they come and purified.

        Args:
            clips: ``(B, 3, T, H, W)``.
            purified: their candidates, ``(V, B, 3, T, H, W)``, over which it is averaged.

        Returns:
            ``(2, B)``, or ``(0, B)`` of a defence that measures nothing.

        Raises:
            BenchError: the purifier returns something else than a number per clip.
        """
        before = None if self.purifier is None else self.purifier.measure(clips.clone())
        if self.purifier is None or before is None:
            return torch.empty(0, len(clips))
        measured = [before, *(self.purifier.measure(candidate.clone()) for candidate in purified)]
        for value in measured:
            if not isinstance(value, Tensor) or value.shape != (len(clips),):
                shape = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
                raise BenchError(
                    f"{type(self.purifier).__name__}.measure must return ({len(clips)},), a number per clip, but "
                    f"returned {shape}."
                )
        first, *rest = (value.cpu() for value in measured if value is not None)
        return torch.stack([first, torch.stack(rest).mean(0)])

    def target(self, rng: ClipRandom, *, transfer: bool = False) -> Target:
        """What an attack is given: the differentiable, pass-counting view of this module.

        Args:
            rng: one stream per clip of the batch, for the defence's own randomness.
            transfer: whether the clips are meant for other pipelines too, see :class:`Target`.
        """

        def through(gradient: Gradient) -> Callable[..., Answer]:
            if gradient == "none":
                return self._bare(rng)
            return self.with_gradient(settled(self.defense, gradient))._look(rng)

        chooses = getattr(self.classifier, "selects", False)
        selection, views = (getattr(self.classifier, n, None) if chooses else None for n in ("selection", "views"))
        return Target(
            self._look(rng),
            len(rng),
            stochastic=self.stochastic,
            transfer=transfer,
            selection=selection,
            views=views,
            ways=through,
            streams=rng,
        )

    def _look(self, rng: ClipRandom) -> Callable[..., Answer]:
        """How an attack asks this view of the module; its randomness comes from ``rng``."""

        def look(clips: Tensor, rows: Tensor, then: Transform | None = None) -> Answer:
            streams = rng.select(rows)
            candidates, deviation = self._deviating(clips, streams)
            self._check_gradient(clips, candidates, self._purifying)
            if then is not None:
                candidates = torch.stack([then(candidate) for candidate in candidates])
            logits = self._classify(candidates, streams)
            self._check_gradient(candidates, logits, self._networks)
            votes = bounded(logits)
            return Answer(self.pool(votes), self.verdict(logits.detach()), deviation, votes)

        return look

    def _bare(self, rng: ClipRandom) -> Callable[..., Answer]:
        """How an attack asks the classifier without the purifier before it."""

        def look(clips: Tensor, rows: Tensor, then: Transform | None = None) -> Answer:
            logits = self._classify((clips if then is None else then(clips))[None], rng.select(rows))[0]
            self._check_gradient(clips, logits, self._networks)
            return Answer(bounded(logits), logits.detach().argmax(1))

        return look

    def _check_gradient(self, before: Tensor, after: Tensor, why: Callable[[], str]) -> None:
        """Says whose fault it is where a gradient is wanted and does not pass.

        Raises:
            Impossible: only what needs that gradient is so.
        """
        wanted = torch.is_grad_enabled() and before.requires_grad and self.gradient not in ("none", "query")
        if wanted and not after.requires_grad:
            raise Impossible(why())

    def _purifying(self) -> str:
        """That the purifier, or what stands for it, carries no gradient."""
        name = type(self.defense).__name__
        gradient = automatic(self.defense) if self.gradient == "strongest" else self.gradient
        if gradient in ("exact", "diffattack"):
            return f"{name} says differentiable = True but its output carries no gradient: set differentiable = False."
        return f"{name}.{_HOOKS.get(gradient, 'bpda')} carries no gradient, which {gradient} passes back: mend it."

    def _networks(self) -> str:
        """That the classifier's logits carry no gradient."""
        whose = type(self.classifier).__name__
        if isinstance(self.defense, RobustModel):
            whose = f"The network of {type(self.defense).__name__}"
        return (
            f"{whose} returns logits that carry no gradient (a detach or torch.no_grad inside?): let it pass, or "
            "attack by asking alone, by square or rays with the gradient query."
        )


def usable(logits: Tensor) -> Tensor:
    """Which rows of logits ``(..., K)`` mean something, ``bool (...)``: neither not-a-number nor plus infinity in them,
    and a class that is not ruled out."""
    return ~(logits.isnan() | logits.isposinf()).any(-1) & logits.isfinite().any(-1)


def _batch(single: Sequence[Decision]) -> Decision:
    """The decisions on single clips as one on all."""
    return Decision(
        prediction=torch.cat([one.prediction for one in single]),
        votes=torch.cat([one.votes for one in single], 1),
        logits=torch.cat([one.logits for one in single]),
        finite=torch.cat([one.finite for one in single]),
        purified=torch.cat([one.purified for one in single], 1),
    )


def _purify(purifier: Purifier, clips: Tensor, rng: ClipRandom) -> Tensor:
    # A copy: one that works in place must not move the attack's iterate, nor one that claims to be the identity.
    purified = purifier.purify(clips.clone(), rng)
    _check(purifier, clips, purified)
    return purified


def _check(purifier: Purifier, clips: Tensor, purified: Tensor) -> None:
    shape = tuple(purified.shape) if isinstance(purified, Tensor) else ()
    if len(shape) not in (5, 6) or shape[-5:-3] != tuple(clips.shape[:2]) or 0 in shape:
        returned = f"shape {shape}" if shape else f"a {type(purified).__name__}"
        raise BenchError(
            f"{type(purifier).__name__}.purify must return (B, 3, T, H, W) or (V, B, 3, T, H, W) for clips of shape "
            f"{tuple(clips.shape)}, but returned {returned}."
        )
    if purifier.identity and not torch.equal(purified, clips):
        # The planner spares an identity its adaptive attacks: it must not be one in name only.
        raise BenchError(f"{type(purifier).__name__} says identity = True but changes the clips: remove that line.")


# What stands in for the purifier on the way back, where that is not `bpda`.
_HOOKS: dict[Gradient, str] = {"surrogate": "surrogate", "bpda-lowpass": "lowpass"}


def _stand_in(purifier: Purifier, gradient: Gradient, clips: Tensor, rng: ClipRandom, purified: Tensor) -> Tensor:
    hook = _HOOKS.get(gradient, "bpda")
    stand_in: Tensor = clips if gradient == "bpda-identity" else getattr(purifier, hook)(clips.clone(), rng)
    if stand_in.shape not in (purified.shape, purified.shape[-5:]):
        if gradient == "bpda-identity":
            raise Impossible(
                f"{type(purifier).__name__} turns clips of shape {tuple(clips.shape)} into {tuple(purified.shape)}, "
                "through which the identity cannot pass a gradient back: use bpda or exact."
            )
        raise BenchError(
            f"{type(purifier).__name__} turns clips of shape {tuple(clips.shape)} into {tuple(purified.shape)}, but "
            f"its {hook} has shape {tuple(stand_in.shape)}: override {hook} to return the shape that purify returns, "
            f"so that {gradient} can pass the gradient back."
        )
    return stand_in


# Backward, the identity in place of what is not there.
_OF_NETWORKS = ("bpda", "bpda-identity")


def settled(defense: Defense, gradient: Gradient) -> Gradient:
    """The gradient that is really taken: nothing of a network needs a stand-in, and its ``bpda`` is its exact one."""
    return "exact" if gradient in _OF_NETWORKS and isinstance(defense, RobustModel) else gradient


def automatic(defense: Defense) -> Gradient:
    """The gradient of an attacker who names none: exact where it exists, else bpda."""
    return "exact" if why_not(defense, "exact") is None else "bpda"


def why_not(defense: Defense, gradient: Gradient) -> str | None:
    """One sentence that says why this gradient does not exist for this defence, or ``None`` if it does."""
    name = type(defense).__name__
    if gradient not in GRADIENTS:
        return f"Unknown gradient {gradient!r}; known: {', '.join(GRADIENTS)}."
    if gradient in ("exact", "diffattack") and isinstance(defense, Purifier) and not defense.differentiable:
        return f"{name} has no {gradient} gradient because part of it is not differentiable; use bpda."
    if gradient not in ("exact", "query", "none", "strongest", *_OF_NETWORKS) and isinstance(defense, RobustModel):
        return f"{name} is a network, differentiable as it is: there is nothing for {gradient} to replace; use exact."
    if gradient == "surrogate" and getattr(type(defense), "surrogate", None) is Purifier.surrogate:
        return f"{name} has no cheaper process for surrogate to differentiate; use exact or bpda."
    if gradient == "bpda-lowpass" and getattr(type(defense), "lowpass", None) is Purifier.lowpass:
        return f"{name} has no filter for bpda-lowpass to differentiate; use bpda."
    if gradient == "diffattack" and getattr(type(defense), "deviation", None) is Purifier.deviation:
        return f"{name} has no denoising trajectory for diffattack to bend; use exact or bpda."
    return None
