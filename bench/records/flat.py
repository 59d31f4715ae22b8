"""Attacks that climbed nothing: what their stored traces say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bench.records.outcome import Outcome
from bench.records.results import CellResult

# Fewer values say nothing of whether a loss moves.
_ENOUGH = 3
_WHAT_TO_DO = (
    "Give a network that returns logits; if it does, its gradient is masked: add an attack that only asks, square or "
    "rays, with the gradient query."
)


@dataclass(frozen=True)
class FlatLoss:
    """An attack whose loss stood still on clips that it leaves.

    Attributes:
        model, defense, attack, budget: labels of the cell.
        flat: clips that were attacked by gradient, are still right, and whose loss is the same, to the three digits
            that are kept, from the first step to the last.
        left: clips that were attacked and are still right.
    """

    model: str
    defense: str
    attack: str
    budget: str
    flat: int
    left: int

    def __str__(self) -> str:
        where = f"{self.model}, defence {self.defense}, {self.attack}" + (f" at {self.budget}" if self.budget else "")
        return (
            f"{where}: the loss of {self.flat} of the {self.left} clips that the attack leaves never moves, so that "
            f"their robustness says nothing. {_WHAT_TO_DO}"
        )


def flat_losses(results: Iterable[CellResult]) -> list[FlatLoss]:
    """The cells in which an attack that takes gradients had none to climb, in their order.

    Attacks with fewer than three steps or no trace, and budgets of size 0, show nothing.
    """
    found = []
    for cell in results:
        left = [o for o in cell.outcomes if o.attacked and o.status == "ok" and o.correct]
        nothing = cell.settings.budget is not None and cell.settings.budget.size == 0
        flat = 0 if nothing else sum(map(_is_flat, left))
        if flat:
            found.append(FlatLoss(cell.model, cell.defense, cell.attack, cell.budget, flat, len(left)))
    return found


def _is_flat(outcome: Outcome) -> bool:
    values = [value for value in outcome.trace if value is not None]
    return outcome.backwards > 0 and len(values) >= _ENOUGH and len(set(values)) == 1


def probabilities(model: str, defense: str = "") -> str:
    """What to say of a network that returns probabilities instead of logits."""
    behind = f" of the defence {defense}" if defense else ""
    return (
        f"{model}: the network{behind} returns probabilities instead of logits, whose gradient vanishes where it is "
        "sure, whatever the loss. Leave the softmax out, or add an attack that only asks, square or rays, with the "
        "gradient query."
    )
