"""A process of its own: it answers as the classifier would, and is told nothing but clips."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kit.gray import LEVELS, level_classifier
from torch import Tensor

from bench import BenchError, DefendedClassifier
from bench.defense.base import Defense
from bench.faults import MachineFault
from bench.registry import DEFENSES, Spec
from bench.run.alone import Alone, Suspect, defended_weights, slopes

CPU = torch.device("cpu")


def suspect(defense: str, **params: object) -> Suspect:
    made: Defense = DEFENSES.create(Spec(defense, params))
    classifier = level_classifier().eval()
    defended = DefendedClassifier(classifier, made)
    return Suspect(
        model=Spec("levels:level_classifier"),
        defense=Spec(defense, params),
        dataset="levels:GrayClips",
        classifier=classifier,
        defended=defended_weights(defended),
    )


def gray(*levels: float) -> Tensor:
    return torch.stack([torch.full((3, 4, 8, 8), level) for level in levels])


def test_answers_are_those_of_the_nearest_level_in_the_order_of_the_clips() -> None:
    values = [0.7, 0.31, 0.52, 0.1, 0.95, 0.41, 0.39]
    nearest = [min(range(3), key=lambda c: abs(LEVELS[c] - v)) for v in values]
    who = suspect("none")
    with Alone(who, CPU, 3, "salt") as alone:
        first = alone.ask(gray(*values))
        assert [a.prediction for a in first] == nearest
        assert [a.votes for a in first] == [[n] for n in nearest]
        # Names differ from question to question: nothing can be recognised.
        assert not {a.clip for a in first} & {a.clip for a in alone.ask(gray(*values))}
        # Away from the first class: the level rises where another level's logit rises faster, which is everywhere.
        assert bool((alone.slopes(gray(0.3, 0.7), "exact") == 1).all())
        folder = Path(alone._folder)
        assert not any(word in (folder / "question.json").read_text() for word in ("label", "gray/"))
    assert not folder.exists()


def test_the_weights_are_those_that_are_handed_over() -> None:
    who = suspect("none")
    with torch.no_grad():
        who.classifier.levels.copy_(torch.tensor([0.7, 0.5, 0.3]))
    turned = DefendedClassifier(who.classifier, DEFENSES.create("none"))
    with Alone(replace(who, defended=defended_weights(turned)), CPU, 3, "salt") as alone:
        assert [a.prediction for a in alone.ask(gray(0.7, 0.3))] == [0, 2]
    with pytest.raises(BenchError, match="has other weights than the one that was measured"):
        Alone(who, CPU, 3, "salt")


def test_a_randomised_defence_is_asked_often_and_draws_by_the_salt() -> None:
    answers = []
    for salt in ("one", "two"):
        with Alone(suspect("kit.alone:Blinking"), CPU, 8, salt) as alone:
            answers.append([a.draws for a in alone.ask(gray(*[0.7] * 8), 20)])
    assert all(len(draws) == 20 for found in answers for draws in found)
    right = [sum(d == 2 for draws in found for d in draws) for found in answers]
    # Binomial of 160 draws at 3/4: 120, and a deviation of 5.5.
    assert all(98 <= r <= 142 for r in right)
    assert answers[0] != answers[1]


def test_what_it_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_SECRET", "data/root")
    with Alone(suspect("kit.alone:Revealing"), CPU, 3, "salt") as alone:
        assert [a.prediction for a in alone.ask(gray(0.7))] == [1]
    words = tmp_path / "elsewhere" / "words.txt"
    words.parent.mkdir()
    words.write_text("words")
    with Alone(suspect("kit.alone:Revealing", file=str(words)), CPU, 3, "salt") as alone:
        assert [a.prediction for a in alone.ask(gray(0.7))] == [2]


def test_a_defence_that_raises_fails_clip_by_clip_and_one_that_leaves_says_so(tmp_path: Path) -> None:
    with Alone(suspect("kit.gray:FailsOnBright"), CPU, 3, "salt") as alone:
        answers = alone.ask(gray(0.3, 0.7, 0.5))
    assert [a.status for a in answers] == ["ok", "failed", "ok"]
    assert answers[1].error.startswith("ZeroDivisionError: too bright (kit/gray.py:")
    with pytest.raises(BenchError, match="no_such"):
        Alone(replace(suspect("none"), defense=Spec("planted:no_such")), CPU, 3, "salt")


def test_a_machine_that_fails_there_is_no_fault_of_the_defence() -> None:
    with (
        Alone(suspect("kit.gray:Exhausting"), CPU, 3, "salt") as alone,
        pytest.raises(MachineFault, match="There is not enough memory"),
    ):
        alone.ask(gray(0.3, 0.7))


def test_whoever_gives_no_answer_is_ended() -> None:
    with pytest.raises(BenchError, match=r"gave no answer within 0\.01 s"):
        Alone(suspect("none"), CPU, 3, "salt", patience=0.01)


def test_slopes_are_the_signs_of_the_derivative() -> None:
    """Of cross-entropy from class 0 with logits ``100 (m l - l^2 / 2)``: it rises with the mean level everywhere."""
    defended = DefendedClassifier(level_classifier(), DEFENSES.create("planted:ReversedGradient"))
    found = slopes(defended, "exact", gray(0.3, 0.5), ["a", "b"], "salt")
    assert found.dtype == torch.int8
    assert bool((found == -1).all())
    assert json.dumps(found.shape) == "[2, 3, 4, 8, 8]"
