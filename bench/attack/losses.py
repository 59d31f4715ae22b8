"""Attack losses: one value per clip, larger is better for the attacker."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.errors import BenchError, nearest

# Log-odds against the true class below which cross-entropy goes on as its tangent, and the slope there.
_SURE = -14.0
_SLOPE = 1 / (1 + math.exp(-_SURE))


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-odds against the true class, ``log sum_(j != y) exp(z_j) - z_y``: ``float64 (B,)``.

    Cross-entropy is ``log(1 + exp(.))`` of it. Like the margin, it does not saturate.

    Args:
        logits: ``(B, K)``.
        labels: ``(B,)``.
    """
    values = logits.double()
    return values.scatter(1, labels[:, None], float("-inf")).logsumexp(1) - values.gather(1, labels[:, None])[:, 0]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy to the true label, in a form that no confidence makes flat: ``float64 (B,)``.

    With the :func:`log_odds` ``o`` against the true class it is ``log(1 + exp(o))``. Below ``o = -14``, where the true
    class has all but a millionth, that and its gradient go to zero with ``exp(o)``: double precision loses the value
    from 37 on and the gradient from 700 on, and what is left is lost in single precision on its way back through the
    network. There the curve is continued by its tangent, with the slope ``8e-7``. Value and slope have no jump, the
    order of clips stays what it was, and a clip's gradient keeps its direction, which is that of ``o``; only values
    below ``8e-7`` are no longer cross-entropies, and become negative.

    Args:
        logits: ``(B, K)``.
        labels: ``(B,)``.
    """
    odds = log_odds(logits, labels)
    curved = odds.clamp_min(_SURE)
    # The threshold is where softplus becomes the identity: with the default of 20 it would be off by 2e-9.
    return F.softplus(curved, threshold=50) + _SLOPE * (odds - curved)


def slope_of(value: Tensor) -> Tensor:
    """Derivative of :func:`cross_entropy` by the log-odds, from its value; between ``8e-7`` and 1."""
    return -torch.expm1(-value).clamp_max(-_SLOPE)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Best wrong logit minus the true one (Carlini and Wagner, 2017, without the floor).

    Positive exactly when the clip is misclassified; does not saturate as cross-entropy does.
    """
    true = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return others.amax(1) - true


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Difference-of-logits ratio: the margin in units of the gap between the first and the third logit.

    Blind to a shift and a rescaling of the logits, so that no defence hides a gradient by making them large. In
    ``[-1, 0]`` while the clip is right, positive exactly when it is misclassified, and above 1 where the true class is
    not even third.

    Args:
        logits: ``(B, K)``, at least three classes.
        labels: ``(B,)``.

    Returns:
        ``float64 (B,)``.

    Raises:
        BenchError: fewer than three classes.

    Source: Croce and Hein, ICML 2020 (arXiv 2003.01690), section 4, equation 6.
    """
    first, _, third = _largest(logits, 3, "dlr").unbind(1)
    return margin(logits.double(), labels) / (first - third + _TINY)


def targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Difference-of-logits ratio towards one wrong class: positive when that class is ahead of the true one.

    Args:
        logits: ``(B, K)``, at least four classes.
        labels: true classes, ``(B,)``.
        targets: classes to reach, ``(B,)``.

    Returns:
        ``float64 (B,)``.

    Raises:
        BenchError: fewer than four classes.

    Source: Croce and Hein, ICML 2020 (arXiv 2003.01690), section 4, equation 7.
    """
    first, _, third, fourth = _largest(logits, 4, "targeted-dlr").unbind(1)
    values = logits.double()
    ahead = values.gather(1, targets[:, None]) - values.gather(1, labels[:, None])
    return ahead[:, 0] / (first - (third + fourth) / 2 + _TINY)


# Where all the largest logits are equal, the ratio is 0 and not 0 / 0.
_TINY = 1e-12


def _largest(logits: Tensor, count: int, name: str) -> Tensor:
    """The largest logits of each clip, in descending order: ``float64 (B, count)``."""
    if logits.shape[1] < count:
        raise BenchError(
            f"The loss {name} compares the {count} largest logits, but the classifier has {logits.shape[1]} classes: "
            "choose the loss margin or ce."
        )
    return logits.double().topk(count, dim=1).values


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"ce": cross_entropy, "margin": margin, "dlr": dlr}


def loss_of(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Looks a loss up.

    Raises:
        BenchError: unknown name.
    """
    try:
        return LOSSES[name]
    except KeyError:
        raise BenchError(f"Unknown loss {name!r}{nearest(name, LOSSES)}; known: {', '.join(LOSSES)}.") from None
