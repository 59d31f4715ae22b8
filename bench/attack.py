"""Base classes of attacks: what a contributor derives from.

An attack is ``(target, clips, labels, budget) -> adversarial clips``. It sees a differentiable module and
never learns which defence stands behind it.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from bench.errors import BenchError
from bench.losses import loss_of
from bench.seeds import ClipRandom
from bench.threat.budgets import Budget

_FEW_QUERIES = 20


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

Transform = Callable[[Tensor], Tensor]
"""Clips ``(b, 3, T, H, W)`` to ``S`` altered copies of each, ``(S * b, 3, T, H, W)``, the copies one after another."""


@dataclass(frozen=True)
class Answer:
    """What a classifier says about clips.

    Attributes:
        logits: ``(b, K)``.
        decision: ``int64 (b,)``, the hard decision, which is not always the largest logit.
        deviation: ``(b,)``, a second objective of the gradient ``diffattack``, or ``None``.
    """

    logits: Tensor
    decision: Tensor
    deviation: Tensor | None = None


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

    Attributes:
        decision: ``int64 (b,)``, the hard decision of the last call. It is what the judge goes by, and with
            several voting candidates not always the largest logit.
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
    ) -> None:
        self._function = function
        self.selection, self.views = selection, dict(views or {})
        self.stochastic = stochastic
        self.decisive = not (stochastic or transfer)
        self.decision = torch.zeros(0, dtype=torch.int64)
        self.forwards = torch.zeros(batch, dtype=torch.int64)
        self.backwards = torch.zeros(batch, dtype=torch.int64)

    @classmethod
    def of(cls, model: Target | nn.Module, batch: int) -> Target:
        """Wraps a plain classifier; a target is returned as it is."""
        if isinstance(model, Target):
            return model
        return cls(lambda clips, rows, then=None: model(clips if then is None else then(clips)), batch)

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
    ) -> tuple[Tensor, Tensor]:
        """Value of an objective on some clips, and its gradient: what every gradient attack climbs.

        Args:
            clips, rows, then: as for a call.
            labels: ``(b,)``.
            weights: ``(S,)``, of the copies that ``then`` makes; equal ones if not given.

        Returns:
            ``(b,)`` and the shape of ``clips``.
        """
        x = clips.detach().requires_grad_(True)
        answer = self.ask(x, rows, then)
        copies = len(answer.logits) // len(x)
        value = objective(answer.logits, labels.repeat(copies)).unflatten(0, (copies, len(x)))
        value = value.mean(0) if weights is None else (weights.to(value)[:, None] * value).sum(0)
        if answer.deviation is not None:
            value = value + answer.deviation
        (gradient,) = torch.autograd.grad(value.sum(), x)
        return value.detach(), gradient

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
        answer = found if isinstance(found, Answer) else Answer(found, found.detach().argmax(1))
        copies = max(1, len(answer.logits) // len(clips))
        self.forwards.index_add_(0, where, torch.full_like(where, copies))
        self.decision = answer.decision
        return answer


class Wrapped(Target):
    """A target in front of another one: what it says of itself, its counters and its streams are the inner one's.

    Args:
        inner: what is asked.
    """

    def __init__(self, inner: Target) -> None:
        self._inner = inner
        self.stochastic, self.decisive, self.decision = inner.stochastic, inner.decisive, inner.decision
        self.forwards, self.backwards = inner.forwards, inner.backwards
        self.selection, self.views = inner.selection, inner.views


@dataclass(frozen=True)
class AttackResult:
    """What an attack returns.

    Attributes:
        clips: ``float32 (B, 3, T, H, W)``, the adversarial clips.
        trace: ``float32 (S, B)``, the attack's loss at each step (``nan`` once a clip has left the batch),
            or ``None`` for attacks without a loss.
    """

    clips: Tensor
    trace: Tensor | None = None


class Attack(ABC):
    """Base class. Implement :meth:`run` and :meth:`passes`.

    Attributes:
        norms: budgets the attack can take.
        uses_model: whether it looks at the classifier at all.
        decisive_only: whether it, or part of it, needs a target whose answer is final. It then gets clips of its own
            where a plan would otherwise share those that are made for transfer.
        parts: other attacks that it runs, as grids name them; their code belongs to what identifies its results.
        files: files that it reads; their content belongs to it, too.
    """

    kind: ClassVar[str] = "attack"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    uses_model: ClassVar[bool] = True
    decisive_only: bool = False
    parts: Sequence[str | Mapping[str, Any]] = ()
    files: Sequence[Path] = ()

    @abstractmethod
    def run(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> AttackResult:
        """Attacks a batch.

        Args:
            target: the classifier under attack.
            clips: clean clips, ``float32 (B, 3, T, H, W)`` in ``[0, 1]``.
            labels: true classes, ``int64 (B,)``.
            budget: what may be done to each clip.
            rng: the only source of randomness, one stream per clip.
        """

    @abstractmethod
    def passes(self, budget: Budget) -> tuple[int, int]:
        """Most forward and backward passes that one clip can cost; plans are made from it."""

    def refuses(self, *, stochastic: bool, transfer: bool) -> str | None:
        """One sentence that says why it cannot attack such a target, see :class:`Target`; ``None`` if it can.

        Plans leave such combinations out, with the reason.
        """
        return None

    def lighter(self) -> Attack:
        """The same attack with few queries, where it counts them: enough for the zero-budget control."""
        if not hasattr(self, "queries"):
            return self
        light: Any = copy.copy(self)
        light.queries = min(light.queries, _FEW_QUERIES)
        return cast(Attack, light)

    def __call__(
        self,
        model: Target | nn.Module,
        clips: Tensor,
        labels: Tensor,
        budget: Budget | None = None,
        rng: ClipRandom | None = None,
    ) -> AttackResult:
        """Checks the input, then runs the attack.

        Args:
            model: a target, or any classifier on clips.
            budget: :class:`Budget()` (linf 4/255, 10 steps) if not given.
            rng: seeds ``0 .. B-1`` if not given.

        Raises:
            BenchError: clips, labels or budget are not what the attack can take, or it returns no result.
        """
        budget = budget or Budget()
        self.check(budget)
        if clips.ndim != 5 or clips.shape[1] != 3 or not clips.is_floating_point():
            raise BenchError(f"Clips must be floats of shape (B, 3, T, H, W), not {clips.dtype} {tuple(clips.shape)}.")
        if not bool(((clips >= 0) & (clips <= 1)).all()):
            raise BenchError("Clips must lie in [0, 1] and be finite; divide 8-bit frames by 255.")
        if not isinstance(labels, Tensor) or labels.shape != clips.shape[:1] or labels.is_floating_point():
            raise BenchError(f"Labels must be an integer tensor, one per clip: there are {len(clips)} clips.")
        if rng is not None and len(rng) != len(clips):
            raise BenchError(f"There must be one random stream per clip: {len(clips)} clips, {len(rng)} streams.")
        target = Target.of(model, len(clips))
        result = self.run(target, clips, labels, budget, rng or ClipRandom(range(len(clips))))
        if not isinstance(result, AttackResult) or not isinstance(result.clips, Tensor):
            raise BenchError(
                f"{type(self).__name__}.run must return AttackResult(clips), not a {type(result).__name__}."
            )
        return result

    def check(self, budget: Budget) -> None:
        """Raises :class:`BenchError` if the attack cannot take the budget."""
        if budget.norm not in self.norms:
            wanted = " or ".join(self.norms)
            raise BenchError(
                f"{type(self).__name__} takes {wanted} budgets, not {budget.norm}: give it one, in a grid by 'budget: "
                f"{{norm: {self.norms[0]}, size: ...}}'."
            )


class GradientAttack(Attack):
    """The loop shared by iterative gradient attacks: start, then ascend and project.

    A subclass may say where to :meth:`start`, how long a step is, which gradient it climbs (:meth:`ascent`) and how the
    gradient becomes a step (:meth:`direct`). The loop sees to the rest: exactly ``k`` forward and ``k``
    backward passes for ``k`` steps, no weight gradients, restarts, and clips that leave the batch as soon as they are
    broken.

    The worst iterate counts, not the last. A clip is broken when an evaluated iterate is misclassified (reaches
    the target class, if there is one). On a decisive target that iterate is returned and the clip leaves the
    batch; a clip never seen broken gets its last iterate, which the judge evaluates. Clips made for transfer go on
    climbing, because a defence would undo a perturbation that barely fools the bare classifier: every iterate is
    evaluated, the last one too, and the one of highest loss is returned, a broken one if there is any. One draw of
    a stochastic target proves nothing, so there every clip takes every step, and of several restarts the last
    iterate of the one with the highest mean loss over its second half is returned.

    Args:
        loss: ``ce`` (cross-entropy) or ``margin``.
        target: ``None`` (untargeted), ``runner_up`` or ``least_likely`` (by the clean logits, one forward
            pass more).
        keep: ``worst`` as above, or ``last``: the last iterate is returned, as for a stochastic target.
        momentum: share of the accumulated gradient that is kept; to it, each :meth:`normalise`-d gradient is added.

    Attributes:
        reach: length of all steps together, in radii, where the budget does not say how long one is: 2.5 (Madry et al.,
            2018) lets a start anywhere in the ball reach any other place.
    """

    reach: ClassVar[float] = 2.5

    def __init__(
        self,
        loss: str = "ce",
        target: Literal["runner_up", "least_likely"] | None = None,
        keep: Literal["worst", "last"] = "worst",
        momentum: float = 0.0,
    ) -> None:
        self._loss = loss_of(loss)
        if target not in (None, "runner_up", "least_likely"):
            raise ValueError(f"target must be runner_up, least_likely or nothing, not {target!r}")
        if keep not in ("worst", "last"):
            raise ValueError(f"keep must be worst or last, not {keep!r}")
        if not momentum >= 0:
            raise ValueError(f"momentum must not be negative, not {momentum!r}")
        self.target, self.keep, self.momentum = target, keep, momentum

    def start(self, clips: Tensor, budget: Budget, rng: ClipRandom) -> Tensor:
        """The first iterate; the clean clip by default."""
        return clips.clone()

    def start_rows(self, clips: Tensor, rows: Tensor, budget: Budget, rng: ClipRandom) -> Tensor:
        """:meth:`start`, for an attack that must know which clips of the batch they are: those still unbroken."""
        return self.start(clips[rows], budget, rng)

    def ascent(
        self, target: Target, clips: Tensor, rows: Tensor, aim: Tensor, objective: Objective, rng: ClipRandom
    ) -> tuple[Tensor, Tensor]:
        """Value ``(b,)`` and gradient of what is climbed; must leave ``target.decision`` as it is on ``clips``.

        One forward and one backward pass by default. ``rng`` has one stream per clip of ``clips``.
        """
        return target.gradient(clips, rows, aim, objective)

    def normalise(self, gradient: Tensor) -> Tensor:
        """Brings gradients ``(b, 3, T, H, W)`` to one scale before they accumulate: mean absolute value 1."""
        return gradient / gradient.abs().mean((1, 2, 3, 4), keepdim=True).clamp_min(1e-30)

    def direct(self, gradient: Tensor, budget: Budget) -> Tensor:
        """Turns gradients ``(b, 3, T, H, W)`` into unit steps; steepest ascent by default."""
        return budget.geometry.direction(gradient)

    def advance(self, clips: Tensor, direction: Tensor, budget: Budget) -> Tensor:
        """Iterates after one step along unit steps, before they are projected: added, by default."""
        length = self.step_size(budget)
        if isinstance(length, Tensor):
            length = length.to(clips).reshape(-1, *([1] * (clips.ndim - 1)))
        return clips + length * direction

    def step_size(self, budget: Budget) -> float | Tensor:
        """Length of one step: the budget's, or :attr:`reach` radii over all steps."""
        return budget.step_size if budget.step_size is not None else self.reach * budget.size / budget.steps

    def passes(self, budget: Budget) -> tuple[int, int]:
        gradients = budget.steps * budget.restarts
        checks = budget.restarts if self.keep == "worst" else 0
        return gradients + checks + (self.target is not None), gradients

    def _aim(self, target: Target, clips: Tensor, labels: Tensor) -> Tensor:
        """The class each clip is pushed away from (untargeted) or towards (targeted)."""
        if self.target is None:
            return labels
        with torch.no_grad():
            logits = target(clips).scatter(1, labels[:, None], float("-inf" if self.target == "runner_up" else "inf"))
        return logits.argmax(1) if self.target == "runner_up" else logits.argmin(1)

    def run(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> AttackResult:
        early = self.keep == "worst" and target.decisive
        climb = self.keep == "worst" and not target.decisive and not target.stochastic
        aim = self._aim(target, clips, labels)
        sign = 1.0 if self.target is None else -1.0
        velocity = torch.zeros_like(clips) if self.momentum else None
        trace = torch.full((budget.steps * budget.restarts, len(clips)), float("nan"))
        rows = torch.arange(len(clips))
        best = Best(clips)

        def objective(logits: Tensor, classes: Tensor) -> Tensor:
            return sign * self._loss(logits, classes)

        def is_broken(of: Tensor) -> Tensor:
            hit = target.decision.to(aim.device) == aim[of]
            return hit if self.target else ~hit

        for restart in range(budget.restarts):
            share = budget.select(rows)
            x = self.start_rows(clips, rows, share, rng.select(rows))
            if velocity is not None:
                velocity.zero_()
            losses: list[Tensor] = []
            for step in range(budget.steps):
                loss, gradient = self.ascent(target, x, rows, aim[rows], objective, rng.select(rows))
                loss = loss.double()
                trace[restart * budget.steps + step, rows] = loss.float().cpu()
                if early:
                    broken = is_broken(rows).cpu()
                    best.clips[rows[broken]] = x[broken]
                    rows, x, gradient = rows[~broken], x[~broken], gradient[~broken]
                    if not len(rows):
                        return AttackResult(best.clips, trace)
                    share = budget.select(rows)
                elif climb:
                    best.keep(x, loss, is_broken(rows))
                losses.append(loss)
                if velocity is not None:
                    velocity[rows] = gradient = self.momentum * velocity[rows] + self.normalise(gradient)
                x = self.advance(x, self.direct(gradient, share), share)
                x = share.geometry.project(x, clips[rows], share.size)
            if climb:
                with torch.no_grad():
                    loss = sign * self._loss(target(x, rows), aim[rows]).double()
                best.keep(x, loss, is_broken(rows))
            elif early:
                best.clips[rows] = x
                if restart < budget.restarts - 1:  # another start is spent only on clips that need one
                    with torch.no_grad():
                        target(x, rows)
                    rows = rows[~is_broken(rows).cpu()]
                    if not len(rows):
                        break
            else:
                late = torch.stack(losses[budget.steps // 2 :]).mean(0)
                best.keep(x, late, torch.zeros_like(late, dtype=torch.bool))
        return AttackResult(best.clips, trace)


class Best:
    """The strongest candidate seen so far of each clip: broken before unbroken, then by score."""

    def __init__(self, clips: Tensor) -> None:
        self.clips = clips.clone()
        # Not-a-number: nothing is kept yet, and any candidate is better.
        self._score = torch.full((len(clips),), float("nan"), dtype=torch.float64, device=clips.device)
        self._broken = torch.zeros(len(clips), dtype=torch.bool, device=clips.device)

    def keep(self, candidates: Tensor, score: Tensor, broken: Tensor, rows: Tensor | None = None) -> None:
        """Offers one candidate per clip: ``(b, 3, T, H, W)``, scores ``(b,)``, whether broken ``(b,)``.

        Args:
            rows: ``(b,)``, which clips of the batch they belong to; all, if not given.
        """
        rows = torch.arange(len(self.clips), device=score.device) if rows is None else rows.to(score.device)
        known, was_broken = self._score[rows], self._broken[rows]
        higher = (score >= known) | known.isnan()  # where the loss is flat, the later one
        better = (broken & ~was_broken) | ((broken == was_broken) & higher)
        self.clips[rows[better]], self._score[rows[better]] = candidates[better], score[better]
        self._broken[rows] = was_broken | broken
