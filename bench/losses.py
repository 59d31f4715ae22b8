"""Attack losses: one value per clip, larger is better for the attacker."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from bench.errors import BenchError, nearest


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy to the true label: logits ``(B, K)``, labels ``(B,)`` to ``float64 (B,)``.

    In single precision the gradient of a confident prediction (margin above 17) is rounded to zero at the true
    logit and soon everywhere: a mask that no defence built. Double precision reaches margins of about 100.
    """
    return F.cross_entropy(logits.double(), labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Best wrong logit minus the true one (Carlini and Wagner, 2017, without the floor).

    Positive exactly when the clip is misclassified; does not saturate as cross-entropy does.
    """
    true = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return others.amax(1) - true


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"ce": cross_entropy, "margin": margin}


def loss_of(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Looks a loss up.

    Raises:
        BenchError: unknown name.
    """
    try:
        return LOSSES[name]
    except KeyError:
        raise BenchError(f"Unknown loss {name!r}{nearest(name, LOSSES)}; known: {', '.join(LOSSES)}.") from None
