"""The judge: checks what an attack hands in, then asks the defence, afresh.

It shares no code with the attacks' projections. Distances are taken in double precision straight from the
two clips, so an attack that leaves its budget is caught whatever its own arithmetic says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.threat.budgets import Budget

# float32 rounding of x + d and of the clamp: a few units in the last place of values up to 1.
LINF_SLACK = 1e-6
# The same relative to an l2 radius, plus accumulated rounding over millions of values.
L2_RELATIVE_SLACK = 1e-4


@dataclass(frozen=True)
class Distances:
    """Size of a perturbation in every norm, on the clip the classifier receives.

    Attributes:
        linf: largest change of a value. l2: Euclidean length. changed: fraction of values changed at all.
    """

    linf: float
    l2: float
    changed: float


def distances(clean: Tensor, adversarial: Tensor) -> Distances:
    """Distances between two clips ``(3, T, H, W)``; infinite where the adversarial clip is not finite."""
    return all_distances(clean[None], adversarial[None])[0]


def all_distances(clean: Tensor, adversarial: Tensor) -> list[Distances]:
    """Distances between clips ``(B, 3, T, H, W)``, in double precision, on their device, which is waited for once."""
    found = []
    for before, after in zip(clean, adversarial, strict=True):  # one by one: doubles take twice the memory
        difference = torch.nan_to_num((after.double() - before.double()).abs_(), nan=math.inf, posinf=math.inf)
        changed = (difference > 0).double().mean()
        found.append(torch.stack([difference.max(), difference.square_().sum().sqrt(), changed]))
    return [Distances(*values) for values in torch.stack(found).tolist()] if found else []


def violation(
    clean: Tensor, adversarial: Tensor, budget: Budget | None, distance: Distances | None = None
) -> str | None:
    """What is wrong with one adversarial clip, or ``None``.

    Args:
        clean: ``(3, T, H, W)``.
        adversarial: what the attack returned for it.
        budget: its threat model, with one size; ``None`` for a clean cell, where nothing may change.
        distance: of the two, if it is known already.
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
    distance = distance or distances(clean, adversarial)
    if budget is None:
        return None if distance.linf == 0 else f"changed by {distance.linf:.6g} although no change is allowed"
    size = float(budget.size)
    if budget.norm == "linf" and distance.linf > size + LINF_SLACK:
        return f"linf distance {distance.linf:.8g} exceeds the budget {size:.8g}"
    if budget.norm == "l2" and distance.l2 > size * (1 + L2_RELATIVE_SLACK) + LINF_SLACK:
        return f"l2 distance {distance.l2:.8g} exceeds the budget {size:.8g}"
    if budget.norm == "one-frame":
        return _one_frame(clean, adversarial, size, distance.linf)
    if budget.norm == "flicker":
        return _flicker(clean, adversarial, size)
    if budget.norm in _REGIONS:
        return _REGIONS[budget.norm](clean, adversarial, size)
    if budget.norm == "framing":
        return _framing(clean, adversarial, size)
    if budget.norm in ("mult-linf", "mult-l2"):
        return _ratios(clean, adversarial, budget.norm, size)
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


def _changed(clean: Tensor, adversarial: Tensor) -> list[tuple[int, Tensor]]:
    """Of every frame that differs: its number and the pixels that do, ``int64 (N, 2)``, row and column."""
    differs = (clean.double() != adversarial.double()).any(0)
    return [(t, frame.nonzero()) for t, frame in enumerate(differs) if frame.any()]


def _rectangle(clean: Tensor, adversarial: Tensor, size: float) -> str | None:
    for t, pixels in _changed(clean, adversarial):
        height, width = (pixels.amax(0) - pixels.amin(0) + 1).tolist()
        if max(height, width) > size:
            return f"the changes of frame {t} span {height} x {width} pixels, more than {size:g} x {size:g}"
    return None


def _border(clean: Tensor, adversarial: Tensor, size: float) -> str | None:
    height, width = clean.shape[2:]
    for t, pixels in _changed(clean, adversarial):
        for row, column in pixels.tolist():
            inside = min(row, column, height - 1 - row, width - 1 - column)
            if inside >= size:
                return f"pixel {row}, {column} of frame {t} is changed, outside the border of {size:g}"
    return None


def _pixels(clean: Tensor, adversarial: Tensor, size: float) -> str | None:
    for t, pixels in _changed(clean, adversarial):
        if len(pixels) > size:
            return f"{len(pixels)} pixels of frame {t} are changed, more than the budget's {size:g}"
    return None


_REGIONS = {"rectangle": _rectangle, "border": _border, "pixels": _pixels}


def _framing(clean: Tensor, adversarial: Tensor, size: float) -> str | None:
    """Inside the border stands the clean clip, shrunk by bilinear interpolation between the centres of pixels."""
    width = int(size)
    if width == 0:
        return None if torch.equal(clean.double(), adversarial.double()) else "changed although no framing is allowed"
    inner = adversarial.double()[:, :, width:-width, width:-width]
    weights = [_resampling(clean.shape[k], inner.shape[k]) for k in (2, 3)]
    expected = torch.einsum("ij,ctjl,kl->ctik", weights[0], clean.double(), weights[1])
    worst = float((inner - expected).abs().max()) if inner.numel() else math.inf
    return f"inside the border the clip differs by {worst:.6g} from the shrunken one" if worst > 1e-5 else None


def _resampling(old: int, new: int) -> Tensor:
    """``float64 (new, old)``: how much of each old pixel is in each new one, along one axis."""
    place = ((torch.arange(new, dtype=torch.float64) + 0.5) * old / new - 0.5).clamp(0, old - 1)
    return (1 - (place[:, None] - torch.arange(old, dtype=torch.float64)).abs()).clamp_min(0)


def _ratios(clean: Tensor, adversarial: Tensor, norm: str, size: float) -> str | None:
    """Black stays black; elsewhere the ratio to the clean value is bounded, one by one or all logarithms together."""
    before, after = clean.double(), adversarial.double()
    black = before == 0
    if bool((after[black] != 0).any()) or bool((after[~black] == 0).any()):
        return "a black value was changed, or one was made black, which no factor can do"
    ratio = after[~black] / before[~black]
    if norm == "mult-linf":
        largest = max(float(ratio.max()), float(1 / ratio.min())) if len(ratio) else 1.0
        # Rounding of a product is relative, and so is the slack.
        over = largest > (1 + size) * (1 + LINF_SLACK)
        return f"a value is changed by the factor {largest:.8g}, more than {1 + size:.8g}" if over else None
    length = float(ratio.log().square().sum().sqrt())
    # Each logarithm is off by the rounding of its product.
    allowed = size * (1 + L2_RELATIVE_SLACK) + LINF_SLACK * len(ratio) ** 0.5
    return f"the l2 length {length:.8g} of the log ratios exceeds the budget {size:.8g}" if length > allowed else None
