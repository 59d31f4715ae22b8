"""Submissions: a defence's card, and what whoever verified it found.

A submission is a folder ``results/submissions/NAME`` with its card, the defence's file and small files that it reads, a
folder of results for each grid, a sample of adversarial clips, and, once somebody has verified it, the verdict.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.errors import BenchError
from bench.files import PARTIAL, slug, write_whole
from bench.records.audits import AuditedRow
from bench.records.metrics import wilson
from bench.records.provenance import Provenance
from bench.records.strict import strict_json
from bench.records.strict_yaml import read_yaml

FOLDER = "submissions"
CARD_FILE = "card.yaml"
VERIFIED_FILE = "_verified.json"
"""It starts with ``_`` as all do that are about several cells, and is no part of what its digest is taken over."""

# Files whose line ends a checkout may change, as git does on Windows.
_TEXTS = (".json", ".yaml", ".yml", ".py", ".md", ".txt", ".csv")

_M = TypeVar("_M", bound=BaseModel)


class Submitted(BaseModel):
    """What ``bench submit`` adds to a card.

    Attributes:
        defense: as a grid names it, its file relative to the folder: ``mine.py:Mine``, ``package.module:Mine``.
        params: of its constructor. A file that one names lies in the folder, if it is small.
        files: sha256 of every file that the defence is made of or reads, by its path in the folder, or by its name
            alone where it is too large to lie there.
        grids: that were run.
        bench: version of this package.
        command: that repeats it.
    """

    model_config = ConfigDict(extra="forbid")

    defense: str
    params: dict[str, Any] = {}
    files: dict[str, str] = {}
    grids: list[str]
    bench: str
    command: str


class Card(BaseModel):
    """Who submits what.

    Attributes:
        name: of the row on the board; the folder is named after it.
        authors: one or more.
        summary: one sentence.
        paper, code: where they are; empty if there is none.
        licence: of the defence's file and weights, as SPDX writes it.
        weights: where files that are too large for the folder can be had.
        install: what has to be installed beside this package, as pip takes it; empty if nothing.
        submission: what was run; not there in a card that is only filled in.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=60)
    authors: list[str] = Field(min_length=1)
    summary: str = Field(min_length=1)
    paper: str = ""
    code: str = ""
    licence: str = Field(min_length=1)
    weights: str = ""
    install: str = ""
    submission: Submitted | None = None

    @property
    def folder(self) -> str:
        """Name of its folder."""
        return slug(self.name).lower()


FORM = """\
# Who submits what. `bench submit FILE.py --card THIS` adds what was run.
name: My defence            # of the row on the board
authors: [A. Author]
summary: One sentence that says what it does to a clip.
paper: ""                   # where it is
code: ""                    # where it is
licence: MIT                # of the defence's file and weights (https://spdx.org/licenses)
weights: ""                 # where weights can be had that are too large for the folder
install: ""                 # what pip has to install beside this package
"""


class Counts(BaseModel):
    """Clips that were judged again: how many, how many of them are recorded as right and wrong now (``lost``), and how
    many the other way round (``won``). Of a randomised defence a clip is right where most draws are."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    asked: int = 0
    lost: int = 0
    won: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(asked=self.asked + other.asked, lost=self.lost + other.lost, won=self.won + other.won)


class VerifiedCell(BaseModel):
    """One cell that was asked again.

    Attributes:
        grid, model, defense, attack, budget: its labels.
        kept: adversarial clips of the sample.
        exact: clips that were attacked from the start and came out as recorded, by their size and the loss at every
            step; of a clean cell, all.
        other: those that came out otherwise, as on another machine.
        spoiled: clips of the sample that are torn, leave their budget, or are not those that were measured.
        begun_otherwise: attacked clips whose first loss, or whose size where the attack asks nobody, is not the
            recorded one, whatever the machine.
        draws: of a randomised defence, over its kept and exact clips: draws that are right by the record, all of them,
            draws that are right now, all of them.
    """

    model_config = ConfigDict(extra="forbid")

    grid: str
    model: str
    defense: str
    attack: str
    budget: str = ""
    kept: Counts = Counts()
    exact: Counts = Counts()
    other: Counts = Counts()
    spoiled: int = 0
    begun_otherwise: int = 0
    draws: tuple[int, int, int, int] | None = None

    @property
    def total(self) -> Counts:
        return self.kept + self.exact + self.other

    @property
    def agreement(self) -> tuple[float, float, float]:
        """Share of clips whose verdict is the recorded one, and the 95 % Wilson interval of that."""
        all_ = self.total
        same = all_.asked - all_.lost - all_.won
        return (same / all_.asked if all_.asked else 1.0, *wilson(same, all_.asked))


class Verification(BaseModel):
    """What somebody found who asked a submission again.

    Attributes:
        digest: of the folder's files, see :func:`folder_digest`.
        reasons: why it is refused, a sentence each; none if it is verified.
        cells: what was asked.
        audits: by grid, of the submitted row: the verifier's own, whose grade the board shows.
        clips: of each cell that were attacked again; salt: by which they were drawn.
        by: what asked.
    """

    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    digest: str
    reasons: list[str]
    cells: list[VerifiedCell]
    audits: dict[str, list[AuditedRow]] = {}
    clips: int
    salt: str
    by: Provenance

    @property
    def accepted(self) -> bool:
        return not self.reasons


def submissions(results: Path) -> list[Path]:
    """The folders of submissions in a folder of results."""
    folder = results / FOLDER
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")) if folder.is_dir() else []


def is_submission(folder: Path) -> bool:
    """Whether a folder is one by its place or its card, whole or not."""
    return (folder / CARD_FILE).is_file() or folder.resolve().parent.name == FOLDER


def files_of(folder: Path) -> Iterator[Path]:
    """All that belongs to a submission: neither its verdict, nor what Python, a killed run or a desktop left there."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
        if path.is_file() and not hidden and not path.name.endswith(PARTIAL) and parts != (VERIFIED_FILE,):
            yield path


def file_digest(path: Path) -> str:
    """sha256 of a file, of text with the line ends of Unix.

    Raises:
        BenchError: it cannot be read.
    """
    try:
        if path.suffix in _TEXTS:
            return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BenchError(f"Cannot read {path}: {error.strerror or error}.") from error


def folder_digest(folder: Path) -> str:
    """sha256 of the names and contents of a submission's files but the verdict itself."""
    listed = "".join(f"{file_digest(path)}  {path.relative_to(folder).as_posix()}\n" for path in files_of(folder))
    return hashlib.sha256(listed.encode()).hexdigest()


def read_card(path: Path) -> Card:
    """A card.

    Raises:
        BenchError: there is none, or it is not filled in.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"Cannot read the card {path}: {error}; bench submit --new-card {path} writes one.") from error
    content = read_yaml(text, f"Card {path}")
    if content == yaml.safe_load(FORM):
        raise BenchError(f"Card {path} is the empty form: fill it in.")
    return _valid(Card, content, f"Card {path}", "see docs/submit.md")


def write_card(path: Path, card: Card) -> None:
    """Writes a card.

    Raises:
        BenchError: the file cannot be written.
    """
    content = card.model_dump(mode="json", exclude_none=True)
    _write(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120))


def write_verification(folder: Path, verification: Verification) -> Path:
    """Writes the verdict into the folder it is about.

    Raises:
        BenchError: the file cannot be written.
    """
    path = folder / VERIFIED_FILE
    _write(path, verification.model_dump_json(indent=1) + "\n")
    return path


def _write(path: Path, text: str) -> None:
    try:
        write_whole(path, text)
    except OSError as error:
        raise BenchError(f"Cannot write {path}: {error}; mend that and repeat the command.") from error


def read_verification(folder: Path) -> Verification | None:
    """The verdict on a submission; nothing if nobody verified it.

    Raises:
        BenchError: the file is damaged.
    """
    path = folder / VERIFIED_FILE
    if not path.is_file():
        return None
    try:
        content = strict_json(path.read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError) as error:
        raise BenchError(f"{path} is no verdict of bench verify ({error}): verify the submission again.") from error
    return _valid(Verification, content, str(path), "verify the submission again")


def refusal(folder: Path) -> str | None:
    """Why a submission has no place on the board, one sentence; nothing if it has.

    Raises:
        BenchError: its card or its verdict is damaged.
    """
    if not (folder / CARD_FILE).is_file() or read_card(folder / CARD_FILE).submission is None:
        return f"it has no card of bench submit: run that again, then bench verify {folder}"
    verdict = read_verification(folder)
    if verdict is None:
        return f"nobody has verified it: bench verify {folder}"
    if verdict.digest != folder_digest(folder):
        return f"its files are not those that were verified: bench verify {folder}"
    return None if verdict.accepted else f"it was refused: {verdict.reasons[0]}"


def _valid(kind: type[_M], content: Any, what: str, advice: str) -> _M:
    try:
        return kind.model_validate_json(json.dumps(content), strict=True)
    except (ValidationError, ValueError) as error:
        problem = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        where = ".".join(str(part) for part in problem["loc"])
        words = f"{where}: {problem['msg']}" if where else problem["msg"]
        raise BenchError(f"{what} is not valid ({words[0].lower()}{words[1:]}): {advice}.") from error
