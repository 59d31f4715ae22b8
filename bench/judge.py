"""The judge: checks what an attack hands in, then asks the defence, afresh.

It shares no code with the attacks' projections. Distances are taken in double precision straight from the
two clips, so an attack that leaves its budget is caught whatever its own arithmetic says.
"""

from __future__ import annotations

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
    return None
