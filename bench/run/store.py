"""Outcomes as they come, in SQLite; adversarial clips beside them, in a bank of files.

Every batch is one transaction, and a clip file is complete before a row names it: a process killed at any
moment leaves whole batches and nothing else. What cannot be read back is as if it had never been stored.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bench.faults import MachineFault, machine_fault
from bench.records.outcome import Control, Flaw, Outcome
from bench.records.provenance import Provenance
from bench.run.bank import ENDING, Bank, Gone
from bench.run.coding import Unreadable, decode, encode

_SCHEMA = """
CREATE TABLE IF NOT EXISTS cells (id TEXT PRIMARY KEY, settings TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS outcomes (
    cell TEXT NOT NULL, clip TEXT NOT NULL, status TEXT NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (cell, clip)
);
CREATE TABLE IF NOT EXISTS clips (
    unit TEXT NOT NULL, clip TEXT NOT NULL, file TEXT NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (unit, clip)
);
CREATE TABLE IF NOT EXISTS controls (cell TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS batch_sizes (key TEXT PRIMARY KEY, size INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS leases (
    work TEXT NOT NULL, clip TEXT NOT NULL, owner TEXT NOT NULL, host TEXT NOT NULL, pid INTEGER NOT NULL,
    until REAL NOT NULL, PRIMARY KEY (work, clip)
);
"""
# Since clips are in a bank, and since it is known who computed what. In a store that is older and only read they are
# empty.
_LATER = {
    "uses": """
CREATE {kind} TABLE IF NOT EXISTS uses (
    unit TEXT NOT NULL, cell TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (unit, cell)
);
""",
    "provenance": """
CREATE {kind} TABLE IF NOT EXISTS provenance (
    cell TEXT NOT NULL, clip TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (cell, clip)
);
""",
}
_OF_FILES = "CREATE INDEX IF NOT EXISTS clips_by_file ON clips (file);"
# Without those that stores of older versions lack.
_TABLES = {"cells", "outcomes", "clips", "controls", "batch_sizes"}


def _later(names: Iterable[str], kind: str) -> str:
    """Makes some of the later tables."""
    return "".join(_LATER[name].format(kind=kind) for name in names)


@dataclass
class Adversarial:
    """Adversarial clips of some batch and what they cost.

    Attributes:
        clips: ``(B, 3, T, H, W)``; of another shape or type where the attack is at fault.
        attacked: ``(B,)`` whether the attack was run on the clip.
        traces: per clip, the loss at each step.
        forwards, backwards: per clip.
        seconds: wall time per clip, averaged over the batch.
    """

    clips: Tensor
    attacked: list[bool]
    traces: list[list[float | None]]
    forwards: list[int]
    backwards: list[int]
    seconds: float

    @classmethod
    def joined(cls, parts: Sequence[Adversarial]) -> Adversarial:
        """Batches, one or more, as one; their clips have one shape."""
        return cls(
            clips=torch.cat([part.clips for part in parts]),
            attacked=[value for part in parts for value in part.attacked],
            traces=[value for part in parts for value in part.traces],
            forwards=[value for part in parts for value in part.forwards],
            backwards=[value for part in parts for value in part.backwards],
            seconds=sum(part.seconds * len(part.attacked) for part in parts) / sum(len(p.attacked) for p in parts),
        )


@dataclass(frozen=True)
class Coded:
    """Adversarial clips as they are stored.

    Attributes:
        contents: of each clip what :func:`bench.run.coding.encode` made of it, or the clip itself where an older
            version stored it.
        bodies: of each, what else is known of it.
    """

    contents: list[bytes | Tensor]
    bodies: list[dict[str, Any]]

    @classmethod
    def of(cls, clean: Tensor, adversarial: Adversarial) -> Coded:
        """Codes adversarial clips of the clean ones, ``(B, 3, T, H, W)``."""
        raw = adversarial.clips[0].numel() * adversarial.clips.element_size()
        keys = ("attacked", "trace", "forwards", "backwards")
        columns = zip(
            adversarial.attacked, adversarial.traces, adversarial.forwards, adversarial.backwards, strict=True
        )
        bodies = [{**dict(zip(keys, row, strict=True)), "seconds": adversarial.seconds, "raw": raw} for row in columns]
        return cls([encode(*pair) for pair in zip(clean, adversarial.clips, strict=True)], bodies)

    def decoded(self, clean: Tensor) -> Adversarial:
        """The clips, on the CPU.

        Args:
            clean: the clean clips, ``(B, 3, T, H, W)``.

        Raises:
            LostClips: one is torn, or was made of another clean clip.
        """
        try:
            clips = torch.stack(
                [
                    content if isinstance(content, Tensor) else decode(content, before)
                    for content, before in zip(self.contents, clean, strict=True)
                ]
            )
        except (Unreadable, RuntimeError) as error:  # or a whole file of other clips
            raise LostClips from error
        bodies = self.bodies
        return Adversarial(
            clips=clips,
            attacked=[b["attacked"] for b in bodies],
            traces=[b["trace"] for b in bodies],
            forwards=[b["forwards"] for b in bodies],
            backwards=[b["backwards"] for b in bodies],
            seconds=sum(b["seconds"] for b in bodies) / len(bodies),
        )

    def select(self, rows: Sequence[int]) -> Coded:
        """Some of them."""
        return Coded([self.contents[i] for i in rows], [self.bodies[i] for i in rows])


@dataclass(frozen=True)
class Use:
    """A cell and the unit of adversarial clips that it judges, in words.

    Attributes:
        unit, cell: their ids.
        grid: name of the grid that was run.
        dataset, model, defense, attack, budget: labels, as tables print them; the data set's can be parsed.
        knowledge: what the attacker knows.
        shared: whether the unit's clips serve every defence.
    """

    unit: str
    cell: str
    grid: str
    dataset: str
    model: str
    defense: str
    attack: str
    budget: str
    knowledge: str
    shared: bool


@dataclass(frozen=True)
class Kept:
    """An adversarial clip of a unit that is stored: the file it is in, how many bytes it has there, and how many as
    values; 0 where an older version stored whole batches."""

    clip: str
    file: str
    coded: int
    raw: int


class LostClips(Exception):
    """Adversarial clips were stored, and their file is gone or torn, or the clean clips are others now: they have to be
    made again."""


class Store:
    """The working state of all runs under one results folder.

    Args:
        folder: made if absent; holds ``outcomes.sqlite``, ``bank/`` and, from older versions, ``clips/``.
        writable: if not, nothing is made or changed there, and what is absent is empty.
        patience: seconds to wait for another process that writes.

    Raises:
        MachineFault: the folder cannot be written, the file in it is no store, the disk is full, or another process
            holds the store for too long. So do all methods.

    Attributes:
        computed_by: says who has just computed the outcomes that are added; nobody is known if it is not set.
    """

    def __init__(self, folder: Path, *, writable: bool = True, patience: float = 60.0) -> None:
        self.folder, self._patience = folder, patience
        self.computed_by: Callable[[], Provenance | None] = lambda: None
        self.bank = Bank(folder / "bank")
        with self._told("open"):
            if writable:
                folder.mkdir(parents=True, exist_ok=True)
                self._db = sqlite3.connect(folder / "outcomes.sqlite", timeout=patience)
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.executescript(_SCHEMA + _later(_LATER, "") + _OF_FILES)
            else:
                self._db = self._to_read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    def _to_read(self) -> sqlite3.Connection:
        """A connection that leaves no trace in the folder."""
        file = self.folder / "outcomes.sqlite"
        if file.is_file():
            log = file.with_name(f"{file.name}-wal")
            # Without a log nobody writes, and SQLite need not make one to read.
            how = "mode=ro" if log.is_file() and log.stat().st_size else "immutable=1"
            db = sqlite3.connect(f"{file.resolve().as_uri()}?{how}", uri=True, timeout=self._patience)
            there = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if there >= _TABLES:
                db.execute("PRAGMA temp_store = MEMORY")
                db.executescript(_later(_LATER.keys() - there, "TEMP"))
                return db
            db.close()
        db = sqlite3.connect(":memory:")
        db.executescript(_SCHEMA + _later(_LATER, ""))
        return db

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Whatever goes wrong with the disk is told in one sentence."""
        try:
            yield
        except (OSError, sqlite3.Error, SafetensorError) as error:
            reason = machine_fault(error) or str(error)
            hint = "free some space or make it writable"
            if isinstance(error, sqlite3.OperationalError) and "locked" in reason:
                hint = f"another process has held it for {self._patience:g} s: wait for that one, or end it"
            elif isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
                hint = f"move {self.folder / 'outcomes.sqlite'} away, and what only it holds is measured again"
            raise MachineFault(
                f"Cannot {what} the store in {self.folder} ({reason}): {hint}. Nothing that was stored is lost; the "
                "same command goes on from there."
            ) from error

    def _rows(self, query: str, parameters: Sequence[Any] = ()) -> list[Any]:
        with self._told("read"):
            return self._db.execute(query, parameters).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """All of a block is stored, or none of it."""
        with self._told("write to"), self._db:
            yield self._db

    def batch_size(self, key: str, choose: Callable[[], int]) -> int:
        """The batch size once chosen for ``key``; later runs repeat it, so that they form the same batches.

        Args:
            choose: chooses it; 0 if it cannot be known now, which is one clip and is not remembered.
        """
        known = self._rows("SELECT size FROM batch_sizes WHERE key = ?", (key,))
        if known and isinstance(known[0][0], int) and known[0][0] > 0:
            return known[0][0]
        size = int(choose())
        if size < 1:
            return 1
        with self._writing() as db:
            # Of two processes that choose at once, the first one's choice stays.
            db.execute(
                "INSERT INTO batch_sizes VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET size = ?2 "
                "WHERE typeof(size) != 'integer' OR size < 1",
                (key, size),
            )
        return int(self._rows("SELECT size FROM batch_sizes WHERE key = ?", (key,))[0][0])

    def outcomes(self, cell: str) -> dict[str, Outcome]:
        """All outcomes of a cell that can be read, by clip id."""
        rows = self._rows("SELECT clip, body FROM outcomes WHERE cell = ?", (cell,))
        read = {clip: _outcome(body) for clip, body in rows}
        return {clip: outcome for clip, outcome in read.items() if outcome is not None and outcome.clip == clip}

    def done(self, cell: str) -> set[str]:
        """Clip ids with an outcome."""
        return set(self.outcomes(cell))

    def forget(self, cell: str, statuses: Iterable[str]) -> list[str]:
        """Removes the outcomes of some statuses, so that they are run again; returns the clip ids."""
        wanted = set(statuses)
        gone = [clip for clip, outcome in self.outcomes(cell).items() if outcome.status in wanted]
        with self._writing() as db:
            db.executemany("DELETE FROM outcomes WHERE cell = ? AND clip = ?", [(cell, clip) for clip in gone])
        return gone

    def add(self, cell: str, settings: str, outcomes: Sequence[Outcome]) -> None:
        """Stores the outcomes of a batch, all or none; ``settings`` is the cell's identity, as JSON."""
        with self._writing() as db:
            db.execute("INSERT OR IGNORE INTO cells VALUES (?, ?)", (cell, settings))
            db.executemany(
                "INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?)",
                [(cell, o.clip, o.status, o.model_dump_json()) for o in outcomes],
            )
            by = self.computed_by()
            if by is None:
                db.executemany("DELETE FROM provenance WHERE cell = ? AND clip = ?", [(cell, o.clip) for o in outcomes])
                return
            db.executemany(
                "INSERT OR REPLACE INTO provenance VALUES (?, ?, ?)",
                [(cell, o.clip, by.model_dump_json()) for o in outcomes],
            )

    def provenance(self, cell: str) -> dict[str, Provenance]:
        """By clip id, who computed an outcome of a cell, as far as that is known."""
        rows = self._rows("SELECT clip, body FROM provenance WHERE cell = ?", (cell,))
        read = {clip: _provenance(body) for clip, body in rows}
        return {clip: by for clip, by in read.items() if by is not None}

    def control(self, cell: str) -> Control | None:
        """The zero-budget control of a cell, if it was run."""
        stored = self._rows("SELECT body FROM controls WHERE cell = ?", (cell,))
        try:
            return Control.model_validate_json(stored[0][0]) if stored else None
        except ValidationError:  # torn
            return None

    def add_control(self, cell: str, control: Control) -> None:
        """Stores the control of a cell, in place of an earlier one."""
        with self._writing() as db:
            db.execute("INSERT OR REPLACE INTO controls VALUES (?, ?)", (cell, control.model_dump_json()))

    def clips_done(self, unit: str) -> set[str]:
        """Clip ids whose adversarial clip is stored and whose file is still there, or that failed."""
        rows = self._made(unit)
        present = {file: not file or self._is_there(file) for file, _ in rows.values()}
        return {clip for clip, (file, _) in rows.items() if present[file]}

    def clip_errors(self, unit: str) -> dict[str, Flaw]:
        """Clips of which no adversarial version could be made, and why."""
        return {
            clip: Flaw(body["status"], body["error"], body.get("traceback", ""))
            for clip, (file, body) in self._made(unit).items()
            if not file
        }

    def forget_clips(self, unit: str, clips: Iterable[str]) -> None:
        """Lets some adversarial clips of a unit be made again, and all that could not be made."""
        with self._writing() as db:
            db.execute("DELETE FROM clips WHERE unit = ? AND file = ''", (unit,))
            db.executemany("DELETE FROM clips WHERE unit = ? AND clip = ?", [(unit, clip) for clip in clips])

    def add_clip_error(self, unit: str, clip: str, flaw: Flaw) -> None:
        """Records that no adversarial version of a clip could be made."""
        with self._writing() as db:
            db.execute("INSERT OR REPLACE INTO clips VALUES (?, ?, '', ?)", (unit, clip, json.dumps(flaw._asdict())))

    def add_clips(self, unit: str, ids: Sequence[str], coded: Coded) -> None:
        """Stores adversarial clips: the files first, each whole, then the rows that name them."""
        rows = []
        with self._told("write to"):
            for clip, content, body in zip(ids, coded.contents, coded.bodies, strict=True):
                assert isinstance(content, bytes)  # only what older versions stored is not coded
                file = self.bank.put(content)
                rows.append((unit, clip, file, json.dumps({**body, "coded": len(content)})))
        with self._writing() as db:
            db.executemany("INSERT OR REPLACE INTO clips VALUES (?, ?, ?, ?)", rows)

    def load_clips(self, unit: str, ids: Sequence[str], clean: Tensor) -> Adversarial:
        """Adversarial clips of some ids, in that order; all must be stored without error.

        Args:
            clean: the clean clips, ``(B, 3, T, H, W)``.

        Raises:
            LostClips: a file is gone or torn, or was made of another clean clip.
        """
        return self.coded_clips(unit, ids).decoded(clean)

    def coded_clips(self, unit: str, ids: Sequence[str]) -> Coded:
        """The same, before they are decoded: for whoever has the clean clips.

        Raises:
            LostClips: a file is gone or torn.
        """
        made = self._made(unit)
        stored = [made[i] for i in ids if i in made]
        if len(stored) < len(ids):
            raise LostClips
        batches = {file: self._read(file) for file in {file for file, _ in stored if not file.endswith(ENDING)}}
        try:
            contents = [
                self._content(file) if file.endswith(ENDING) else batches[file][str(body["row"])]
                for file, body in stored
            ]
        except KeyError as error:  # a whole file of other clips
            raise LostClips from error
        return Coded(contents, [body for _, body in stored])

    def version(self) -> int:
        """A number that is another one once another process, or another connection, has written."""
        return int(self._rows("PRAGMA data_version")[0][0])

    def leases(self) -> list[tuple[Any, ...]]:
        """All leases as they are written: work, clip, owner, host, process, until when. See :mod:`bench.run.leases`."""
        return self._rows("SELECT work, clip, owner, host, pid, until FROM leases")

    @contextmanager
    def leasing(self) -> Iterator[sqlite3.Connection]:
        """Nobody else writes during a block; all of it is stored, or none."""
        with self._writing() as db:
            db.execute("BEGIN IMMEDIATE")
            yield db

    def another_connection(self) -> sqlite3.Connection:
        """A connection for another thread.

        Raises:
            sqlite3.Error: there is none to be had.
        """
        return sqlite3.connect(self.folder / "outcomes.sqlite", timeout=self._patience)

    def add_uses(self, uses: Iterable[Use]) -> None:
        """Writes down which cells judge the clips of which units, as far as that is not known yet."""
        known = set(self.uses())
        rows = [(use.unit, use.cell, json.dumps(asdict(use))) for use in uses if use not in known]
        if not rows:
            return
        with self._writing() as db:
            db.executemany("INSERT OR REPLACE INTO uses VALUES (?, ?, ?)", rows)

    def uses(self) -> list[Use]:
        """Which cells judge the clips of which units, as far as that can be read."""
        read = [_use_of(body) for (body,) in self._rows("SELECT body FROM uses ORDER BY rowid")]
        return [use for use in read if use is not None]

    def kept(self) -> dict[str, list[Kept]]:
        """The adversarial clips that are stored, by unit, whether or not their files are still there."""
        rows = self._rows("SELECT unit, clip, file, body FROM clips WHERE file != '' ORDER BY unit, clip")
        found: dict[str, list[Kept]] = {}
        for unit, clip, file, text in rows:
            body = _made_of(file, text) or {}
            found.setdefault(unit, []).append(Kept(clip, file, body.get("coded", 0), body.get("raw", 0)))
        return found

    def drop_clips(self, unit: str, clips: Iterable[str] | None = None) -> int:
        """Removes adversarial clips of a unit, and the files that no other clip shares; returns how many bytes that
        frees.

        Args:
            clips: their ids; all if not given.
        """
        wanted = None if clips is None else set(clips)
        rows = self._rows("SELECT clip, file FROM clips WHERE unit = ? AND file != ''", (unit,))
        gone = [(clip, file) for clip, file in rows if wanted is None or clip in wanted]
        with self._writing() as db:
            db.executemany("DELETE FROM clips WHERE unit = ? AND clip = ?", [(unit, clip) for clip, _ in gone])
        return sum(self._unnamed(file) for file in {file for _, file in gone})

    def path_of(self, file: str) -> Path:
        """Where a file lies that a clip is in."""
        return self.bank.path(file) if file.endswith(ENDING) else self.folder / "clips" / file

    def _unnamed(self, file: str) -> int:
        """Removes a file that no row names any more; returns how many bytes it had."""
        if self._rows("SELECT 1 FROM clips WHERE file = ? LIMIT 1", (file,)):
            return 0
        with self._told("remove clips from"):
            if file.endswith(ENDING):
                return self.bank.remove(file)
            path = self.path_of(file)
            size = path.stat().st_size if path.is_file() else 0
            path.unlink(missing_ok=True)
            return size

    def _made(self, unit: str) -> dict[str, tuple[str, dict[str, Any]]]:
        """By clip, the file of its adversarial version, empty if there is none, and what is known of it."""
        rows = self._rows("SELECT clip, file, body FROM clips WHERE unit = ?", (unit,))
        read = {clip: (file, _made_of(file, body)) for clip, file, body in rows}
        return {clip: (file, body) for clip, (file, body) in read.items() if body is not None}

    def _is_there(self, file: str) -> bool:
        path = self.path_of(file)
        return path.is_file() and path.stat().st_size > 0

    def _content(self, file: str) -> bytes:
        with self._told("read"):
            try:
                return self.bank.get(file)
            except Gone as error:
                raise LostClips from error

    def _read(self, file: str) -> dict[str, Tensor]:
        """A batch, as older versions stored them."""
        with self._told("read"):
            try:
                return load_file(self.folder / "clips" / file)
            except (FileNotFoundError, SafetensorError) as error:
                if machine_fault(error):
                    raise
                raise LostClips from error


_OF_CLIP = {"attacked", "trace", "forwards", "backwards", "seconds"}
_OF_FLAW = {"status", "error"}


def _outcome(body: Any) -> Outcome | None:
    """A stored outcome; nothing if it is torn."""
    try:
        return Outcome.model_validate_json(body)
    except ValidationError:
        return None


def _provenance(body: Any) -> Provenance | None:
    """Who computed an outcome; nothing if that is torn."""
    try:
        return Provenance.model_validate_json(body)
    except ValidationError:
        return None


def _use_of(body: Any) -> Use | None:
    """What was stored of a use; nothing if it is torn."""
    try:
        return Use(**json.loads(body))
    except (TypeError, ValueError):
        return None


def _made_of(file: str, body: Any) -> dict[str, Any] | None:
    """What was stored of an adversarial clip; nothing if it is torn."""
    try:
        read = json.loads(body)
    except (TypeError, ValueError):
        return None
    whole = isinstance(read, dict) and read.keys() >= (_OF_CLIP if file else _OF_FLAW)
    return read if whole else None
