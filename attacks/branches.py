"""An attack on every way through a network that chooses between branches of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from bench import (
    ATTACKS,
    Attack,
    AttackResult,
    BenchError,
    Best,
    Budget,
    ClipRandom,
    Spec,
    Survivors,
    Target,
    Turn,
    in_turn,
    one_look,
    register,
)


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
    in the next. A network without branches has one way through it: there it is the attack itself.

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
        if transfer and self.views:
            return "branches attacks the branches of MultiBN, which the bare classifier does not have."
        if stochastic:
            return "branches compares the ways by one look, which a randomised defence makes worthless."
        return self._inner.refuses(stochastic=stochastic, transfer=True)

    def passes(self, budget: Budget) -> tuple[int, int]:
        """Passes of the whole network; those of its parts are not counted. Without named views, it may have none."""
        if self.views:
            return len(self.views), 0
        forwards, backwards = self._inner.passes(budget)
        return max(forwards, 5), backwards

    def run(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> AttackResult:
        if not self.views and not target.views:
            return self._inner.run(target, clips, labels, budget, rng)
        for name in self.views or ("frozen",):
            if name not in target.views:
                known = ", ".join(target.views) or "none: take the attack itself for it"
                raise BenchError(
                    f"branches attacks ways through a network, and there is no {name!r}; there are {known}."
                )
        ways = [target.views[name] for name in self.views or target.views]
        left = Survivors(clips, labels, budget, rng)
        result = in_turn(left, [self._turn(way) for way in ways], one_look(target), Best(clips))
        return AttackResult(result.clips)  # no trace: each way has a loss of its own

    def _turn(self, way: Callable[[Tensor], Tensor]) -> Turn:
        """The attack on one way through the network, to its last step."""

        def turn(left: Survivors) -> AttackResult:
            part = Target(lambda x, _, then=None: way(x if then is None else then(x)), len(left), transfer=True)
            return self._inner.run(part, left.clips, left.labels, left.budget, left.rng)

        return turn
