"""Flow estimators by name, with their weights."""

from __future__ import annotations

from collections.abc import Callable

from bench.errors import BenchError, nearest
from bench.flow.base import FlowEstimator
from bench.flow.tiny import TinyFlow
from bench.models.checkpoints import load_shipped

ESTIMATORS: dict[str, Callable[[], FlowEstimator]] = {"flow_tiny": TinyFlow}


def load_flow(name: str = "tiny") -> FlowEstimator:
    """A shipped flow estimator with its weights, checksum verified, in evaluation mode, without weight gradients.

    Args:
        name: ``tiny`` or ``flow_tiny``.

    Raises:
        BenchError: there is none of that name (the nearest is given), or its file is absent or damaged.
    """
    full = name if name.startswith("flow_") else f"flow_{name}"
    if full not in ESTIMATORS:
        known = [n.removeprefix("flow_") for n in ESTIMATORS]
        raise BenchError(f"There is no flow estimator {name!r}{nearest(name, known)}; known: {', '.join(known)}.")
    estimator = ESTIMATORS[full]()
    load_shipped(estimator, full)
    return estimator.eval().requires_grad_(False)
