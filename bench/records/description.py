"""What a results folder says about its grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field


class ReportedSection(BaseModel):
    """Which published figures belong beside this grid's.

    A label of this grid is mapped to values of columns, e.g. ``{variant: Ours}``; a bare value is that of the column
    ``defense`` or ``attack``. Where a defence and an attack speak of one column, the defence has the word.

    Attributes:
        file: CSV in ``results/reported/``.
        model: this grid's label of the classifier they were measured on; its only one if not given.
        where: column values that all rows have, e.g. ``{dataset: UCF-101, model: NL}``.
        defenses, attacks: this grid's labels, and those of its oracles, to the file's rows; among the attacks,
            ``Union`` and ``Mean`` are what all of them say together, ``Seconds`` the time of a pass; labels
            of averages, within the grid or across several, stand for themselves.
        budgets: this grid's budgets, as tables print them, to the file's rows; all rows if empty.
        without: by defence, columns beside which no figure of the file belongs.
    """

    model_config = ConfigDict(extra="forbid")

    file: str
    model: str = ""
    where: dict[str, str] = {}
    defenses: dict[str, str | dict[str, str]] = {}
    attacks: dict[str, str | dict[str, str]] = {}
    budgets: dict[str, dict[str, str]] = {}
    without: dict[str, list[str]] = {}


class AcrossSection(BaseModel):
    """A column that is the mean of one column over several grids, read from their results.

    Attributes:
        column: its label in those grids: an attack, a worst of several or an average.
        grids: their names.
    """

    model_config = ConfigDict(extra="forbid")

    column: str
    grids: list[str] = Field(min_length=1)


@dataclass(frozen=True)
class Skipped:
    """A combination that does not exist, and why: what a table prints as ``n/a`` or ``refused``.

    Attributes:
        kind: ``gradient``: the defence has no such gradient. ``refused``: the attack cannot attack such a target.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")  # result folders store it

    model: str
    defense: str
    attack: str
    reason: str
    kind: Literal["gradient", "refused"] = "refused"


class Described(Protocol):
    """What a grid, or its results folder, says of its tables, see :class:`~bench.grids.grid.Grid`."""

    @property
    def worst(self) -> Mapping[str, Sequence[str]]: ...

    @property
    def oracles(self) -> Mapping[str, Mapping[str, str]]: ...

    @property
    def counts_clean(self) -> bool: ...

    @property
    def timed(self) -> bool: ...

    @property
    def averages(self) -> Mapping[str, Sequence[str]]: ...

    @property
    def across(self) -> Mapping[str, AcrossSection]: ...


class GridFile(BaseModel):
    """What a results folder says about its grid.

    Attributes:
        order: file names in the order of the rows.
        skipped: combinations that do not exist.
        worst: columns that are the worst of others.
        oracles, counts_clean, timed, averages, across: of the grid's tables, see :class:`~bench.grids.grid.Grid`.
        reported: which published figures stand beside the measured ones.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    title: str
    summary: str
    order: list[str]
    skipped: list[Skipped]
    worst: dict[str, list[str]] = {}
    oracles: dict[str, dict[str, str]] = {}
    counts_clean: bool = False
    timed: bool = False
    averages: dict[str, list[str]] = {}
    across: dict[str, AcrossSection] = {}
    reported: ReportedSection | None = None
