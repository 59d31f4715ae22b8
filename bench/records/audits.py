"""Audits as they are kept beside results."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from bench.errors import BenchError
from bench.files import write_whole
from bench.records.results import CellResult
from bench.records.strict import strict_json

AUDIT_FILE = "_audit.json"


Severity = Literal["fault", "warning", "note"]
"""``fault``: the row's figure is too high, or means nothing. ``warning``: it may be too high. ``note``: worth
knowing."""


Grade = Literal["A", "B", "C", "F"]
"""``A``: nothing found. ``B``: warnings. ``C``: a fault. ``F``: void, or nothing adaptive was run."""


class Finding(BaseModel):
    """What one check found in one row.

    Attributes:
        check: its name.
        severity: see :data:`Severity`.
        message: one sentence.
        cells: attack labels concerned.
        clips: ids of the clips concerned, in the order of the data set.
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    check: str
    severity: Severity
    # Older audits call it otherwise.
    message: str = Field(validation_alias=AliasChoices("message", "said"))
    cells: list[str] = []
    clips: list[str] = []


class AuditedRow(BaseModel):
    """Findings about one row and the grade they come to.

    Attributes:
        model, defense, budget: the row.
        grade: see :data:`Grade`.
        measured: ids of the cells that were looked at; with other cells the audit says nothing.
        probed: clips that the probes asked again; 0 if none.
        alone: clips of each attack that were asked again in a process of its own, which knows nothing but them.
        fresh: clips, drawn for the audit, that were asked there too.
        dear: what was not asked because it takes too long, in words; empty if nothing was left out.
        salt: by which the audit's random numbers are seeded; with the same, it asks the same.
    """

    model_config = ConfigDict(extra="forbid")

    model: str
    defense: str
    budget: str
    grade: Grade
    findings: list[Finding]
    measured: list[str]
    probed: int = 0
    alone: int = 0
    fresh: int = 0
    dear: str = ""
    salt: str = ""

    @property
    def asked(self) -> str:
        """What was asked, in words."""
        probes = [f"{self.probed} clips probed"] if self.probed else []
        fresh = f" and {self.fresh} fresh ones" if self.fresh else ""
        alone = [f"{self.alone} clips{fresh} asked in a process of its own"] if self.alone else []
        return ", ".join([*probes, *alone]) or "stored outcomes only"

    @property
    def shown(self) -> str:
        """The grade as tables show it: what it stands on is said where nothing, or not all, was asked."""
        asked = "in part" if self.probed or self.alone else "outcomes"
        if self.dear:
            return f"{self.grade} ({asked}; the rest is too dear)"
        if not self.alone:
            return f"{self.grade} ({'probes' if self.probed else 'outcomes'})"
        return self.grade


def grade(findings: Sequence[Finding]) -> Grade:
    """What findings come to, see :data:`Grade`."""
    faults = [f.check for f in findings if f.severity == "fault"]
    if "control" in faults or "adaptive" in faults:
        return "F"
    if faults:
        return "C"
    return "B" if any(f.severity == "warning" for f in findings) else "A"


def grades(audits: Iterable[AuditedRow], cells: Iterable[CellResult]) -> dict[tuple[str, str, str], str]:
    """Grades by classifier, defence and budget, as :attr:`AuditedRow.shown` has them.

    An audit of other cells than these says nothing about them.
    """
    measured = {(c.model, c.defense, c.cell) for c in cells}
    return {
        (r.model, r.defense, r.budget): r.shown
        for r in audits
        if all((r.model, r.defense, cell) in measured for cell in r.measured)
    }


def write_audit(folder: Path, rows: Sequence[AuditedRow]) -> Path:
    """Writes the audit beside the results it is about; rows that were not audited this time stay."""
    path = folder / AUDIT_FILE
    mine = {(r.model, r.defense, r.budget) for r in rows}
    kept = [r for r in read_audit(folder) if (r.model, r.defense, r.budget) not in mine]
    text = json.dumps([r.model_dump() for r in (*kept, *rows)], indent=1)
    try:
        write_whole(path, text + "\n")
    except OSError as error:
        raise BenchError(f"Cannot write the audit to {path}: {error}.") from error
    return path


def read_audit(folder: Path) -> list[AuditedRow]:
    """The audit of a results folder; nothing if there is none.

    Raises:
        BenchError: the file is damaged.
    """
    path = folder / AUDIT_FILE
    if not path.is_file():
        return []
    try:
        rows = strict_json(path.read_text(encoding="utf-8"))
        if not isinstance(rows, list):
            raise ValueError("it holds no list of rows")
        return [AuditedRow.model_validate_json(json.dumps(row), strict=True) for row in rows]
    except (OSError, RecursionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise BenchError(f"{path} is not a valid audit: {reason}; delete it and run bench audit again.") from error
