"""``bench.evaluate``: one's own classifier in five lines."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from kit.gray import LEVELS, Cheater, Lighten, level_classifier

import bench
from bench import AttackResult, BenchError, ClipRandom, Purifier, Target
from bench.api import are_probabilities

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
    frame = bench.evaluate(level_classifier(), CLIPS, LABELS, defense="halftone", budget={"size": 0.15}, verbose=False)
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


class Probabilities(torch.nn.Module):
    """The level classifier, its logits times a number, after a softmax."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.net, self.scale = level_classifier(), scale

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return (self.scale * self.net(clips)).softmax(1)


def test_saturated_probabilities_are_said() -> None:
    """No loss breaks them, and the figure of 100 % comes with the reason."""
    budget = {"size": 0.15, "steps": 4}
    with pytest.warns(UserWarning, match="robustness says nothing|returns probabilities") as seen:
        frame = bench.evaluate(Probabilities(1e6), CLIPS, LABELS, budget=budget, verbose=False)
    assert frame["correct"].all()
    said = [str(warning.message) for warning in seen]
    assert len(said) == 2
    assert "Probabilities: the network returns probabilities instead of logits" in said[0]
    assert "the loss of 6 of the 6 clips that the attack leaves never moves" in said[1]
    assert "square or rays" in said[0]
    assert "square or rays" in said[1]


def test_the_logits_of_a_sure_classifier_are_attacked_and_nothing_is_said() -> None:
    class Sure(Probabilities):
        def forward(self, clips: torch.Tensor) -> torch.Tensor:
            return self.scale * self.net(clips)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame = bench.evaluate(Sure(1e6), CLIPS, LABELS, budget={"size": 0.15, "steps": 4}, verbose=False)
    assert not frame["correct"].any()


def test_probabilities_are_told_from_logits() -> None:
    logits = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    assert are_probabilities(logits.softmax(1))
    assert are_probabilities(torch.eye(7))
    assert not are_probabilities(logits)
    assert not are_probabilities(torch.full((4, 7), 0.1))  # sums to .7
    assert not are_probabilities(torch.tensor([[1.2, -0.2]]))


def test_lists_of_defences_and_attacks_are_all_their_pairs() -> None:
    defenses, attacks = ["none", Lighten(0.2)], ["noise", "pgd"]
    how: dict[str, Any] = {"budget": {"size": 0.15, "steps": 3}, "verbose": False}
    frame = bench.evaluate(level_classifier(), CLIPS, LABELS, defense=defenses, attack=attacks, **how)
    assert len(frame) == 2 * 2 * 6
    for (name, label), part in frame.groupby(["defense", "attack"], sort=False):
        defense = next(d for d in defenses if name == (d if isinstance(d, str) else type(d).__name__))
        alone = bench.evaluate(
            level_classifier(), CLIPS, LABELS, defense=defense, attack=label.partition("+")[0].lower(), **how
        )
        shown = ["clip", "label", "prediction", "correct", "clean_correct", "linf"]
        assert part[shown].reset_index(drop=True).equals(alone[shown])


def test_kept_clips_are_those_that_were_judged() -> None:
    model = level_classifier()
    found = bench.evaluate(
        model, CLIPS, LABELS, attack=["noise", "pgd"], budget={"size": 0.15, "steps": 3}, verbose=False, keep=True
    )
    assert set(found.adversarial) == {("none", label) for label in found.frame["attack"].unique()}
    for (_, label), clips in found.adversarial.items():
        part = found.frame[found.frame["attack"] == label]
        moved = (clips - CLIPS).abs().amax(dim=(1, 2, 3, 4))
        assert moved.tolist() == pytest.approx(part["linf"].tolist(), abs=1e-6)
        with torch.no_grad():
            assert model(clips).argmax(1).tolist() == part["prediction"].tolist()


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(BenchError, match="There is nothing to do"):
        bench.evaluate(level_classifier(), CLIPS, LABELS, attack=[])


def test_instances_of_one_class_are_told_apart() -> None:
    """Each has the figures that it has alone."""
    how: dict[str, Any] = {"attack": "noise", "budget": {"size": 0.05}, "verbose": False}
    frame = bench.evaluate(level_classifier(), CLIPS, LABELS, defense=[Lighten(0.0), Lighten(0.9)], **how)
    alone = [bench.evaluate(level_classifier(), CLIPS, LABELS, defense=Lighten(by), **how) for by in (0.0, 0.9)]
    parts = [part for _, part in frame.groupby("defense", sort=False)]
    assert [list(part["prediction"]) for part in parts] == [list(one["prediction"]) for one in alone]
    assert list(alone[0]["prediction"]) != list(alone[1]["prediction"])
    with pytest.raises(BenchError, match="jpeg is listed twice"):
        bench.evaluate(level_classifier(), CLIPS, LABELS, defense=["jpeg", "jpeg"], **how)
