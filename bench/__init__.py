"""VideoRobustBench: how robust a video classifier really is.

Everything a contributor needs is here: :class:`Attack`, :class:`Purifier`, :class:`RobustModel`,
:class:`Dataset`, :func:`register`, and :func:`evaluate` for one's own classifier. Names are imported on
first use, so that ``import bench`` and ``bench --help`` stay light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.api import evaluate as evaluate
    from bench.attack.base import Attack as Attack
    from bench.attack.base import AttackResult as AttackResult
    from bench.attack.gradient import GradientAttack as GradientAttack
    from bench.attack.target import Target as Target
    from bench.data.base import ClipRef as ClipRef
    from bench.data.base import Dataset as Dataset
    from bench.defense.base import Purifier as Purifier
    from bench.defense.base import RobustModel as RobustModel
    from bench.defense.defended import DefendedClassifier as DefendedClassifier
    from bench.errors import BenchError as BenchError
    from bench.models.base import VideoClassifier as VideoClassifier
    from bench.registry import register as register
    from bench.seeds import ClipRandom as ClipRandom
    from bench.threat.budgets import Budget as Budget

__version__ = "0.1.0"

_HOME = {
    "Attack": "bench.attack.base",
    "AttackResult": "bench.attack.base",
    "BenchError": "bench.errors",
    "Budget": "bench.threat.budgets",
    "ClipRandom": "bench.seeds",
    "ClipRef": "bench.data.base",
    "Dataset": "bench.data.base",
    "DefendedClassifier": "bench.defense.defended",
    "GradientAttack": "bench.attack.gradient",
    "Purifier": "bench.defense.base",
    "RobustModel": "bench.defense.base",
    "Target": "bench.attack.target",
    "VideoClassifier": "bench.models.base",
    "evaluate": "bench.api",
    "register": "bench.registry",
}

__all__ = [*sorted(_HOME), "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'bench' has no attribute {name!r}")
