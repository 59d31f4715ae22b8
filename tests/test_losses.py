"""Attack losses."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import BenchError
from bench.losses import LOSSES, cross_entropy, loss_of, margin

few = settings(max_examples=30, deadline=None, derandomize=True, database=None)
rows = st.lists(st.integers(-40, 40), min_size=2, max_size=6, unique=True)  # unique: no ties


@few
@given(rows, st.data())
def test_cross_entropy_is_minus_log_softmax(row: list[int], data: st.DataObject) -> None:
    label = data.draw(st.integers(0, len(row) - 1))
    logits = torch.tensor([row], dtype=torch.float64) / 4
    expected = math.log(math.fsum(math.exp((z - row[label]) / 4) for z in row))
    found = cross_entropy(logits, torch.tensor([label]))
    assert found.shape == (1,)
    assert float(found) == pytest.approx(expected, rel=1e-10, abs=1e-12)


@few
@given(rows, st.data())
def test_margin_is_best_wrong_minus_true(row: list[int], data: st.DataObject) -> None:
    label = data.draw(st.integers(0, len(row) - 1))
    found = float(margin(torch.tensor([row], dtype=torch.float32), torch.tensor([label])))
    assert found == max(z for k, z in enumerate(row) if k != label) - row[label]
    assert (found > 0) == (row.index(max(row)) != label)


def test_losses_are_per_clip() -> None:
    logits, labels = torch.tensor([[2.0, 1.0, 0.0], [0.0, 5.0, 1.0]]), torch.tensor([0, 2])
    assert margin(logits, labels).tolist() == [-1.0, 4.0]
    expected = [math.log(1 + math.exp(-1) + math.exp(-2)), math.log(math.exp(-1) + math.exp(4) + 1)]
    assert cross_entropy(logits, labels).tolist() == pytest.approx(expected, rel=1e-6)


def test_margin_gradient_does_not_saturate() -> None:
    logits = torch.tensor([[500.0, 0.0, -1.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(margin(logits, torch.tensor([0])).sum(), logits)
    assert gradient.tolist() == [[-1.0, 1.0, 0.0]]


def test_cross_entropy_keeps_the_gradient_of_a_confident_prediction() -> None:
    """Single precision would round the true logit's part to zero from a margin of 17 on."""
    logits = torch.tensor([[60.0, 0.0, -5.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(cross_entropy(logits, torch.tensor([0])).sum(), logits)
    wrong = [math.exp(-60), math.exp(-65)]
    assert gradient[0].tolist() == pytest.approx([-sum(wrong), *wrong], rel=1e-4)


def test_losses_are_found_by_name() -> None:
    assert loss_of("ce") is cross_entropy
    assert loss_of("margin") is margin
    assert set(LOSSES) == {"ce", "margin"}
    with pytest.raises(BenchError, match=r"did you mean 'margin'"):
        loss_of("margn")
