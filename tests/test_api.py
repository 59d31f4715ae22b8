"""``bench.evaluate``: one's own classifier in five lines."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import LEVELS, Cheater, Lighten, level_classifier

import bench
from bench import BenchError

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
    assert "PGD+exact" in printed
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
    ],
)
def test_bad_input_is_one_sentence(clips: torch.Tensor, labels: torch.Tensor, says: str) -> None:
    with pytest.raises(BenchError, match=says):
        bench.evaluate(level_classifier(), clips, labels)


def test_the_result_depends_on_the_seed_alone() -> None:
    def run(**options: object) -> list[float]:
        frame = bench.evaluate(
            level_classifier(), CLIPS, LABELS, attack="noise", verbose=False, budget={"size": 0.05}, **options
        )
        return list(frame["l2"])

    assert run(seed=1) == run(seed=1, batch_size=2)
    assert run(seed=1) != run(seed=2)
