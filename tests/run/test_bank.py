"""A bank holds each content once, whole or not at all."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.run.bank import Bank, Gone


def test_content_has_the_name_of_its_digest_and_lies_there_once(tmp_path: Path) -> None:
    bank = Bank(tmp_path / "bank")
    name = bank.put(b"a clip")
    assert name == f"{hashlib.sha256(b'a clip').hexdigest()}.adv"
    written = bank.path(name).stat().st_mtime_ns
    assert bank.put(b"a clip") == name
    assert bank.path(name).stat().st_mtime_ns == written
    other = bank.put(b"")
    assert sorted(bank.names()) == sorted([name, other])
    assert (bank.get(name), bank.get(other)) == (b"a clip", b"")
    assert len([p for p in tmp_path.rglob("*") if p.is_file()]) == 2


def test_what_is_torn_is_gone_and_put_again_is_whole(tmp_path: Path) -> None:
    bank = Bank(tmp_path)
    name = bank.put(b"a clip")
    for damage in (b"", b"a cli", b"a clap", b"another clip"):
        bank.path(name).write_bytes(damage)
        with pytest.raises(Gone):
            bank.get(name)
        assert bank.put(b"a clip") == name
        assert bank.get(name) == b"a clip"
    assert bank.remove(name) == 6
    assert bank.remove(name) == 0
    with pytest.raises(Gone):
        bank.get(name)


def test_a_disk_without_room_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    bank = Bank(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            bank.put(b"a clip")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    assert bank.get(bank.put(b"a clip")) == b"a clip"


def test_a_process_killed_while_it_writes_leaves_what_is_named(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from bench.run.bank import Bank\n"
        "bank = Bank(Path(sys.argv[1])); bank.put(b'whole'); write = Path.write_bytes\n"
        "Path.write_bytes = lambda path, content: (write(path, content[:3]), os.kill(os.getpid(), signal.SIGKILL))\n"
        "bank.put(b'never finished')"
    )
    killed = subprocess.run([sys.executable, "-c", script, os.fspath(tmp_path)], check=False)
    assert killed.returncode < 0
    bank = Bank(tmp_path)
    assert [bank.get(name) for name in bank.names()] == [b"whole"]
    (left,) = bank.remains()
    assert left.read_bytes() == b"nev"
    assert bank.get(bank.put(b"never finished")) == b"never finished"
    assert bank.remains() == []  # the next who writes that file removes it
