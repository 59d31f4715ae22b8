"""Who works on what, where several processes share one store.

A lease names a piece of work, a clip of it, and its owner. It lasts a while and is renewed as long as its owner runs;
that of a process which ended on this machine, and one that is out of date, count for nothing.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, Self

from bench.faults import MachineFault
from bench.files import here, runs
from bench.run.store import Store

# Seconds that a lease lasts, and after which it is renewed. Clocks of machines may differ by seconds.
_LASTS, _RENEWED = 120.0, 20.0

# Owners of this process that have ended: on a full disk they could not take their leases away.
_ENDED: set[Any] = set()


@dataclass(frozen=True)
class Holder:
    """A process that holds leases: on which machine, and its number there."""

    host: str
    pid: str


def holders(store: Store) -> list[tuple[str, Holder]]:
    """Who holds what: for every clip that is leased, the work it belongs to and the process that runs."""
    return [
        (work, Holder(str(host), str(pid)))
        for work, _, owner, host, pid, until in store.leases()
        if _counts(owner, host, pid, until)
    ]


def _counts(owner: Any, host: Any, pid: Any, until: Any) -> bool:
    """Whether a lease is in date, and its owner may run."""
    if owner in _ENDED or not isinstance(until, float) or until < time.time():
        return False
    return bool(host != here() or runs(str(pid)))


class Leases:
    """The leases of one run, on the works of a store.

    Args:
        lasts, renewed: seconds.
    """

    def __init__(self, store: Store, *, lasts: float = _LASTS, renewed: float = _RENEWED) -> None:
        self._store, self._lasts, self._renewed = store, lasts, renewed
        self.owner = uuid.uuid4().hex
        self._given_back: list[tuple[str, str]] = []
        self._ended = threading.Event()
        self._renewing = threading.Thread(target=self._renew, name="leases", daemon=True)

    def __enter__(self) -> Self:
        self._renewing.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._ended.set()
        self._renewing.join()
        _ENDED.add(self.owner)
        # Where the store itself has failed, this process ends, and then they count for nothing.
        with suppress(MachineFault), self._store.leasing() as db:
            db.execute("DELETE FROM leases WHERE owner = ?", (self.owner,))

    def held(self) -> set[tuple[str, str]]:
        """Works and clips that others hold."""
        return {(work, clip) for work, clip, *holder in self._store.leases() if self._counts(*holder)}

    def take(self, work: str, clips: Sequence[str]) -> bool:
        """Takes all clips of a piece of work, or none if somebody else holds one. What was given back is free then."""
        until = time.time() + self._lasts
        with self._store.leasing() as db:
            self._free(db)
            rows = db.execute("SELECT clip, owner, host, pid, until FROM leases WHERE work = ?", (work,)).fetchall()
            others = {clip for clip, *holder in rows if self._counts(*holder)}
            if others & set(clips):
                return False
            db.executemany(
                "INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?, ?, ?)",
                [(work, clip, self.owner, here(), os.getpid(), until) for clip in clips],
            )
        return True

    def give_back(self, work: str, clips: Iterable[str]) -> None:
        """Gives clips back, whose results are stored: with the next that are taken, or by :meth:`flush`."""
        self._given_back += [(work, clip) for clip in clips]

    def flush(self) -> None:
        """Lets others see what was given back."""
        if self._given_back:
            with self._store.leasing() as db:
                self._free(db)

    def _free(self, db: sqlite3.Connection) -> None:
        rows = [(work, clip, self.owner) for work, clip in self._given_back]
        db.executemany("DELETE FROM leases WHERE work = ? AND clip = ? AND owner = ?", rows)
        self._given_back.clear()

    def _counts(self, owner: Any, host: Any, pid: Any, until: Any) -> bool:
        """Whether a lease is somebody else's, in date, and its owner may run."""
        return owner != self.owner and _counts(owner, host, pid, until)

    def _renew(self) -> None:
        """Renews all leases every now and then, in a thread of its own: a batch may take hours."""
        while not self._ended.wait(self._renewed):
            # A store that is full or held for long is told by who writes outcomes; here it is tried again.
            with suppress(sqlite3.Error), closing(self._store.another_connection()) as db, db:
                db.execute("UPDATE leases SET until = ? WHERE owner = ?", (time.time() + self._lasts, self.owner))
