"""Attack losses."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import BenchError
from bench.attack.losses import (
    LOSSES,
    cross_entropy,
    dlr,
    log_odds,
    loss_of,
    margin,
    slope_of,
    targeted_dlr,
)

few = settings(max_examples=30, deadline=None, derandomize=True, database=None)
rows = st.lists(st.integers(-40, 40), min_size=2, max_size=6, unique=True)  # unique: no ties
longer = st.lists(st.integers(-40, 40), min_size=4, max_size=8, unique=True)


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


wide = st.lists(st.floats(-60, 60, allow_nan=False), min_size=2, max_size=6)


def odds_of(row: list[float], label: int) -> float:
    """Log-odds against the true class, by plain arithmetic."""
    others = [z for k, z in enumerate(row) if k != label]
    return max(others) + math.log(math.fsum(math.exp(z - max(others)) for z in others)) - row[label]


@settings(few, max_examples=100)
@given(wide, st.data())
def test_cross_entropy_is_torchs_until_the_odds_are_a_million_to_one(row: list[float], data: st.DataObject) -> None:
    label = data.draw(st.integers(0, len(row) - 1))
    logits = torch.tensor([row], dtype=torch.float64, requires_grad=True)
    loss = cross_entropy(logits, torch.tensor([label]))
    reference = torch.nn.functional.cross_entropy(logits, torch.tensor([label]))
    against, odds = log_odds(logits, torch.tensor([label])), odds_of(row, label)
    value, found, expected = loss.detach(), float(loss.detach()), float(reference.detach())
    assert float(against.detach()) == pytest.approx(odds, rel=1e-12, abs=1e-12)
    if odds >= -14:
        assert found == pytest.approx(expected, rel=1e-12, abs=1e-12)
    else:  # the tangent there, and below it the curve
        slope = math.exp(-14) / (1 + math.exp(-14))
        assert found == pytest.approx(math.log1p(math.exp(-14)) + slope * (odds + 14), rel=1e-9, abs=1e-18)
        assert found < expected
    (mine,) = torch.autograd.grad(loss.sum(), logits, retain_graph=True)
    (of_odds,) = torch.autograd.grad(against.sum(), logits)
    torch.testing.assert_close(mine, slope_of(value) * of_odds, rtol=1e-9, atol=1e-15)
    assert float(slope_of(value)) == pytest.approx(max(1 / (1 + math.exp(-odds)), math.exp(-14)), rel=2e-6)
    if odds >= -14:
        (theirs,) = torch.autograd.grad(reference, logits)
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("lead", [10.0, 60.0, 300.0])
def test_the_gradient_of_a_confident_prediction_keeps_its_direction(lead: float, dtype: torch.dtype) -> None:
    """Of the true softmax, by hand: the true logit falls by what all the others rise."""
    row = [lead, 0.0, -1.0, -5.0]
    logits = torch.tensor([row], dtype=dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad(cross_entropy(logits, torch.tensor([0])).sum(), logits)
    others = [math.exp(z) for z in row[1:]]
    direction = [-1.0, *(value / sum(others) for value in others)]
    length = float(-gradient[0, 0])
    assert length > 8e-7
    assert [float(value) / length for value in gradient[0]] == pytest.approx(direction, rel=1e-6)


@pytest.mark.parametrize("scale", [1e3, 1e5, 1e20])
def test_cross_entropy_is_never_flat(scale: float) -> None:
    """It rises with the odds however small they are, and its gradient never vanishes, in single precision too."""
    leads = torch.tensor([9.0, 8.9, 1.0, 0.1, 0.01])
    logits = (scale * torch.stack([leads, torch.zeros(5), -torch.ones(5)], 1)).requires_grad_(True)
    found = cross_entropy(logits, torch.zeros(5, dtype=torch.int64))
    assert bool((found.diff() > 0).all())
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    assert bool((gradient[:, 0] < -8e-7).all())
    assert bool((gradient[:, 1] > 8e-7).all())


def ratio(row: list[int], label: int, target: int | None = None) -> Fraction:
    """Both ratios as the paper writes them (equations 6 and 7), in exact arithmetic."""
    order = sorted(row, reverse=True)
    if target is not None:
        return -Fraction(row[label] - row[target]) / (order[0] - Fraction(order[2] + order[3], 2))
    return -Fraction(row[label] - max(z for k, z in enumerate(row) if k != label), order[0] - order[2])


@few
@given(longer, st.data())
def test_difference_of_logits_ratio(row: list[int], data: st.DataObject) -> None:
    label, target = data.draw(st.permutations(range(len(row))))[:2]
    logits, where = torch.tensor([row], dtype=torch.float32), torch.tensor([label])
    found = dlr(logits, where)
    assert (found.shape, found.dtype) == ((1,), torch.float64)
    assert float(found) == pytest.approx(float(ratio(row, label)), rel=1e-9)
    assert (float(found) > 0) == (row.index(max(row)) != label)
    aimed = targeted_dlr(logits, where, torch.tensor([target]))
    assert (aimed.shape, aimed.dtype) == ((1,), torch.float64)
    assert float(aimed) == pytest.approx(float(ratio(row, label, target)), rel=1e-9)
    assert (float(aimed) > 0) == (row[target] > row[label])


def test_difference_of_logits_ratio_by_hand() -> None:
    logits = torch.tensor([[7.0, 3.0, 2.0, 1.0], [7.0, 3.0, 2.0, 1.0], [7.0, 3.0, 2.0, 1.0]])
    labels = torch.tensor([0, 1, 3])
    assert dlr(logits, labels).tolist() == pytest.approx([-4 / 5, 4 / 5, 6 / 5])
    assert targeted_dlr(logits, labels, torch.tensor([1, 0, 0])).tolist() == pytest.approx([-4 / 5.5, 4 / 5.5, 6 / 5.5])


@pytest.mark.parametrize("scale", [1e-3, 1e4])
def test_difference_of_logits_ratio_does_not_see_scale_and_shift(scale: float) -> None:
    """Nor does its gradient vanish for a confident prediction."""
    logits, labels = torch.tensor([[5.0, 1.0, 0.5, -2.0, 3.0]], dtype=torch.float64), torch.tensor([0])
    other = (scale * logits + 7).requires_grad_(True)
    assert dlr(other, labels).tolist() == pytest.approx(dlr(logits, labels).tolist(), rel=1e-8)
    aim = torch.tensor([1])
    expected = targeted_dlr(logits, labels, aim).tolist()
    assert targeted_dlr(other, labels, aim).tolist() == pytest.approx(expected, rel=1e-8)
    (gradient,) = torch.autograd.grad(dlr(other, labels).sum(), other)
    # d/dz of (z_4 - z_0) / (z_0 - z_1), by hand: z_0 = 5, z_4 = 3, z_1 = 1.
    by_hand = torch.tensor([[-1 / 4 + 2 / 16, -2 / 16, 0.0, 0.0, 1 / 4]], dtype=torch.float64) / scale
    torch.testing.assert_close(gradient, by_hand, rtol=1e-8, atol=0)


def test_equal_logits_have_a_ratio_of_zero() -> None:
    logits, labels = torch.zeros(2, 5), torch.tensor([0, 3])
    assert dlr(logits, labels).tolist() == [0.0, 0.0]
    assert targeted_dlr(logits, labels, torch.tensor([1, 1])).tolist() == [0.0, 0.0]


def test_too_few_classes_for_a_ratio_are_refused() -> None:
    labels, aim = torch.tensor([0]), torch.tensor([1])
    dlr(torch.tensor([[1.0, 2.0, 3.0]]), labels)
    with pytest.raises(BenchError, match=r"dlr compares the 3 largest logits, but the classifier has 2 classes"):
        dlr(torch.tensor([[1.0, 2.0]]), labels)
    with pytest.raises(BenchError, match=r"targeted-dlr compares the 4 largest logits, but the .* has 3 classes"):
        targeted_dlr(torch.tensor([[1.0, 2.0, 3.0]]), labels, aim)


def test_losses_are_found_by_name() -> None:
    assert loss_of("ce") is cross_entropy
    assert loss_of("margin") is margin
    assert loss_of("dlr") is dlr
    assert set(LOSSES) == {"ce", "margin", "dlr"}
    with pytest.raises(BenchError, match=r"did you mean 'margin'"):
        loss_of("margn")
