"""Result files say who computed them, and a run claims nothing that it did not compute."""

from __future__ import annotations

import json
import platform
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from kit.cells import SOMEBODY
from kit.commands import Answer
from kit.running import exported

from bench.records.outcome import Outcome
from bench.records.provenance import Provenance, listed
from bench.run.store import Store

Write = Callable[..., Path]


def read(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.glob("*.json") if not p.name.startswith("_")}


def said(folder: Path, name: str) -> list[dict[str, Any] | None]:
    found: list[dict[str, Any] | None] = json.loads((folder / name).read_text())["provenance"]
    return found


def maker(**fields: str) -> tuple[Provenance, dict[str, Any]]:
    """Somebody who computes, and how files name them."""
    now = SOMEBODY.model_copy(update=fields)
    return now, now.model_dump()


def test_a_file_names_what_computed_it(gray_grid: Write, tmp_path: Path, bench: Callable[..., Answer]) -> None:
    arguments = ("run", "--grid", gray_grid(("length: 6", "length: 2")), "--attack", "noise", "--results", tmp_path)
    assert bench(*arguments).code == 0
    files = read(tmp_path / "gray")
    assert len(files) == 4
    for name in files:
        (by,) = said(tmp_path / "gray", name)
        assert by is not None
        assert (by["python"], by["machine"], by["device"]) == (platform.python_version(), platform.machine(), "cpu")
        assert (by["torch"], by["threads"]) == (torch.__version__.split("+")[0], torch.get_num_threads())
        assert by["bench"]
    record = json.loads((tmp_path / "gray" / "_run.json").read_text())
    assert not {"device", "machine", "threads", "python", "torch"} & record.keys()  # of which run's rows?


def test_a_run_of_one_row_more_leaves_the_files_of_all_others(gray_grid: Write, tmp_path: Path) -> None:
    by, first = maker(date="2025-01-01")
    exported(gray_grid(("length: 6", "length: 2")), tmp_path, control=0, by=by)
    before = read(tmp_path / "gray")
    by, second = maker(date="2026-01-01", device="NVIDIA H200 (139 GiB)")
    row_more = gray_grid(("length: 6", "length: 2"), ("kit.gray:Identity", "kit.gray:Lighten"))
    exported(row_more, tmp_path, control=0, by=by)
    after = read(tmp_path / "gray")
    assert {name: after[name] for name in before} == before
    assert {tuple((by or {})["date"] for by in said(tmp_path / "gray", name)) for name in before} == {(first["date"],)}
    new = after.keys() - before.keys()
    assert new
    assert all(said(tmp_path / "gray", name) == [second] for name in new)


def test_a_repetition_elsewhere_that_gives_the_same_has_no_claim(gray_grid: Write, tmp_path: Path) -> None:
    """As of somebody who has cloned the results without their store."""
    grid = gray_grid(("length: 6", "length: 2"))
    exported(grid, tmp_path, control=0, by=maker(date="2025-01-01")[0])
    before = read(tmp_path / "gray")
    (tmp_path / ".store").rename(tmp_path / "gone")
    exported(grid, tmp_path, control=0, by=maker(date="2026-01-01")[0])
    assert read(tmp_path / "gray") == before


def test_a_run_that_several_machines_have_done_names_them_all(gray_grid: Write, tmp_path: Path) -> None:
    grid = gray_grid(("length: 6", "length: 2"))
    by, first = maker(machine="arm64")
    exported(grid, tmp_path, control=0, by=by)
    with sqlite3.connect(tmp_path / ".store" / "outcomes.sqlite") as db:  # as where a run was stopped
        db.execute("DELETE FROM outcomes WHERE clip = 'gray/1'")
    by, second = maker(machine="x86_64")
    for path in (tmp_path / "gray").glob("*.json"):
        path.unlink()
    exported(grid, tmp_path, control=0, by=by)
    for name in read(tmp_path / "gray"):
        assert said(tmp_path / "gray", name) == [first, second]


def test_what_an_older_store_holds_has_no_known_maker(gray_grid: Write, tmp_path: Path) -> None:
    grid = gray_grid(("length: 6", "length: 2"))
    exported(grid, tmp_path, control=0)
    files = read(tmp_path / "gray")
    for name in files:
        (tmp_path / "gray" / name).unlink()
    with sqlite3.connect(tmp_path / ".store" / "outcomes.sqlite") as db:
        db.execute("DROP TABLE provenance")
    with Store(tmp_path / ".store", writable=False) as store:
        cells = store.uses()
        assert cells
        assert store.provenance(cells[0].cell) == {}
    exported(grid, tmp_path, control=0)
    assert {tuple(said(tmp_path / "gray", name)) for name in files} == {(None,)}


def test_an_outcome_that_is_computed_again_has_its_new_maker(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.computed_by = lambda: SOMEBODY
        store.add("cell", "{}", [Outcome(clip="a", label=0), Outcome(clip="b", label=1)])
        store.computed_by = lambda: None
        store.add("cell", "{}", [Outcome(clip="a", label=0)])
        assert store.provenance("cell") == {"b": SOMEBODY}


def test_makers_are_listed_once_and_by_day() -> None:
    later = SOMEBODY.model_copy(update={"date": "2025-03-01"})
    assert listed({later, None, SOMEBODY}) == [None, SOMEBODY, later]
