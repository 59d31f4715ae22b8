"""What identifies a measurement: the components that met, by their parameters, code and weights."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator

from bench.modes import Precision

Knowledge = Literal["clean", "noise", "universal", "black-box", "gray-box", "adaptive"]
"""What the attacker knows: nothing, and attacks nothing; nothing; what was learned once on other clips; another
classifier; this classifier; everything."""

Gradient = Literal[
    "exact",
    "bpda",
    "bpda-identity",
    "bpda-negated",
    "bpda-lowpass",
    "surrogate",
    "diffattack",
    "query",
    "none",
    "strongest",
]
"""How the attacker differentiates the defence, see :data:`bench.defense.defended.GRADIENTS`."""


def digest(settings: Any) -> str:
    """ComponentIdentity of anything made of plain values: 16 hex digits of its canonical JSON."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


AskedGradient = Gradient | Literal["auto"]
"""A gradient as users ask for it: ``auto`` is exact where it exists, else bpda."""


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ComponentIdentity(_Frozen):
    """A component: all that can change what it does.

    Attributes:
        name: as it is registered.
        params: all parameters, defaults written out.
        code: digest of what its code means, see :mod:`bench.code`.
        weights: digest of a network's parameters and buffers.
        files: digests of files that it reads, by what they are, and settings on which no random stream depends.
        parts: of an attack, the attacks that it runs.
    """

    name: str
    params: dict[str, Any] = {}
    code: str = ""
    weights: str = ""
    files: dict[str, str] = {}
    parts: tuple[ComponentIdentity, ...] = ()

    @field_validator("params", mode="before")
    @classmethod
    def _plain(cls, params: Any) -> Any:
        return json.loads(json.dumps(params, default=str))

    def stream(self) -> dict[str, Any]:
        """What random streams depend on: not on code or weights, so that an edited component meets the same draws."""
        return {"name": self.name, "params": self.params, "parts": [part.stream() for part in self.parts]}


class BudgetIdentity(_Frozen):
    """A budget, see :class:`bench.threat.budgets.Budget`, and the code of its geometry."""

    norm: str
    size: float
    steps: int
    step_size: float | None = None
    restarts: int
    code: str = ""


class CellIdentity(_Frozen):
    """A cell: who met, under which budget, and by which engine.

    Attributes:
        engine: digest of what runs and judges every cell.
        attack, budget: ``None`` of clean cells.
        source: of black-box cells, the classifier on which the clips are made.
        against: the defence against which the clips are made, if it is another than the one that meets them.
        queries: how often a randomised defence is asked about each clip; ``None`` of a deterministic one.
        vote: how candidates decide, see :attr:`bench.defense.base.Purifier.vote`.
        precision: in which numbers networks compute under attack, see :data:`bench.modes.Precision`.
    """

    engine: str
    dataset: ComponentIdentity
    model: ComponentIdentity
    defense: ComponentIdentity
    attack: ComponentIdentity | None = None
    budget: BudgetIdentity | None = None
    source: ComponentIdentity | None = None
    against: ComponentIdentity | None = None
    knowledge: Knowledge
    gradient: Gradient
    seed: int
    queries: int | None = None
    vote: Literal["plurality", "mean"] = "plurality"
    precision: Precision = "fp32"

    @property
    def id(self) -> str:
        """Digest of all of it; what is not there leaves no trace."""
        return digest(self.model_dump(mode="json", exclude_defaults=True))
