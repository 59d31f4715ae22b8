"""What the attack ``adaptive`` runs against a defence: the kind of the defence, and the list known for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from bench.attack.base import Attack
from bench.attack.known import (
    BRANCHING,
    DENOISER,
    NETWORK,
    RANDOM,
    RANDOM_DENOISER,
    RANDOM_ROUGH,
    ROUGH,
    SMOOTH,
    Kind,
    moves_against,
)
from bench.attack.moves import Move, Moves, described, moves_of
from bench.defense.base import Defense, RobustModel, changes_nothing
from bench.defense.defended import settled, why_not
from bench.errors import BenchError
from bench.plan.cells import Component
from bench.plan.components import identity_of
from bench.registry import ATTACKS, Spec
from bench.threat.budgets import Budget


def kind_of(defense: Defense, network: nn.Module) -> Kind:
    """The kind of a defence.

    Args:
        network: the classifier behind it, or that it has become.
    """
    if isinstance(defense, RobustModel) or changes_nothing(defense):
        return BRANCHING if getattr(network, "selects", False) else NETWORK
    denoises = why_not(defense, "surrogate") is None
    if denoises and defense.differentiable:
        return RANDOM_DENOISER if defense.stochastic else DENOISER
    if defense.stochastic:
        return RANDOM if defense.differentiable else RANDOM_ROUGH
    return SMOOTH if defense.differentiable else ROUGH


def arm(attack: Component[Attack], defense: Defense, network: nn.Module, budget: Budget) -> Component[Attack]:
    """The attack ``adaptive`` as it meets one defence: with its moves, which identify it. Other attacks stay.

    Raises:
        Impossible: nothing is known against this threat.
        BenchError: a move that the author or the grid adds does not exist for the defence or cannot take the budget.
            It stops the run: a list that is too short must not pass for a whole one.
    """
    if not isinstance(attack.instance, Moves):
        return attack
    listed = moves_against(kind_of(defense, network), budget, attack.instance.draws)
    known = [move for move in listed if why_not(defense, move.gradient) is None]
    moves = _distinct(defense, [*known, *moves_of(defense.moves), *attack.instance.extra])
    for move in moves:
        reason = why_not(defense, move.gradient)
        if reason:
            raise BenchError(f"The move {move} against {type(defense).__name__} does not exist: {reason}")
    armed = attack.instance.armed(moves)
    armed.check(budget)
    identity = attack.identity.model_copy(
        update={
            "params": {**attack.identity.params, **described(moves)},
            "parts": tuple(identity_of(Spec.parse(part), ATTACKS) for part in armed.parts),
        }
    )
    return replace(attack, instance=armed, identity=identity)


def _distinct(defense: Defense, moves: Sequence[Move]) -> list[Move]:
    """Moves by the gradient that is really taken, each once; clips made without a defence need one to be made for."""
    bare = isinstance(defense, RobustModel) or changes_nothing(defense)
    settled_moves = [replace(m, gradient=settled(defense, m.gradient)) for m in moves]
    return list(dict.fromkeys(m for m in settled_moves if not (bare and m.gradient == "none")))
