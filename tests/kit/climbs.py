"""What gradient attacks climb, looked at by itself."""

from __future__ import annotations

from torch import Tensor, nn

from bench import Budget, ClipRandom, Target
from bench.attack.gradient import GradientAttack, Run
from bench.attack.losses import cross_entropy
from bench.attack.survivors import Survivors
from bench.attack.target import Climb


def run_on(classifier: nn.Module, clips: Tensor, budget: Budget) -> Run:
    """A run on clips of the first class, before its first step."""
    labels = clips.new_zeros(len(clips)).long()
    return Run(Target.of(classifier, len(clips)), clips, labels, budget, ClipRandom(range(len(clips))))


def climb(attack: GradientAttack, target: Target, x: Tensor, labels: Tensor, seeds: list[int]) -> Climb:
    """What an attack climbs at some clips, in a run on these alone."""
    rng, budget = ClipRandom(seeds), Budget()
    left = Survivors(x, labels, budget, rng)
    return attack.ascent(Run(target, x, labels, budget, rng), x, left, labels, cross_entropy)
