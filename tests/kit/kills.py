"""Ends a process abruptly at a chosen touch of the disk, many times, cheaply: each time in a fork of one that has
imported and looked up everything.

Run as ``python -m kit.kills FOLDER PART PARTS COMMAND...``, where a command is the arguments of ``bench`` as JSON and
``{}`` in it stands for a folder. The commands are first run undisturbed in ``FOLDER/whole``; then, for every touch that
they make, or each of ``PARTS`` from the ``PART``-th on, in a folder of their own: killed at it, and again to their end.
Prints what differs, as JSON.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

KILLED = 86


class Touches:
    """Counts what this process does to the disk under a folder, and ends it at a chosen one."""

    def __init__(self, folder: Path, last: int | None) -> None:
        self.folder, self.last = str(folder), last
        self.count = 0
        self.names: list[str] = []
        sys.addaudithook(self._hook)
        connect = sqlite3.connect

        def watched(*arguments: Any, **options: Any) -> sqlite3.Connection:
            made = connect(*arguments, **options)
            made.set_trace_callback(lambda statement: self._touch(statement) if statement == "COMMIT" else None)
            return made

        sqlite3.connect = watched  # type: ignore[assignment]

    def _touch(self, name: str, torn: str | None = None) -> None:
        if self.last is not None and self.count >= self.last:
            if torn is not None:  # as if killed after the first bytes were written
                self.last = None
                Path(torn).write_text('{"')
            os._exit(KILLED)
        self.count += 1
        self.names.append(name)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | os.PathLike):
            writes = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))
            changed = [arguments[0]] if writes else []
        elif event in ("os.rename", "os.remove", "os.mkdir", "os.truncate"):
            changed = [arguments[0]]
        else:
            changed = []
        for path in changed:
            if str(path).startswith(self.folder):
                self._touch(f"{event} {Path(path).relative_to(self.folder)}", str(path) if event == "open" else None)


def forked(work: Callable[[], None]) -> int:
    """Runs something in a fork of this process; its exit code."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    code = 1
    try:
        work()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:  # noqa: BLE001 - this process ends here
        traceback.print_exc()
    finally:
        os._exit(code)


def ask(folder: Path, texts: list[str]) -> None:
    """Runs commands of ``bench`` in this process."""
    from bench.cli.main import main

    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        for text in texts:
            try:
                main([argument.replace("{}", str(folder)) for argument in json.loads(text)])
            except SystemExit as stop:
                if stop.code:
                    raise


def commands(folder: Path, texts: list[str], last: int | None = None, note: Path | None = None) -> None:
    """Runs commands in this process, which is killed at a touch of the disk."""
    touches = Touches(folder, last)
    ask(folder, texts)
    if note is not None:
        note.write_text(json.dumps(touches.names))


def content(folder: Path) -> dict[str, str]:
    """What users see of a folder."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and ".store" not in p.parts)
    read = {str(p.relative_to(folder)): "" if p.name == "_run.json" else p.read_text("utf-8") for p in files}
    return {name: re.sub(r'"date": "[\d-]+"', "", text) for name, text in read.items()}  # one may last past midnight


def left_over(folder: Path) -> list[str]:
    return [str(p.relative_to(folder)) for p in folder.rglob("*.part")]


def main(arguments: list[str]) -> None:
    import torch

    torch.set_num_threads(1)  # threads do not survive a fork
    base, first, step, texts = Path(arguments[0]), int(arguments[1]), int(arguments[2]), arguments[3:]
    ask(base / "here", texts)
    whole = base / "whole"
    whole.mkdir()
    assert forked(lambda: commands(whole, texts, note=base / "touches.json")) == 0
    names, wanted, faults = json.loads((base / "touches.json").read_text()), content(whole), []
    tried = range(first, len(names), step)
    for at in tried:
        folder = base / str(at)
        folder.mkdir()
        killed = forked(lambda folder=folder, at=at: commands(folder, texts, last=at))  # type: ignore[misc]
        again = forked(lambda folder=folder: commands(folder, texts))  # type: ignore[misc]
        found = content(folder)
        if killed != KILLED or again != 0 or found != wanted or left_over(folder):
            other = sorted(k for k in {*found, *wanted} if found.get(k) != wanted.get(k))
            faults.append({"at": names[at], "killed": killed, "again": again, "other": other + left_over(folder)})
    print(json.dumps({"touches": names, "tried": len(tried), "faults": faults}))


if __name__ == "__main__":
    main(sys.argv[1:])
