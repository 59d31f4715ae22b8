"""The judge: checks what an attack hands in, then asks the defence, afresh.

It shares no code with the attacks' projections. Distances are taken in double precision straight from the
two clips, so an attack that leaves its budget is caught whatever its own arithmetic says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.budgets import Budget

# float32 rounding of x + d and of the clamp: a few units in the last place of values up to 1.
LINF_SLACK = 1e-6
# The same relative to an l2 radius, plus accumulated rounding over millions of values.
L2_RELATIVE_SLACK = 1e-4


@dataclass(frozen=True)
class Distances:
    """Size of a perturbation in every norm, measured on the clip the model receives.

    Attributes:
        linf: largest change of a value. l2: Euclidean length. changed: fraction of values changed at all.
    """

    linf: float
    l2: float
    changed: float


def measure(clean: Tensor, adversarial: Tensor) -> Distances:
    """Distances between two clips ``(3, T, H, W)``; infinite where the adversarial clip is not finite."""
    difference = (adversarial.double() - clean.double()).abs()
    difference = torch.nan_to_num(difference, nan=float("inf"), posinf=float("inf"))
    return Distances(
        linf=float(difference.max()),
        l2=float(difference.square().sum().sqrt()),
        changed=float((difference > 0).double().mean()),
    )


def violation(clean: Tensor, adversarial: Tensor, budget: Budget | None) -> str | None:
    """What is wrong with one adversarial clip, or ``None``.

    Args:
        clean: ``(3, T, H, W)``.
        adversarial: what the attack returned for it.
        budget: its threat model, with one size; ``None`` for a clean cell, where nothing may change.
    """
    if adversarial.shape != clean.shape:
        return f"shape {tuple(adversarial.shape)} instead of {tuple(clean.shape)}"
    if not adversarial.is_floating_point():
        return f"{adversarial.dtype} instead of floating point"
    if not bool(torch.isfinite(adversarial).all()):
        return f"{int((~torch.isfinite(adversarial)).sum())} values are not finite"
    low, high = float(adversarial.min()), float(adversarial.max())
    if low < 0 or high > 1:
        return f"values in [{low:.6g}, {high:.6g}] leave [0, 1]"
    found = measure(clean, adversarial)
    if budget is None:
        return None if found.linf == 0 else f"changed by {found.linf:.6g} although no change is allowed"
    size = float(budget.size)
    if budget.norm == "linf" and found.linf > size + LINF_SLACK:
        return f"linf distance {found.linf:.8g} exceeds the budget {size:.8g}"
    if budget.norm == "l2" and found.l2 > size * (1 + L2_RELATIVE_SLACK) + LINF_SLACK:
        return f"l2 distance {found.l2:.8g} exceeds the budget {size:.8g}"
    if budget.norm == "one-frame":
        return _one_frame(clean, adversarial, size, found.linf)
    if budget.norm == "flicker":
        return _flicker(clean, adversarial, size)
    return None


def _one_frame(clean: Tensor, adversarial: Tensor, size: float, linf: float) -> str | None:
    """One frame may differ from the clean one, by up to ``size``; the others are the same to the last bit."""
    before, after = clean.double(), adversarial.double()
    differing = [t for t in range(clean.shape[1]) if not torch.equal(before[:, t], after[:, t])]
    if len(differing) > 1:
        return f"frames {', '.join(map(str, differing))} are changed where the budget allows one"
    return f"linf distance {linf:.8g} exceeds the budget {size:.8g}" if linf > size + LINF_SLACK else None


def _flicker(clean: Tensor, adversarial: Tensor, size: float) -> str | None:
    """Each colour of each frame must be the clean one plus one offset of up to ``size``, clamped to ``[0, 1]``.

    Every pixel says in which interval that offset lies: between the bounds it is the difference, up to rounding; a
    pixel at 1 may have been pushed further, one at 0 lower. The intervals must have a point in common.
    """
    for t in range(clean.shape[1]):
        for c in range(clean.shape[0]):
            before, after = clean[c, t].double(), adversarial[c, t].double()
            difference = after - before
            at_least = difference[after > 0]  # a pixel at 0 gives no lower bound
            at_most = difference[after < 1]
            low = float(at_least.max()) - LINF_SLACK if len(at_least) else -math.inf
            high = float(at_most.min()) + LINF_SLACK if len(at_most) else math.inf
            if low > high:
                return f"colour {c} of frame {t} is not the clean one plus one offset for all pixels"
            if low > size or high < -size:
                offset = low + LINF_SLACK if low > size else -high + LINF_SLACK
                return f"the offset {offset:.8g} of colour {c} in frame {t} exceeds the budget {size:.8g}"
    return None
