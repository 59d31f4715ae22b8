"""Scores of randomised answers."""

from __future__ import annotations

from bench.records.outcome import Outcome
from bench.records.results import Score


def outcome(prediction: int, draws: list[int] | None = None, label: int = 1) -> Outcome:
    return Outcome(clip="c", label=label, prediction=prediction, correct=prediction == label, draws=draws or [])


def test_scores_of_draws() -> None:
    found = Score.of([outcome(1, [1, 1, 0, 1]), outcome(0, [0, 0, 1, 1]), outcome(1, [1, 1, 1, 1])])
    assert found.correct == 0.75 + 0.5 + 1
    assert (found.one_shot, found.always, found.clips) == (2, 1, 3)
    flawed = Score.of([Outcome(clip="c", label=1, status="failed", error="boom"), outcome(1, [1, 1])])
    assert flawed.correct == 1.0
    assert Score.model_validate_json(found.model_dump_json()) == found
