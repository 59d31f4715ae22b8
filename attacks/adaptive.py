"""The strongest attacks known for the kind of a defence, in turn; the worst of them is kept per clip."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from bench import (
    NETWORK,
    THREATS,
    AttackResult,
    Budget,
    ClipRandom,
    Moves,
    Target,
    at_least,
    moves_against,
    moves_of,
    register,
)


@register(
    "adaptive",
    source="Tramer, Carlini, Brendel and Madry, On Adaptive Attacks to Adversarial Example Defenses, NeurIPS 2020; "
    "Croce et al., Evaluating the Adversarial Robustness of Adaptive Test-time Defenses, ICML 2022; the lists: "
    "VideoRobustBench's own measurements",
)
class Adaptive(Moves):
    """Asked of a defence in a grid, runs every move that is known to hurt its kind, and keeps the worst per clip.

    Which moves these are, follows from what the defence says of itself and from the budget (:mod:`bench.attack.known`;
    ``bench show adaptive`` prints the lists). Cheap moves come first, and dear ones meet only the clips that are left.
    The author of a defence, and a grid, can add moves and never take one away. Without a grid it attacks a network.

    Args:
        extra: further moves, written as columns of grids are: ``"tt+exact"``.
        draws: of a randomised defence, over which each step against it averages.
        looks: how often a randomised defence is asked about each move's clip.
    """

    norms = THREATS

    def __init__(self, extra: Sequence[str] = (), draws: int = 5, looks: int = 5) -> None:
        at_least("draws", draws, 1)
        at_least("looks", looks, 1)
        if not isinstance(extra, list | tuple):
            raise ValueError(f"extra must be a list of moves such as ['tt+exact'], not {extra!r}")
        self.extra, self.draws = moves_of(extra), draws
        super().__init__(looks=looks)

    def _ready(self, budget: Budget) -> Moves:
        return self if self.moves else self.armed([*moves_against(NETWORK, budget, self.draws), *self.extra])

    def passes(self, budget: Budget) -> tuple[int, int]:
        return Moves.passes(self._ready(budget), budget)

    def run(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> AttackResult:
        return Moves.run(self._ready(budget), target, clips, labels, budget, rng)
