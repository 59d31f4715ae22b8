"""An attack on every way through a network that chooses between branches of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bench import Attack, AttackResult, BenchError, Budget, ClipRandom, Target, register
from bench.attack.best import Best
from bench.attack.losses import cross_entropy
from bench.registry import ATTACKS, Spec


@register(
    "branches",
    source="VideoRobustBench's own, against networks that choose between branches, such as Lo and Patel, Defending "
    "Against Multiple and Unforeseen Adversarial Videos, IEEE TIP 2022; built on Madry et al., Towards Deep Learning "
    "Models Resistant to Adversarial Attacks, ICLR 2018",
)
class Branches(Attack):
    """Makes clips on each branch, on their even mixture and on the mixture with a selection that takes no gradient, and
    keeps the worst for the whole network.

    A gradient through the selection module follows how the choice changes rather than what the classifier sees, and a
    choice that is made at random hides every branch: both make the white-box attack on the whole weaker than one on its
    parts. Clips of the parts are made as for transfer, to the last step. A clip that one part has broken takes no part
    in the next.

    Args:
        attack: the attack that climbs, a gradient attack as grids name it.
        views: which ways, of ``frozen``, ``even``, ``clean``, ``lp`` and ``physical``; all, if empty.
    """

    def __init__(self, attack: str | Mapping[str, Any] = "pgd", views: Sequence[str] = ()) -> None:
        self._inner: Attack = ATTACKS.create(Spec.parse(attack))
        self.parts = (attack,)
        self.views = tuple(views)

    @property
    def norms(self) -> tuple[str, ...]:  # type: ignore[override]
        return self._inner.norms

    def check(self, budget: Budget) -> None:
        self._inner.check(budget)

    def refuses(self, *, stochastic: bool, transfer: bool) -> str | None:
        if transfer:
            return "branches attacks the branches of MultiBN, which the bare classifier does not have."
        if stochastic:
            return "branches compares the ways by one look, which a randomised defence makes worthless."
        return self._inner.refuses(stochastic=stochastic, transfer=True)

    def passes(self, budget: Budget) -> tuple[int, int]:
        """Passes of the whole network; those of its parts are not counted."""
        return len(self.views) or 5, 0

    def run(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> AttackResult:
        for name in self.views or ("frozen",):
            if name not in target.views:
                known = ", ".join(target.views) or "none: take the attack itself for it"
                raise BenchError(
                    f"branches attacks ways through a network, and there is no {name!r}; there are {known}."
                )
        rows, best = torch.arange(len(clips)), Best(clips)
        for name in self.views or target.views:
            way = target.views[name]
            part = Target(
                lambda x, _, then=None, way=way: way(x if then is None else then(x)), len(rows), transfer=True
            )
            found = self._inner.run(part, clips[rows], labels[rows], budget.select(rows), rng.select(rows)).clips
            with torch.no_grad():
                answer = target.ask(found, rows)
            broken = answer.decision.to(labels.device) != labels[rows]
            best.keep(found, cross_entropy(answer.logits, labels[rows]), broken, rows)
            rows = rows[~broken.cpu()]
            if not len(rows):
                break
        return AttackResult(best.clips)
