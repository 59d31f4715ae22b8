"""VideoRobustBench: how robust a video classifier really is.

Everything a contributor needs is here: :class:`Attack`, :class:`Purifier`, :class:`RobustModel`,
:class:`Dataset` and :func:`register`, what attacks are made of (:class:`Survivors`, :class:`Best`, losses), and
:func:`evaluate` for one's own classifier. Names are imported on first use, so that ``import bench`` and
``bench --help`` stay light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.api import evaluate as evaluate
    from bench.api import figure as figure
    from bench.api import plot as plot
    from bench.api import run_grid as run_grid
    from bench.attack.around import Around as Around
    from bench.attack.base import Attack as Attack
    from bench.attack.base import AttackResult as AttackResult
    from bench.attack.best import Best as Best
    from bench.attack.gradient import GradientAttack as GradientAttack
    from bench.attack.gradient import Run as Run
    from bench.attack.known import NETWORK as NETWORK
    from bench.attack.known import THREATS as THREATS
    from bench.attack.known import moves_against as moves_against
    from bench.attack.losses import LOSSES as LOSSES
    from bench.attack.losses import cross_entropy as cross_entropy
    from bench.attack.losses import log_odds as log_odds
    from bench.attack.losses import loss_of as loss_of
    from bench.attack.losses import margin as margin
    from bench.attack.losses import slope_of as slope_of
    from bench.attack.losses import targeted_dlr as targeted_dlr
    from bench.attack.masked import MaskedAttack as MaskedAttack
    from bench.attack.masked import region_of as region_of
    from bench.attack.moves import Move as Move
    from bench.attack.moves import Moves as Moves
    from bench.attack.moves import moves_of as moves_of
    from bench.attack.penalised import PenalisedAttack as PenalisedAttack
    from bench.attack.penalised import Slope as Slope
    from bench.attack.sampled import SampledAttack as SampledAttack
    from bench.attack.sampled import Subspace as Subspace
    from bench.attack.survivors import Survivors as Survivors
    from bench.attack.survivors import fetch as fetch
    from bench.attack.survivors import upload as upload
    from bench.attack.target import Answer as Answer
    from bench.attack.target import Climb as Climb
    from bench.attack.target import Objective as Objective
    from bench.attack.target import Target as Target
    from bench.attack.target import Transform as Transform
    from bench.attack.target import Wrapped as Wrapped
    from bench.attack.turns import Looks as Looks
    from bench.attack.turns import Part as Part
    from bench.attack.turns import Turn as Turn
    from bench.attack.turns import in_turn as in_turn
    from bench.attack.turns import one_look as one_look
    from bench.data.base import ClipRef as ClipRef
    from bench.data.base import Dataset as Dataset
    from bench.data.base import Missing as Missing
    from bench.data.base import MissingClip as MissingClip
    from bench.data.base import listing as listing
    from bench.defense.base import Defense as Defense
    from bench.defense.base import Filter as Filter
    from bench.defense.base import Purifier as Purifier
    from bench.defense.base import RobustModel as RobustModel
    from bench.defense.defended import DefendedClassifier as DefendedClassifier
    from bench.defense.defended import plurality as plurality
    from bench.defense.trained import Behind as Behind
    from bench.defense.trained import TrainedDefense as TrainedDefense
    from bench.defense.trained import transform_of as transform_of
    from bench.errors import BenchError as BenchError
    from bench.errors import at_least as at_least
    from bench.errors import nearest as nearest
    from bench.models.base import VideoClassifier as VideoClassifier
    from bench.ranges import clip01 as clip01
    from bench.records.results import read_results as read_results
    from bench.records.results import to_frame as to_frame
    from bench.registry import ATTACKS as ATTACKS
    from bench.registry import Spec as Spec
    from bench.registry import register as register
    from bench.seeds import ClipRandom as ClipRandom
    from bench.seeds import seed_of as seed_of
    from bench.threat.budgets import Budget as Budget
    from bench.threat.budgets import parse_size as parse_size

__version__ = "0.1.0"

_HOME = {
    "ATTACKS": "bench.registry",
    "Answer": "bench.attack.target",
    "Around": "bench.attack.around",
    "Attack": "bench.attack.base",
    "AttackResult": "bench.attack.base",
    "Behind": "bench.defense.trained",
    "BenchError": "bench.errors",
    "Best": "bench.attack.best",
    "Budget": "bench.threat.budgets",
    "Climb": "bench.attack.target",
    "ClipRandom": "bench.seeds",
    "ClipRef": "bench.data.base",
    "Dataset": "bench.data.base",
    "DefendedClassifier": "bench.defense.defended",
    "Defense": "bench.defense.base",
    "Filter": "bench.defense.base",
    "GradientAttack": "bench.attack.gradient",
    "LOSSES": "bench.attack.losses",
    "Looks": "bench.attack.turns",
    "MaskedAttack": "bench.attack.masked",
    "Missing": "bench.data.base",
    "MissingClip": "bench.data.base",
    "Move": "bench.attack.moves",
    "Moves": "bench.attack.moves",
    "NETWORK": "bench.attack.known",
    "Objective": "bench.attack.target",
    "Part": "bench.attack.turns",
    "PenalisedAttack": "bench.attack.penalised",
    "Purifier": "bench.defense.base",
    "RobustModel": "bench.defense.base",
    "Run": "bench.attack.gradient",
    "SampledAttack": "bench.attack.sampled",
    "Slope": "bench.attack.penalised",
    "Spec": "bench.registry",
    "Subspace": "bench.attack.sampled",
    "Survivors": "bench.attack.survivors",
    "fetch": "bench.attack.survivors",
    "upload": "bench.attack.survivors",
    "THREATS": "bench.attack.known",
    "Target": "bench.attack.target",
    "TrainedDefense": "bench.defense.trained",
    "Transform": "bench.attack.target",
    "Turn": "bench.attack.turns",
    "VideoClassifier": "bench.models.base",
    "Wrapped": "bench.attack.target",
    "at_least": "bench.errors",
    "clip01": "bench.ranges",
    "cross_entropy": "bench.attack.losses",
    "evaluate": "bench.api",
    "figure": "bench.api",
    "in_turn": "bench.attack.turns",
    "listing": "bench.data.base",
    "log_odds": "bench.attack.losses",
    "loss_of": "bench.attack.losses",
    "margin": "bench.attack.losses",
    "moves_against": "bench.attack.known",
    "moves_of": "bench.attack.moves",
    "nearest": "bench.errors",
    "one_look": "bench.attack.turns",
    "parse_size": "bench.threat.budgets",
    "plot": "bench.api",
    "plurality": "bench.defense.defended",
    "read_results": "bench.records.results",
    "region_of": "bench.attack.masked",
    "register": "bench.registry",
    "run_grid": "bench.api",
    "seed_of": "bench.seeds",
    "slope_of": "bench.attack.losses",
    "targeted_dlr": "bench.attack.losses",
    "to_frame": "bench.records.results",
    "transform_of": "bench.defense.trained",
}

__all__ = [*sorted(_HOME), "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'bench' has no attribute {name!r}")
