"""The strongest attacks known against each kind of defence: what the attack ``adaptive`` runs.

A kind is what a defence says of itself: whether it is differentiable, draws random numbers, takes several steps of a
diffusion model, or is a network that chooses between branches. The lists were found by measuring
(``benchmarks/strength_*.py``); a better attack belongs at the end of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.attack.moves import Move
from bench.errors import BenchError, Impossible
from bench.records.identity import Gradient
from bench.registry import ATTACKS
from bench.threat.budgets import Budget

# Stands for the draws of a randomised defence per look.
_DRAWS = "{draws}"
# What asking alone can spend on a clip where the network shows no gradient.
_QUERIES = 500


@dataclass(frozen=True)
class Kind:
    """A kind of defence.

    Attributes:
        name: in words.
        moves: in the order in which they run.
    """

    name: str
    moves: tuple[Move, ...]


def _averaged(attack: str) -> str:
    return f"eot(attack={attack!r}, draws={_DRAWS}, average='losses')"


def _asked() -> tuple[Move, ...]:
    """Where no loss leads anywhere, by scores and by decisions alone."""
    return (
        Move(f"square(queries={_QUERIES})", "query", restarts=1, when="flat"),
        Move(f"rays(queries={_QUERIES})", "query", restarts=1, when="flat"),
    )


def _climbs(gradient: Gradient) -> tuple[Move, ...]:
    """Through a deterministic defence: short and plain, long on the margin from several starts, and parameter-free."""
    return (
        Move("pgd", gradient),
        Move("pgd(loss='margin')", gradient, steps=2, restarts=3),
        Move("apgd(loss='dlr')", gradient, steps=5),
    )


def _expectations(gradient: Gradient) -> tuple[Move, ...]:
    """Through a randomised defence: its average over draws."""
    return (
        Move(_averaged("pgd"), gradient),
        Move(f"eot(attack=\"pgd(loss='margin')\", draws={_DRAWS}, average='gradients')", gradient, steps=2),
    )


# Clips made without the defence break some that every gradient through it misses.
_TRANSFERRED = Move("pgd", "none", steps=2)
NETWORK = Kind("a network, undefended or robust", (*_climbs("exact"), *_asked()))
BRANCHING = Kind(
    "a network that chooses between branches",
    (
        *_climbs("exact"),
        Move("branches(attack='pgd')", "exact", steps=2),
        Move("joint_selection(attack='pgd', weights=[1.0, 10.0])", "exact"),
        *_asked(),
    ),
)
SMOOTH = Kind(
    "a differentiable purifier",
    (*_climbs("exact"), Move("pgd(loss='margin')", "bpda", steps=2), _TRANSFERRED, *_asked()),
)
ROUGH = Kind(
    "a purifier that is not differentiable",
    (
        *_climbs("bpda"),
        Move("pgd(loss='margin')", "bpda-identity", steps=2),  # whatever the stand-in of its author is worth
        Move(
            "smoothed(attack=\"pgd(loss='margin')\", copies=6)", "bpda"
        ),  # where small changes are answered with jumps
        _TRANSFERRED,
        Move("square(queries=200)", "query", restarts=1),
    ),
)
RANDOM = Kind(
    "a randomised, differentiable purifier",
    (_TRANSFERRED, *_expectations("exact"), Move(_averaged("pgd"), "bpda")),
)
RANDOM_ROUGH = Kind(
    "a randomised purifier that is not differentiable",
    (_TRANSFERRED, *_expectations("bpda"), Move(_averaged("pgd"), "bpda-identity")),
)
DENOISER = Kind(
    "a deterministic diffusion purifier",
    (
        *_climbs("exact"),
        Move("pgd(loss='margin', votes='each', enough=0.5)", "exact", steps=2),
        Move("pgd(loss='margin', target='runner_up', votes='each', enough=0.5)", "exact", steps=2),
        Move("pgd(loss='margin')", "surrogate", steps=2),
        Move("pgd(loss='margin')", "bpda-lowpass", steps=2),
        Move("pgd(loss='margin')", "bpda", steps=2),
        _TRANSFERRED,
    ),
)
RANDOM_DENOISER = Kind(
    "a randomised diffusion purifier",
    (
        _TRANSFERRED,
        Move(_averaged("pgd"), "bpda-lowpass", steps=2),
        *_expectations("exact"),
        Move(_averaged("pgd"), "surrogate", steps=2),
    ),
)
KINDS = (NETWORK, BRANCHING, SMOOTH, ROUGH, RANDOM, RANDOM_ROUGH, DENOISER, RANDOM_DENOISER)

# The attacks that know a threat other than a ball around the clip; the gradient follows from the kind.
_BY_THREAT: dict[str, tuple[Move, ...]] = {
    "rectangle": (Move("roa"), Move("roa(location='gradient', loss='margin')", steps=2, restarts=5)),
    "border": (Move("af"), Move("af(loss='margin')", steps=2, restarts=5)),
    "pixels": (
        Move("spa"),
        Move("spa(location='gradient')"),
        Move("spa(location='gradient', loss='margin')", steps=2, restarts=5),
    ),
    "mult-linf": (Move("multav"), Move("multav(loss='margin')", steps=2)),
    "mult-l2": (Move("multav"), Move("multav(loss='margin')", steps=2)),
    "flicker": (Move("flicker"),),
    "one-frame": (Move("one_frame"), Move("one_frame(loss='margin')", steps=2)),
}


# The threats against which anything is known.
THREATS = ("linf", "l2", *_BY_THREAT)


def moves_against(kind: Kind, budget: Budget, draws: int = 5) -> list[Move]:
    """The strongest moves known against a kind of defence under a budget.

    Args:
        draws: of a randomised defence per look; 5 to 6 were enough to overtake one draw wherever it was measured.

    Raises:
        Impossible: nothing is known against this threat.
    """
    if budget.norm in ("linf", "l2"):
        moves = list(kind.moves)
    elif budget.norm in _BY_THREAT:
        moves = _moved(kind, _BY_THREAT[budget.norm])
    else:
        raise Impossible(f"No list of adaptive attacks is known for the threat {budget.norm}: name an attack.")
    moves = [replace(move, attack=move.attack.replace(_DRAWS, str(draws))) for move in moves]
    return [move for move in moves if _takes(move, budget)]


def _takes(move: Move, budget: Budget) -> bool:
    """Whether an attack knows the threat: RayS, say, knows linf alone."""
    try:
        ATTACKS.create(move.attack).check(move.effort(budget))
    except BenchError:
        return False
    return True


def _moved(kind: Kind, templates: Sequence[Move]) -> list[Move]:
    """A kind's list with the attacks that know another threat, through the gradients that the kind has."""
    randomised = kind in (RANDOM, RANDOM_ROUGH, RANDOM_DENOISER)
    gradient: Gradient = "bpda" if kind in (ROUGH, RANDOM_ROUGH) else "exact"
    moves = [replace(move, gradient=gradient) for move in templates]
    if randomised:  # its average decides, and not the luckiest start
        moves = [replace(m, attack=_averaged(m.attack), restarts=None) for m in moves]
    if kind is BRANCHING:
        moves.append(Move(f"branches(attack={templates[-1].attack!r})", "exact", steps=2))
    return moves
