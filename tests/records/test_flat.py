"""Attacks whose stored losses never moved."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from kit.cells import cell, identified

from bench.records.flat import flat_losses, probabilities
from bench.records.identity import BudgetIdentity
from bench.records.results import CellResult

STILL, RISING, GONE = [1.62] * 5, [1.0, 1.1, 1.2, 1.4, 1.4], [1.62, 1.62, None]


def attacked(right: str, traces: Sequence[Sequence[float | None]], backwards: int = 5, size: float = 0.1) -> CellResult:
    """A cell whose clips have these traces."""
    found = cell("jpeg", "PGD+BPDA", "adaptive", right)
    for outcome, trace in zip(found.outcomes, traces, strict=True):
        outcome.attacked, outcome.trace, outcome.backwards = True, list(trace), backwards
    budget = BudgetIdentity(norm="linf", size=size, steps=5, restarts=1)
    return found.model_copy(update={"settings": identified("jpeg", budget=budget)})


def test_clips_that_are_left_with_a_loss_that_stood_still_are_counted() -> None:
    (found,) = flat_losses([attacked("11101", [STILL, RISING, STILL, STILL, RISING])])
    assert (found.model, found.defense, found.attack, found.budget) == ("m", "jpeg", "PGD+BPDA", "linf 4/255")
    assert (found.flat, found.left) == (2, 4)  # the fourth is broken
    assert "m, defence jpeg, PGD+BPDA at linf 4/255: the loss of 2 of the 4 clips" in str(found)
    assert "logits" in str(found)
    assert "square or rays" in str(found)


@pytest.mark.parametrize(
    "quiet",
    [
        attacked("11", [RISING, RISING]),
        attacked("00", [STILL, STILL]),
        attacked("11", [STILL, STILL], backwards=0),  # asked only
        attacked("11", [STILL, STILL], size=0.0),
        attacked("11", [GONE, []]),  # two values, and none
        cell("jpeg", "clean", "clean", "11"),
    ],
)
def test_what_shows_nothing_is_not_counted(quiet: CellResult) -> None:
    assert flat_losses([quiet]) == []


def test_clips_that_were_not_attacked_or_not_judged_are_not_counted() -> None:
    found = attacked("111", [STILL] * 3)
    found.outcomes[0].attacked = False
    found.outcomes[1].status = "invalid"
    (one,) = flat_losses([found])
    assert (one.flat, one.left) == (1, 1)


def test_probabilities_are_said_of_the_classifier_or_of_the_defence() -> None:
    assert probabilities("net").startswith("net: the network returns probabilities")
    assert probabilities("net", "AT").startswith("net: the network of the defence AT returns probabilities")
