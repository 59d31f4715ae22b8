"""What tells two copies of a data set apart of which its author said nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from kit.own import LEVELS, Numbered, Stills, write_stills

from bench import ClipRef, Missing
from bench.registry import DATASETS


@pytest.mark.parametrize("kind", [Stills, Numbered])
def test_sizes_and_times_of_the_files_are_the_fingerprint(tmp_path: Path, kind: type[Stills]) -> None:
    root = write_stills(tmp_path / "data")
    first = kind(root).fingerprint()
    assert first
    assert kind(str(root)).fingerprint() == first

    status = (root / "dark.png").stat()
    write_stills(root, {"dark": 99})
    os.utime(root / "dark.png", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert (root / "dark.png").stat().st_size == status.st_size
    assert kind(root).fingerprint() != first  # another time
    write_stills(root, {"dark": LEVELS["dark"]})
    os.utime(root / "dark.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert kind(root).fingerprint() == first  # put back
    with (root / "dark.png").open("ab") as file:
        file.write(b"x")
    os.utime(root / "dark.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert kind(root).fingerprint() != first  # another size


def test_a_folder_that_is_moved_is_the_same_data(tmp_path: Path) -> None:
    root = write_stills(tmp_path / "data")
    first = Numbered(root).fingerprint()
    root.rename(tmp_path / "other")
    assert Numbered(tmp_path / "other").fingerprint() == first
    (tmp_path / "link").symlink_to(tmp_path / "other")
    assert Numbered(tmp_path / "link").fingerprint() == first


def test_only_the_files_of_the_clips_count(tmp_path: Path) -> None:
    root = write_stills(tmp_path / "data")
    first = Stills(root).fingerprint(), Numbered(root).fingerprint()
    # What a run writes, and what systems leave behind, is no data, wherever it lies.
    (root / "results" / ".store").mkdir(parents=True)
    (root / "results" / "demo").mkdir()
    (root / "results" / "demo" / "cell.json").write_text("{}")
    (root / "._dark.png").write_text("x")
    (root / ".DS_Store").write_text("x")
    os.mkfifo(root / "pipe")
    assert (Stills(root).fingerprint(), Numbered(root).fingerprint()) == first
    (root / "notes.txt").write_text("x")
    assert Stills(root).fingerprint() == first[0]
    assert Numbered(root).fingerprint() != first[1]  # it might be anything


def test_clips_that_are_folders(tmp_path: Path) -> None:
    class Folders(Stills):
        def refs(self) -> list[ClipRef]:
            return [ClipRef("a", 0), ClipRef("b", 1), ClipRef("nul\0", 2)]

    for name in ("a", "b", "c"):
        write_stills(tmp_path / name)
    first = Folders(tmp_path).fingerprint()
    write_stills(tmp_path / "c", {"more": 3})
    assert Folders(tmp_path).fingerprint() == first
    write_stills(tmp_path / "b", {"more": 3})
    assert Folders(tmp_path).fingerprint() != first


def test_nothing_on_disk_has_no_fingerprint(tmp_path: Path) -> None:
    class Absent(Stills):
        def missing(self) -> list[Missing]:
            return [Missing("files", "nowhere", "none", self.root)]

        def refs(self) -> list[ClipRef]:
            raise AssertionError("asked for the clips of a data set that is not there")

    assert Absent(tmp_path).fingerprint() == ""
    assert Stills(tmp_path / "nowhere").fingerprint() == ""
    assert DATASETS.create("actions12").fingerprint() == ""
