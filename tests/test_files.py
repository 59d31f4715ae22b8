"""Files are the old or the new one, whatever happens while they are written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.files import here, replacing, slug, write_whole


def test_what_is_written_takes_the_place_of_the_old_file_at_the_end(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_whole(file, "old")
    with replacing(file) as partial:
        partial.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_whole(file, "old")
    with pytest.raises(KeyboardInterrupt):
        _stopped_halfway(file)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def _stopped_halfway(file: Path) -> None:
    with replacing(file) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt


def test_what_a_killed_process_left_is_removed_and_what_a_running_one_writes_is_not(tmp_path: Path) -> None:
    file = tmp_path / "a[1].json"  # brackets are a pattern in a search for files
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead, alive = (tmp_path / f"a[1].json.{here()}-{process}.part" for process in (ended.pid, os.getppid()))
    other = tmp_path / f"b.json.{here()}-{ended.pid}.part"
    elsewhere = tmp_path / f"a[1].json.00000000-{ended.pid}.part"  # that number means nothing here
    for left in (dead, alive, other, elsewhere):
        left.write_text("half")
    write_whole(file, "new")
    assert sorted(tmp_path.iterdir()) == sorted([file, alive, other, elsewhere])


def test_two_processes_write_to_places_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    code = "from bench.files import replacing; from pathlib import Path; import sys\n"
    code += "with replacing(Path(sys.argv[1])) as p: p.write_text('theirs'); print(p.name)"
    with replacing(file) as mine:
        mine.write_text("mine")
        theirs = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
        assert theirs.stdout.strip() != mine.name
        assert mine.read_text() == "mine"
    assert file.read_text() == "mine"


def test_a_slug_holds_what_every_file_system_takes() -> None:
    assert slug('PGD+BPDA (l∞ <8/255>): "a"\n') == "PGD+BPDA_l_8_255_a"
