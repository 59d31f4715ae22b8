"""Contradictions within a result file: what a run cannot have written.

Every field of a file that another one bears on is compared with it: verdicts with predictions, predictions with votes
and draws, distances with the budget, the identity with its digest. A file that agrees with itself and is still untrue
is not found here; only running the grid, or ``bench audit``, finds that.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from bench.records.identity import BudgetIdentity, CellIdentity
from bench.records.metrics import wilson
from bench.records.outcome import Control, Outcome

if TYPE_CHECKING:
    from bench.records.results import CellResult

# Those of the judge, bench.run.judge.
LINF_SLACK = 1e-6
L2_RELATIVE_SLACK = 1e-4
# Files keep four digits of l2, eight of linf.
_L2_ROUNDING = 1e-3
_LINF_ROUNDING = 1e-7
# Rounding of the logarithms of as many ratios as a clip may have values.
_RATIOS_SLACK = LINF_SLACK * 1e4


def contradiction(result: CellResult) -> str | None:
    """The first thing in a result that cannot be, as the beginning of a sentence; ``None`` if all agrees."""
    return next(_contradictions(result), None)


def _contradictions(result: CellResult) -> Iterator[str]:
    yield from _of_cell(result)
    if result.control is not None:
        yield from _of_control(result.control, result)
    if not result.outcomes:
        yield "it holds no clip"
    twice = [clip for clip, count in Counter(o.clip for o in result.outcomes).items() if count > 1]
    if twice:
        yield f"clip {twice[0]} is there twice"
    for outcome in result.outcomes:
        for what in _of_outcome(outcome, result):
            yield f"clip {outcome.clip} {what}"


def disagreement(result: CellResult, clean: CellResult) -> str | None:
    """What a cell says of the clean clips that their own cell, of the same classifier and defence, does not.

    A clean clip without an answer may have got one since, by ``--retry-failed``.
    """
    predictions = {o.clip: o.prediction for o in clean.outcomes if o.prediction is not None}
    for o in result.outcomes:
        if o.clean_prediction is not None and predictions.get(o.clip, o.clean_prediction) != o.clean_prediction:
            return (
                f"clip {o.clip} says clean_prediction = {_value(o.clean_prediction)}, but {clean.file_name} says "
                f"prediction = {_value(predictions[o.clip])}"
            )
    return None


def _value(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


# What the labels of a cell and its identity say of one another.


def _of_cell(result: CellResult) -> Iterator[str]:
    settings = result.settings
    if not result.stale and result.cell != settings.id:
        yield f"it says cell = {result.cell}, but its settings come to {settings.id}"
    for field in ("knowledge", "gradient"):
        mine, theirs = getattr(result, field), getattr(settings, field)
        if mine != theirs:
            yield f"it says {field} = {mine}, but its settings say {theirs}"
    if settings.queries is not None and settings.queries < 1:
        yield f"its settings say queries = {settings.queries}"
    clean = settings.knowledge == "clean"
    for name, there in (
        ("attack", settings.attack is not None),
        ("budget", settings.budget is not None),
        ("budget label", bool(result.budget)),
    ):
        if there == clean:
            yield f"it says knowledge = {settings.knowledge}, but has {'a' if there else 'no'} {name}"
    yield from _of_attacker(settings)


def _of_attacker(settings: CellIdentity) -> Iterator[str]:
    if (settings.knowledge == "black-box") != (settings.source is not None):
        yield (
            f"it says knowledge = {settings.knowledge}, but has {'no' if settings.source is None else 'a'} source of "
            "its clips"
        )
    if settings.against is not None and settings.knowledge != "gray-box":
        yield f"it says knowledge = {settings.knowledge}, but has a defence against which its clips were made"
    if _follows(settings) == (settings.gradient == "none"):
        yield f"it says knowledge = {settings.knowledge} and gradient = {settings.gradient}"


def _follows(settings: CellIdentity) -> bool:
    """Whether the attack differentiates, or asks, a defence."""
    return settings.knowledge == "adaptive" or settings.against is not None


# As bench.run.control words what it saw.
_ANSWERS = re.compile(r"(\d+) of (\d+) clips are answered differently")
_DRAWS = re.compile(r"(\d+) of (\d+) draws are right, (\d+) of (\d+) on the clean clips")


def _of_control(control: Control, result: CellResult) -> Iterator[str]:
    says = f"its control says passed = {_value(control.passed)} and '{control.message}'"
    if result.knowledge != "adaptive":
        yield f"it has a zero-budget control, but knowledge = {result.knowledge}"
    if control.clips < 1:  # there may be more than outcomes: a run of fewer clips has the control of the whole
        yield f"its control says clips = {control.clips}"
    elif answers := _ANSWERS.match(control.message):
        different, clips = map(int, answers.groups())
        if control.passed != (different == 0) or clips != control.clips:
            yield f"{says} of {control.clips} clips"
    elif draws := _DRAWS.match(control.message):
        right, all_draws, clean_right, clean_draws = map(int, draws.groups())
        asked = control.clips * (result.settings.queries or 1)
        if right > all_draws or clean_right > clean_draws or {all_draws, clean_draws} != {asked}:
            yield f"{says} of {control.clips} clips"
        else:
            (low, high), (least, most) = wilson(right, all_draws), wilson(clean_right, clean_draws)
            if control.passed != (low <= most and least <= high):
                yield says
    elif control.passed:  # any other message is that of an outcome that is not valid
        yield says


# One clip.


def _of_outcome(o: Outcome, result: CellResult) -> Iterator[str]:
    yield from _of_answers(o, result.settings)
    yield from _of_effort(o, result)
    yield from _of_distances(o, result.settings.budget)
    if result.knowledge == "clean" and o.clean_prediction != o.prediction:
        yield f"says clean_prediction = {_value(o.clean_prediction)} and prediction = {_value(o.prediction)} unattacked"
    if o.seconds:
        yield f"says seconds = {o.seconds:g}, which no file holds"


def _of_answers(o: Outcome, settings: CellIdentity) -> Iterator[str]:
    given = {"label": [o.label], "votes": _asked(o), "draws": o.draws}
    given |= {"prediction": [o.prediction or 0], "clean_prediction": [o.clean_prediction or 0]}
    for field, classes in given.items():
        if min(classes, default=0) < 0:
            yield f"says {field} = {min(classes)}, which is no class"
    if not all(map(math.isfinite, o.measured)) or len(o.measured) not in (0, 2):
        yield f"says measured = {o.measured}, and a defence measures two numbers or none"
    if o.status != "ok":
        if o.correct or o.prediction is not None or o.votes or o.draws or o.measured:
            yield f"says status = {o.status}, but has an answer"
        if not o.error:
            yield f"says status = {o.status}, but not why"
        return
    if o.error is not None:
        yield f"says status = ok, but error = '{o.error}'"
    if o.prediction is None:
        yield "says status = ok, but has no prediction"
        return
    if o.correct != (o.prediction == o.label):
        right = "is" if o.prediction == o.label else "is not"
        yield f"says correct = {_value(o.correct)}, but prediction {o.prediction} {right} label {o.label}"
    if (settings.queries or 0) != len(o.draws):
        yield f"has {len(o.draws)} draws, but its defence was asked {settings.queries or 'only once, without any'}"
    if o.draws and o.draws[0] != o.prediction:
        yield f"says prediction = {o.prediction}, but its first draw is {o.draws[0]}"
    yield from _of_votes(o, settings)


def _asked(o: Outcome) -> list[int]:
    return [vote for vote in o.votes if vote is not None]


def _of_votes(o: Outcome, settings: CellIdentity) -> Iterator[str]:
    asked, all_ = _asked(o), len(o.votes)
    if not asked:
        yield "has no votes"
    elif None in o.votes[: len(asked)] or (len(asked) < all_ and settings.vote != "plurality"):
        yield f"has votes {_value(o.votes)}, of which only the last of a plurality may be unasked"
    elif settings.vote == "plurality" or all_ == 1:
        counts = Counter(asked)
        winner = min(votes for votes in counts if counts[votes] == max(counts.values()))
        if o.prediction != winner:
            yield f"says prediction = {o.prediction}, but its votes {_value(o.votes)} are for {winner}"
        elif counts[winner] <= all_ - len(asked) + max((n for c, n in counts.items() if c != winner), default=0) and (
            len(asked) < all_
        ):
            yield f"has votes {_value(o.votes)}, of which those unasked might have changed the decision"


def _of_effort(o: Outcome, result: CellResult) -> Iterator[str]:
    """What the attack spent, and whom it was spared."""
    if min(o.forwards, o.backwards) < 0 or (o.backwards and not o.forwards):
        yield f"says forwards = {o.forwards} and backwards = {o.backwards}"
    losses = [loss for loss in o.trace if loss is not None]
    if len(losses) > o.forwards:
        yield f"has a trace of {len(losses)} losses, but forwards = {o.forwards}"
    if not all(map(math.isfinite, losses)):
        yield "has a loss in its trace that is not finite"
    if o.attacked and result.knowledge == "clean":
        yield "says attacked = true, but knowledge = clean"
    if result.knowledge in ("noise", "universal") and o.forwards:
        yield f"says forwards = {o.forwards}, but knowledge = {result.knowledge} asks nothing"
    if result.gradient == "query" and o.backwards:
        yield f"says backwards = {o.backwards}, but gradient = query"
    if not o.attacked:
        yield from _of_spared(o, result)


def _of_spared(o: Outcome, result: CellResult) -> Iterator[str]:
    """A clip that no attack was run on: the deterministic defence is wrong about it anyway, or nothing was possible."""
    if o.trace or o.forwards or o.backwards:
        yield f"says attacked = false, but forwards = {o.forwards} and a trace of {len(o.trace)}"
    if o.status != "ok":
        return
    if o.linf or o.l2 or o.changed:
        yield f"says attacked = false, but linf = {o.linf}, l2 = {o.l2} and changed = {o.changed}"
    if result.knowledge == "clean":
        return
    spares = result.knowledge == "adaptive" and result.settings.queries is None
    if not spares or o.clean_prediction == o.label or o.correct:
        yield (
            f"says attacked = false with knowledge = {result.knowledge}, clean_prediction = "
            f"{_value(o.clean_prediction)}, label {o.label} and correct = {_value(o.correct)}: only mistakes of a "
            "deterministic defence are spared"
        )


def _of_distances(o: Outcome, budget: BudgetIdentity | None) -> Iterator[str]:
    if o.linf is None or o.l2 is None or o.changed is None:
        if o.status != "invalid" or (o.linf, o.l2, o.changed) != (None, None, None):
            yield f"says linf = {_value(o.linf)}, l2 = {_value(o.l2)}, changed = {_value(o.changed)} and is {o.status}"
        return
    sizes = f"linf = {o.linf:g}, l2 = {o.l2:g} and changed = {o.changed:g}"
    if not (0 <= o.linf < math.inf and 0 <= o.l2 < math.inf and 0 <= o.changed <= 1):
        yield f"says {sizes}"
    elif len({o.linf > 0, o.l2 > 0, o.changed > 0}) > 1 or o.linf > o.l2 * (1 + _L2_ROUNDING):
        yield f"says {sizes}, which no two clips have"
    elif o.status == "ok":
        for field, most in most_of(budget).items():
            if getattr(o, field) > most:
                allowed = f"the budget is {budget.norm} {budget.size:.6g}" if budget else "it has no budget"
                yield f"says {field} = {getattr(o, field):g}, but {allowed}"


def most_of(budget: BudgetIdentity | None) -> Mapping[str, float]:
    """The largest ``linf`` and ``l2`` that a judged clip of a budget can have, with the judge's tolerance and rounding.

    Of a budget of factors: a value ``x`` in ``[0, 1]`` becomes ``r x`` in ``[0, 1]`` with ``1 / m <= r <= m``, and so
    moves by at most ``1 - 1 / m``, and by less than ``|log r|``.
    """
    if budget is None:
        return {"linf": 0.0, "l2": 0.0, "changed": 0.0}
    size, one = budget.size, 1 + LINF_SLACK
    linf = {
        "linf": size + LINF_SLACK,
        "one-frame": size + LINF_SLACK,
        "flicker": size + LINF_SLACK,
        "mult-linf": 1 - 1 / ((1 + size) * one) + LINF_SLACK,
        "mult-l2": 1 - math.exp(-size * (1 + L2_RELATIVE_SLACK) - _RATIOS_SLACK) + LINF_SLACK,
    }.get(budget.norm, 1.0)
    if budget.norm == "l2":
        linf = size * (1 + L2_RELATIVE_SLACK) + LINF_SLACK
    most = {"linf": min(1.0, linf) * (1 + _LINF_ROUNDING)}
    slack = {"l2": LINF_SLACK, "mult-l2": _RATIOS_SLACK}
    if budget.norm in slack:
        most["l2"] = (size * (1 + L2_RELATIVE_SLACK) + slack[budget.norm]) * (1 + _L2_ROUNDING)
    return most


def unlike(labels: Mapping[str, int], outcomes: Sequence[Outcome]) -> str | None:
    """The first clip whose true class is not the one that another file gives."""
    for o in outcomes:
        if labels.get(o.clip, o.label) != o.label:
            return f"clip {o.clip} says label = {o.label}, but other files say {labels[o.clip]}"
    return None
