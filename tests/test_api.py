"""``bench.evaluate``: one's own classifier in five lines."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kit.gray import LEVELS, Cheater, Lighten, level_classifier

import bench
from bench import AttackResult, BenchError, ClipRandom, Purifier, Target

CLIPS = torch.stack([torch.full((3, 4, 8, 8), LEVELS[i % 3]) for i in range(6)])
LABELS = torch.arange(6) % 3


def test_five_lines(capsys: pytest.CaptureFixture[str]) -> None:
    model = level_classifier()
    frame = bench.evaluate(model, CLIPS, LABELS, defense="none", attack="pgd", gradient="exact", budget={"size": 0.15})
    assert list(frame["clip"]) == [f"clip-{i:05d}" for i in range(6)]
    assert frame["clean_correct"].all()
    assert not frame["correct"].any()
    assert frame["linf"].max() <= 0.15 + 1e-6
    printed = capsys.readouterr().out
    assert "+exact" in printed
    assert "Standard" in printed
    assert "100.0" in printed


def test_arrays_lists_and_instances_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    frame = bench.evaluate(
        level_classifier(),
        CLIPS.numpy(),
        list(np.asarray(LABELS)),
        defense=Lighten(0.2),
        attack="noise",
        verbose=False,
    )
    assert list(frame["clean_prediction"]) == [1, 2, 2] * 2
    assert capsys.readouterr().out == ""


def test_auto_falls_back_to_bpda_where_there_is_no_exact_gradient() -> None:
    frame = bench.evaluate(level_classifier(), CLIPS, LABELS, defense="jpeg", budget={"size": 0.15}, verbose=False)
    assert set(frame["gradient"]) == {"bpda"}
    assert not frame["correct"].any()
    with pytest.raises(BenchError, match="no exact gradient"):
        bench.evaluate(level_classifier(), CLIPS, LABELS, defense="jpeg", gradient="exact")


def test_gray_box_attacks_the_bare_classifier() -> None:
    frame = bench.evaluate(
        level_classifier(), CLIPS, LABELS, defense=Lighten(0.05), gradient="none", budget={"size": 0.12}, verbose=False
    )
    assert set(frame["knowledge"]) == {"gray-box"}


def test_a_cheating_attack_is_invalid() -> None:
    frame = bench.evaluate(level_classifier(), CLIPS, LABELS, attack=Cheater("range"), verbose=False)
    assert set(frame["status"]) == {"invalid"}
    assert not frame["correct"].any()


@pytest.mark.parametrize(
    ("clips", "labels", "says"),
    [
        (CLIPS[:, :2], LABELS, "shape"),
        (CLIPS.double(), LABELS, "float32"),
        (CLIPS * 255, LABELS, "divide 8-bit frames by 255"),
        (CLIPS * float("nan"), LABELS, "finite"),
        (CLIPS, LABELS[:2], "one integer per clip"),
        (CLIPS, LABELS.float(), "one integer per clip"),
        (CLIPS[:0], LABELS[:0], "one integer per clip"),
        (CLIPS, LABELS - 1, "counted from 0"),
        (CLIPS, LABELS + 1, "has 3 classes"),
        ("abc", LABELS, "clips must be a tensor or an array, not a str"),
    ],
)
def test_bad_input_is_one_sentence(clips: torch.Tensor, labels: torch.Tensor, says: str) -> None:
    with pytest.raises(BenchError, match=says):
        bench.evaluate(level_classifier(), clips, labels)


def test_only_modules_are_classifiers() -> None:
    with pytest.raises(BenchError, match=r"torch\.nn\.Module, not a function"):
        bench.evaluate(lambda clips: clips, CLIPS, LABELS)  # type: ignore[arg-type]


def test_the_classifier_is_left_as_it_was() -> None:
    model = level_classifier().train()
    bench.evaluate(model, CLIPS, LABELS, attack="noise", verbose=False)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


def test_an_identity_of_ones_own_is_a_baseline() -> None:
    class Nothing(Purifier):
        identity = True

        def purify(self, clips: torch.Tensor, rng: ClipRandom) -> torch.Tensor:
            return clips

    frame = bench.evaluate(level_classifier(), CLIPS, LABELS, defense=Nothing(), budget={"size": 0.15}, verbose=False)
    assert frame["clean_correct"].all()
    assert not frame["correct"].any()


def test_an_attack_must_return_a_result() -> None:
    class Bare(Cheater):
        def run(self, target: Target, clips: torch.Tensor, *_: object) -> AttackResult:
            return clips  # type: ignore[return-value]

    with pytest.raises(BenchError, match=r"Bare\.run must return AttackResult"):
        bench.evaluate(level_classifier(), CLIPS, LABELS, attack=Bare(), verbose=False)


def test_the_result_depends_on_the_seed_alone() -> None:
    def run(**options: object) -> list[float]:
        frame = bench.evaluate(
            level_classifier(), CLIPS, LABELS, attack="noise", verbose=False, budget={"size": 0.05}, **options
        )
        return list(frame["l2"])

    assert run(seed=1) == run(seed=1, batch_size=2)
    assert run(seed=1) != run(seed=2)
