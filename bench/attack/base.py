"""Base classes of attacks: what a contributor derives from.

An attack is ``(target, clips, labels, budget) -> adversarial clips``. It sees a differentiable module and
never learns which defence stands behind it.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from bench.attack.target import Target
from bench.errors import BenchError
from bench.seeds import ClipRandom
from bench.threat.budgets import Budget

_FEW_QUERIES = 20


@dataclass(frozen=True)
class AttackResult:
    """What an attack returns.

    Attributes:
        clips: ``float32 (B, 3, T, H, W)``, the adversarial clips.
        trace: ``float32 (S, B)``, the attack's loss at each step (``nan`` once a clip has left the batch),
            or ``None`` for attacks without a loss. Each loss has taken a forward pass at least.
    """

    clips: Tensor
    trace: Tensor | None = None


class Attack(ABC):
    """Base class. Implement :meth:`run` and :meth:`passes`.

    Attributes:
        norms: budgets the attack can take.
        uses_model: whether it looks at the classifier at all.
        learned: of one that does not, whether it brings what was learned on other clips (a universal perturbation); if
            not, it is a control as random noise is.
        decisive_only: whether it, or part of it, needs a target whose answer is final. It then gets clips of its own
            where a plan would otherwise share those that are made for transfer.
        parts: other attacks that it runs, as grids name them; their code belongs to what identifies its results.
        files: files that it reads; their content belongs to it, too.
    """

    kind: ClassVar[str] = "attack"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    uses_model: ClassVar[bool] = True
    learned: bool = False
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
        with torch.inference_mode(False), torch.enable_grad():  # whatever mode the caller is in
            clips, labels = (x.clone() if x.is_inference() else x for x in (clips, labels))
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
