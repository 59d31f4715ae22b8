"""Outcomes as they come, in SQLite; adversarial clips beside them.

Every batch is one transaction, and a clip file is complete before a row names it: a process killed at any
moment leaves whole batches and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.errors import BenchError
from bench.files import replacing
from bench.records.outcome import Control, Outcome, Status

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
"""


@dataclass
class Adversarial:
    """Adversarial clips of some batch and what they cost.

    Attributes:
        clips: ``(B, 3, T, H, W)``.
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


class Store:
    """The working state of all runs under one results folder.

    Args:
        folder: made if absent; holds ``outcomes.sqlite`` and ``clips/``.

    Raises:
        BenchError: the folder cannot be written, or the file in it is no store.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(folder / "outcomes.sqlite", timeout=60)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise BenchError(f"Cannot open the store in {folder}: {error}; is it writable?") from error

    def close(self) -> None:
        self._db.close()

    def batch_size(self, key: str, choose: Callable[[], int]) -> int:
        """The batch size once chosen for ``key``; later runs repeat it, so that they form the same batches."""
        row = self._db.execute("SELECT size FROM batch_sizes WHERE key = ?", (key,)).fetchone()
        if row:
            return int(row[0])
        size = int(choose())
        with self._db:
            self._db.execute("INSERT OR REPLACE INTO batch_sizes VALUES (?, ?)", (key, size))
        return size

    def outcomes(self, cell: str) -> dict[str, Outcome]:
        """All outcomes of a cell, by clip id."""
        rows = self._db.execute("SELECT clip, body FROM outcomes WHERE cell = ?", (cell,))
        return {clip: Outcome.model_validate_json(body) for clip, body in rows}

    def done(self, cell: str) -> set[str]:
        """Clip ids with an outcome."""
        return {r[0] for r in self._db.execute("SELECT clip FROM outcomes WHERE cell = ?", (cell,))}

    def forget(self, cell: str, statuses: Iterable[str]) -> list[str]:
        """Removes the outcomes of some statuses, so that they are run again; returns the clip ids."""
        gone: list[str] = []
        with self._db:
            for status in statuses:
                where = "WHERE cell = ? AND status = ?"
                gone += [r[0] for r in self._db.execute(f"SELECT clip FROM outcomes {where}", (cell, status))]
                self._db.execute(f"DELETE FROM outcomes {where}", (cell, status))
        return gone

    def add(self, cell: str, settings: str, outcomes: Sequence[Outcome]) -> None:
        """Stores the outcomes of a batch, all or none; ``settings`` is the cell's identity, as JSON."""
        with self._db:
            self._db.execute("INSERT OR IGNORE INTO cells VALUES (?, ?)", (cell, settings))
            self._db.executemany(
                "INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?)",
                [(cell, o.clip, o.status, o.model_dump_json()) for o in outcomes],
            )

    def control(self, cell: str) -> Control | None:
        """The zero-budget control of a cell, if it was run."""
        row = self._db.execute("SELECT body FROM controls WHERE cell = ?", (cell,)).fetchone()
        return Control.model_validate_json(row[0]) if row else None

    def add_control(self, cell: str, control: Control) -> None:
        """Stores the control of a cell, in place of an earlier one."""
        with self._db:
            self._db.execute("INSERT OR REPLACE INTO controls VALUES (?, ?)", (cell, control.model_dump_json()))

    def clips_done(self, unit: str) -> set[str]:
        """Clip ids whose adversarial clip is stored and whose file is still there, or that failed."""
        rows = self._db.execute("SELECT clip, file FROM clips WHERE unit = ?", (unit,)).fetchall()
        present = {file: not file or (self.folder / "clips" / file).is_file() for file in {f for _, f in rows}}
        return {clip for clip, file in rows if present[file]}

    def clip_errors(self, unit: str) -> dict[str, tuple[Status, str]]:
        """Clips of which no adversarial version could be made: status and reason."""
        rows = self._db.execute("SELECT clip, body FROM clips WHERE unit = ? AND file = ''", (unit,))
        bodies = {clip: json.loads(body) for clip, body in rows}
        return {clip: (body["status"], body["error"]) for clip, body in bodies.items()}

    def forget_clips(self, unit: str, clips: Iterable[str]) -> None:
        """Lets some adversarial clips of a unit be made again, and all that could not be made."""
        with self._db:
            self._db.execute("DELETE FROM clips WHERE unit = ? AND file = ''", (unit,))
            self._db.executemany("DELETE FROM clips WHERE unit = ? AND clip = ?", [(unit, clip) for clip in clips])

    def add_clip_error(self, unit: str, clip: str, status: Status, error: str) -> None:
        """Records that no adversarial version of a clip could be made."""
        body = json.dumps({"status": status, "error": error})
        with self._db:
            self._db.execute("INSERT OR REPLACE INTO clips VALUES (?, ?, '', ?)", (unit, clip, body))

    def add_clips(self, unit: str, ids: Sequence[str], adversarial: Adversarial) -> None:
        """Stores adversarial clips: the file first, whole, then the rows that name it."""
        name = hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]
        file = f"{unit}/{name}.safetensors"
        path = self.folder / "clips" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            save_file({str(i): adversarial.clips[i].cpu().contiguous() for i in range(len(ids))}, partial)
        columns = zip(
            ids, adversarial.attacked, adversarial.traces, adversarial.forwards, adversarial.backwards, strict=True
        )
        rows = []
        for i, (clip, attacked, trace, forwards, backwards) in enumerate(columns):
            body = {
                "row": i,
                "attacked": attacked,
                "trace": trace,
                "forwards": forwards,
                "backwards": backwards,
                "seconds": adversarial.seconds,
            }
            rows.append((unit, clip, file, json.dumps(body)))
        with self._db:
            self._db.executemany("INSERT OR REPLACE INTO clips VALUES (?, ?, ?, ?)", rows)

    def load_clips(self, unit: str, ids: Sequence[str]) -> Adversarial:
        """Adversarial clips of some ids, in that order; all must be stored without error."""
        places = ", ".join("?" * len(ids))
        rows = self._db.execute(
            f"SELECT clip, file, body FROM clips WHERE unit = ? AND clip IN ({places})",
            (unit, *ids),
        )
        stored = {clip: (file, json.loads(body)) for clip, file, body in rows}
        files = {file: load_file(self.folder / "clips" / file) for file in {stored[i][0] for i in ids}}
        bodies = [stored[i][1] for i in ids]
        return Adversarial(
            clips=torch.stack([files[stored[i][0]][str(stored[i][1]["row"])] for i in ids]),
            attacked=[b["attacked"] for b in bodies],
            traces=[b["trace"] for b in bodies],
            forwards=[b["forwards"] for b in bodies],
            backwards=[b["backwards"] for b in bodies],
            seconds=sum(b["seconds"] for b in bodies) / len(bodies),
        )
