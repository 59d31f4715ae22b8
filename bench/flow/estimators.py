"""Flow estimators by name, with their weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.errors import BenchError, nearest
from bench.flow.base import FlowEstimator
from bench.flow.tiny import TinyFlow
from bench.weights.places import only_looked_for
from bench.weights.zoo import load_shipped, shipped_file

ESTIMATORS: dict[str, Callable[[], FlowEstimator]] = {"flow_tiny": TinyFlow}


def load_flow(
    name: str = "flow_tiny", weights: str | Path | None = None, *, updates: int = 12, unit_range: bool = False
) -> FlowEstimator:
    """A flow estimator with its weights, in evaluation mode, without weight gradients.

    Args:
        name: ``flow_tiny`` or ``tiny``, shipped, checksum verified; ``raft_large`` or ``raft_small``, torchvision's.
        weights: of RAFT, a file in torchvision's layout or the name of one of torchvision's own, which must be on
            this machine (``bench fetch``); ``C_T_V1`` if not given.
        updates, unit_range: of RAFT, see :class:`bench.flow.raft.Raft`.

    Raises:
        BenchError: there is none of that name (the nearest is given), its file is absent or damaged, or the shipped
            one is asked for other weights.
    """
    if name.startswith("raft_"):
        from bench.flow.raft import find_raft, load_raft  # torchvision's models take a second to import

        if only_looked_for(find_raft(name.removeprefix("raft_"), weights)):
            return TinyFlow()
        return load_raft(name.removeprefix("raft_"), weights, updates, unit_range)
    full = _full_name(name)
    if full not in ESTIMATORS:
        known = [n.removeprefix("flow_") for n in ESTIMATORS] + ["raft_large", "raft_small"]
        raise BenchError(f"There is no flow estimator {name!r}{nearest(name, known)}; known: {', '.join(known)}.")
    if weights:
        raise BenchError(f"The flow estimator {full} is shipped with its weights: leave the weights out.")
    estimator = ESTIMATORS[full]()
    load_shipped(estimator, full)
    return estimator.eval().requires_grad_(False)


def flow_files(name: str) -> tuple[Path, ...]:
    """The shipped file that :func:`load_flow` reads, for :attr:`bench.attack.base.Attack.files`; none of RAFT's.

    Raises:
        BenchError: as :func:`load_flow`.
    """
    return () if name.startswith("raft_") else (shipped_file(_full_name(name)),)


def _full_name(name: str) -> str:
    return name if name.startswith("flow_") else f"flow_{name}"
