"""What is true of all attacks by gradients: torchattacks on images, budgets, passes, refusals, labels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchattacks
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.draws import draw
from kit.gray import LevelClassifier
from kit.networks import OnImages, Ordered, right, transfer

from bench import Budget, Target
from bench.registry import ATTACKS
from bench.run.judge import violation

few = settings(max_examples=15, deadline=None, derandomize=True, database=None)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("fgsm", lambda net: torchattacks.FGSM(net, eps=8 / 255)),
        ("i_fgsm", lambda net: torchattacks.BIM(net, eps=8 / 255, alpha=8 / 255 / 5, steps=5)),
        ("mi_fgsm", lambda net: torchattacks.MIFGSM(net, eps=8 / 255, alpha=8 / 255 / 5, steps=5, decay=1.0)),
    ],
)
@pytest.mark.parametrize("frames", [1, 4])
def test_on_images_they_are_torchattacks(name: str, theirs: Any, frames: int) -> None:
    net = Ordered().eval()
    clips = draw(4, 3, frames, 12, 12, seed=1)
    labels = right(net, clips)
    expected = theirs(OnImages(net, frames).eval())(clips.flatten(2, 3), labels).view_as(clips)
    found = ATTACKS.create(name)(transfer(net, 4), clips, labels, Budget(size=8 / 255, steps=5)).clips
    # The sign of a gradient within rounding of zero is a matter of chance.
    assert ((found - expected).abs() > 2e-7).double().mean() < 1e-3


@few
@given(
    name=st.sampled_from(["fgsm", "i_fgsm", "mi_fgsm", "tt(shifts=2)", "tt_mi(shifts=1)", "eot(draws=2)"]),
    norm=st.sampled_from(["linf", "l2"]),
    size=st.floats(0, 0.5),
    frames=st.integers(1, 5),
    side=st.integers(3, 7),
    steps=st.integers(1, 4),
    double=st.booleans(),
)
def test_no_attack_leaves_its_budget(
    name: str, norm: str, size: float, frames: int, side: int, steps: int, double: bool
) -> None:
    net, x = Ordered(), draw(2, 3, frames, side, side)
    if double:
        net, x = net.double(), x.double()
    budget = Budget(norm, size, steps)
    result = ATTACKS.create(name)(net, x, right(net, x), budget).clips
    assert result.dtype == x.dtype
    assert [violation(c, a, budget) for c, a in zip(x, result, strict=True)] == [None, None]


@pytest.mark.parametrize("name", ["fgsm", "i_fgsm", "mi_fgsm", "tt(shifts=2)", "tt_mi(shifts=2)"])
@pytest.mark.parametrize("transferred", [False, True])
def test_passes_are_counted_as_planned(name: str, transferred: bool) -> None:
    net = LevelClassifier()
    x = torch.full((2, 3, 4, 4, 4), 0.5)
    target = Target(lambda c, rows, then=None: net(c), 2, transfer=transferred)
    attack, budget = ATTACKS.create(name), Budget(size=0.01, steps=3, restarts=2)
    attack(target, x, torch.tensor([1, 1]), budget)
    forwards, backwards = attack.passes(budget)
    assert target.backwards.tolist() == [backwards] * 2
    # A decisive target needs no check after the last restart: the judge makes it.
    assert target.forwards.tolist() == [forwards if transferred else forwards - 1] * 2


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("tt(kernel='box')", "kernel must be gaussian, linear or uniform, not 'box'"),
        ("tt(shifts=-1)", "shifts must be a whole number of at least 0"),
        ("tt(shifted='purified', misregistered=True)", "each shifted copy must be purified"),
        ("eot(draws=0)", "draws must be a whole number of at least 1"),
        ("eot(average='votes')", "average must be logits, losses or gradients"),
        ("eot(attack='pdg')", "There is no attack 'pdg'.*did you mean 'pgd'"),
        ("mi_fgsm(decay=-1)", "must not be negative"),
    ],
)
def test_bad_parameters_are_one_sentence(spec: str, match: str) -> None:
    from bench import BenchError

    with pytest.raises(BenchError, match=match):
        ATTACKS.create(spec)


def test_labels_of_grids_find_the_attacks() -> None:
    from bench.grids.grid import AttackSection

    for label, name in (
        ("TT-MI+BPDA", "tt_mi"),
        ("MI-FGSM", "mi_fgsm"),
        ("PGD+Diffattack", "pgd"),
        ("EOT+BPDA", "eot"),
    ):
        section = AttackSection.read(label)
        assert section.attack is not None
        assert section.attack.name == name
        assert section.label == label
    assert AttackSection.read("PGD+Diffattack").gradient == "diffattack"
