"""What runs keep of adversarial clips: which, for whom, and that it is what was judged."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit.running import run
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench import BenchError
from bench.files import here
from bench.grids.grid import read_grid
from bench.plan.cells import Plan
from bench.plan.expand import make_plan
from bench.run.engine import LocalEngine
from bench.run.export import export
from bench.run.kept import chosen, dataset_of, estimate, holdings, pair, waste, write_clips
from bench.run.runner import Runner
from bench.run.store import LostClips, Store

Write = Callable[..., Path]
CPU = torch.device("cpu")
ALL = "[clean, noise, PGD, PGD+BPDA, PGD+exact]"


class Watching(LocalEngine):
    """Remembers every clip that is judged, by cell and clip."""

    def __init__(self) -> None:
        super().__init__(CPU)
        self.judged: dict[tuple[str, str], Tensor] = {}

    def judge(self, cell: Any, refs: Any, clips: Any, adversarial: Any) -> Any:
        if adversarial is not None:
            self.judged |= {(cell.id, ref.id): clip for ref, clip in zip(refs, adversarial.clips, strict=True)}
        return super().judge(cell, refs, clips, adversarial)


def measured(grid: Path, folder: Path, **options: Any) -> tuple[Plan, Watching]:
    """Runs a grid into a results folder."""
    plan, engine = make_plan(read_grid(grid)), Watching()
    with Store(folder / ".store") as store:
        Runner(plan, store, engine, **{"control": 0, "batch_size": 4, **options}).run()
        export(plan, store, folder)
    return plan, engine


def files(folder: Path) -> set[Path]:
    return {p for p in (folder / ".store" / "bank").rglob("*") if p.is_file()}


def test_every_clip_that_was_judged_is_kept_as_it_was(gray_grid: Write, tmp_path: Path) -> None:
    plan, engine = measured(gray_grid(), tmp_path)
    attacked = [cell for cell in plan.cells if cell.unit]
    assert len(engine.judged) == len(attacked) * 6
    with Store(tmp_path / ".store", writable=False) as store:
        for (cell, clip), judged in engine.judged.items():
            dataset = dataset_of(next(use.dataset for use in store.uses() if use.cell == cell))
            clean, adversarial = pair(store, dataset, cell, clip)
            assert torch.equal(clean, plan.dataset.load(next(r for r in plan.refs if r.id == clip)))
            assert torch.equal(adversarial.view(torch.int32), judged.view(torch.int32))
        for cell, clip in ((plan.cells[0].id, "gray/0"), (attacked[0].id, "gray/6"), ("none", "gray/0")):
            with pytest.raises(BenchError, match="--keep all"):
                pair(store, plan.dataset, cell, clip)


@pytest.mark.parametrize(("keep", "units"), [("all", 4), ("shared", 2), ("none", 0)])
def test_what_is_kept_is_what_was_asked_for(keep: Any, units: int, gray_grid: Write, tmp_path: Path) -> None:
    """Two shared units, of noise and PGD, and one for each of two adaptive attacks on the one defence."""
    plan, _ = measured(gray_grid(), tmp_path, keep=keep)
    assert len(plan.units) == 4
    with Store(tmp_path / ".store", writable=False) as store:
        found = holdings(store)
        assert len(found) == units
        assert all(len(holding.clips) == 6 for holding in found)
        assert sum(holding.shared for holding in found) == min(units, 2)
        on_disk = {kept.file for holding in found for kept in holding.clips}
    assert {path.name for path in files(tmp_path)} == on_disk
    assert bool(on_disk) == bool(units)
    # Nothing is left to do, and nothing is made again or written.
    _, again = measured(gray_grid(), tmp_path, keep=keep)
    assert not again.judged


def test_the_choice_changes_no_outcome(gray_grid: Write, tmp_path: Path) -> None:
    found = {keep: run(gray_grid(), tmp_path / keep, keep=keep) for keep in ("all", "shared", "none")}
    plain = [
        {key: [o.model_dump(exclude={"seconds"}) for o in cell.outcomes] for key, cell in cells.items()}
        for cells in found.values()
    ]
    assert plain[0] == plain[1] == plain[2]
    with pytest.raises(BenchError, match="--keep must be all, shared or none"):
        run(gray_grid(), tmp_path / "s", keep="some")


def test_clips_that_broke_the_rules_are_kept_too(gray_grid: Write, tmp_path: Path) -> None:
    for how in ("budget", "range", "nan", "shape"):
        attacks = f"""[clean, {{attack: "kit.gray:Cheater(how='{how}')", gradient: exact}}]"""
        _, engine = measured(gray_grid((ALL, attacks)), tmp_path / how)
        assert len(engine.judged) == 12
        with Store(tmp_path / how / ".store", writable=False) as store:
            dataset = dataset_of(store.uses()[0].dataset)
            for (cell, clip), judged in engine.judged.items():
                _, kept = pair(store, dataset, cell, clip)
                assert kept.shape == judged.shape
                assert torch.equal(kept.nan_to_num(7.0), judged.nan_to_num(7.0))


def test_clips_of_other_clean_clips_are_made_again(gray_grid: Write, tmp_path: Path) -> None:
    plan, engine = measured(gray_grid(), tmp_path)
    unit = next(unit for unit in plan.units if unit.shared)
    clean = torch.stack([plan.dataset.load(ref) for ref in plan.refs])
    ids = [ref.id for ref in plan.refs]
    with Store(tmp_path / ".store") as store:
        assert torch.equal(store.load_clips(unit.id, ids, clean).clips[2], engine.judged[_cell(plan, unit), "gray/2"])
        with pytest.raises(LostClips):
            store.load_clips(unit.id, ids, clean + 0.001)
        with pytest.raises(LostClips):
            store.load_clips(unit.id, [*ids, "gray/6"], clean)


def _cell(plan: Plan, unit: Any) -> str:
    return next(cell.id for cell in plan.cells if cell.unit and cell.unit.id == unit.id)


def test_batches_of_an_older_version_are_read(gray_grid: Write, tmp_path: Path) -> None:
    """A file of safetensors for each batch below ``clips/``, named in rows that say where in it a clip is."""
    plan = make_plan(read_grid(gray_grid()))
    unit = next(unit for unit in plan.units if unit.shared)
    values = torch.rand(3, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    Store(tmp_path).close()
    (tmp_path / "clips" / unit.id).mkdir(parents=True)
    save_file({str(i): values[i] for i in range(3)}, tmp_path / "clips" / unit.id / "abc.safetensors")
    body = {"attacked": True, "trace": [0.5], "forwards": 4, "backwards": 3, "seconds": 0.5}
    with sqlite3.connect(tmp_path / "outcomes.sqlite") as db:
        db.execute("DROP TABLE uses")
        db.execute("DROP TABLE provenance")
        rows = [(unit.id, f"gray/{i}", f"{unit.id}/abc.safetensors", json.dumps({"row": i, **body})) for i in range(3)]
        db.executemany("INSERT INTO clips VALUES (?, ?, ?, ?)", rows)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    with Store(tmp_path, writable=False) as store:
        assert store.clips_done(unit.id) == {"gray/0", "gray/1", "gray/2"}
        found = store.load_clips(unit.id, ["gray/2", "gray/0"], torch.zeros(2, 3, 4, 8, 8))
        assert torch.equal(found.clips, values[[2, 0]])
        assert (found.traces, found.forwards, found.backwards) == ([[0.5]] * 2, [4] * 2, [3] * 2)
        (holding,) = holdings(store)
        assert holding.coded == (tmp_path / "clips" / unit.id / "abc.safetensors").stat().st_size
        assert (holding.uses, holding.shared) == ([], True)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
    with Store(tmp_path) as store:  # the file goes with the last clip in it
        assert store.drop_clips(unit.id, ["gray/0", "gray/1"]) == 0
        assert store.drop_clips(unit.id) > 0
    assert not list(tmp_path.rglob("*.safetensors"))


def test_nothing_goes_while_the_result_files_judge_it(gray_grid: Write, tmp_path: Path) -> None:
    measured(gray_grid(), tmp_path)
    with Store(tmp_path / ".store") as store:
        assert waste(store, tmp_path, now=time.time() + 1e6) == []
        assert waste(store, tmp_path / "nowhere", now=time.time() + 1e6) == []  # a run that has not ended


def test_what_no_result_file_judges_goes(gray_grid: Write, tmp_path: Path) -> None:
    measured(gray_grid(), tmp_path)
    for path in (tmp_path / "gray").glob("*.json"):
        path.unlink()
    plan, _ = measured(gray_grid(("size: 0.15", "size: 0.12")), tmp_path)
    old = time.time() - 5 * 86400
    with Store(tmp_path / ".store") as store:
        stale = [holding for holding in holdings(store) if not {u.id for u in plan.units} & {holding.unit}]
        assert len(stale) == 4
        # Of clips that are younger than the result files nobody knows yet who will judge them.
        for path in (tmp_path / "gray").glob("*.json"):
            os.utime(path, (old, old))
        assert waste(store, tmp_path) == []
        for path in files(tmp_path):
            os.utime(path, (old - 60, old - 60))
        found = waste(store, tmp_path)
        assert {one.what.split()[4] for one in found} == {holding.unit for holding in stale}
        assert len(waste(store, tmp_path, keep_shared=True)) == 2
        assert len(waste(store, tmp_path, older_than=4)) == 4
        assert waste(store, tmp_path, older_than=6) == []
        room = sum(path.stat().st_size for path in files(tmp_path))
        freed = sum(one.remove() for one in found)
        assert freed == room - sum(path.stat().st_size for path in files(tmp_path)) > 0
        assert {holding.unit for holding in holdings(store)} == {unit.id for unit in plan.units}
        ids = [ref.id for ref in plan.refs]
        clean = torch.stack([plan.dataset.load(ref) for ref in plan.refs])
        for unit in plan.units:  # of files that two units share, none is gone
            store.load_clips(unit.id, ids, clean)


def test_what_nothing_names_goes_once_nobody_can_be_about_to_name_it(gray_grid: Write, tmp_path: Path) -> None:
    measured(gray_grid(), tmp_path)
    with Store(tmp_path / ".store") as store:
        name = store.bank.put(b"of a run that was killed before it wrote the row")
        part = store.bank.path(name).with_name(f"x.adv.{here()}-{2**22 + 1}.part")
        part.write_bytes(b"of one that was killed before")
        assert waste(store, tmp_path) == []
        found = waste(store, tmp_path, now=time.time() + 3600)
        assert sorted(one.bytes for one in found) == [29, 48]
        assert sum(one.remove() for one in found) == 77
        assert waste(store, tmp_path, now=time.time() + 3600) == []
        assert len(holdings(store)) == 4


def test_room_is_estimated_by_units_and_norms(gray_grid: Write) -> None:
    """Six clips of 768 values of 4 bytes; four units, of which two are shared; linf leaves about a quarter."""
    plan = make_plan(read_grid(gray_grid()))
    clip = plan.dataset.load(plan.refs[0])
    assert clip.numel() == 768
    found = {keep: estimate(plan, keep, clip) for keep in ("all", "shared", "none")}  # type: ignore[arg-type]
    assert found == {"all": 6 * 768 * 4, "shared": 6 * 768 * 2, "none": 0}
    assert estimate(plan, "all", None) == 0


def test_units_are_chosen_by_their_id_and_labels(gray_grid: Write, tmp_path: Path) -> None:
    plan, _ = measured(gray_grid(), tmp_path)
    with Store(tmp_path / ".store", writable=False) as store:
        assert len(chosen(store, ["gray"])) == 4
        assert len(chosen(store, ["PGD"])) == 1
        assert [h.labels("defense") for h in chosen(store, ["pgd+exact", "KIT.gray:Identity"])] == [
            ["kit.gray:Identity"]
        ]
        assert [h.shared for h in chosen(store, ["PGD+exact", "none"])] == [True]  # there the defence changes nothing
        assert [h.unit for h in chosen(store, [plan.units[0].id[:6]])] == [plan.units[0].id]
        for words in (["PGD", "noise"], [plan.units[0].id[:3]]):
            with pytest.raises(BenchError, match="No kept clips answer to"):
                chosen(store, words)


def test_clips_are_written_as_values_and_as_pictures(gray_grid: Write, tmp_path: Path) -> None:
    plan, engine = measured(gray_grid(), tmp_path)
    with Store(tmp_path / ".store", writable=False) as store:
        (wanted,) = chosen(store, ["PGD"])
        (path,) = write_clips(store, [wanted], tmp_path / "out", clips=["gray/1"])
        judged = engine.judged[wanted.uses[0].cell, "gray/1"]
        written = load_file(path)
        assert path == tmp_path / "out" / wanted.unit / "gray_1.safetensors"
        assert torch.equal(written["adversarial"], judged)
        assert torch.equal(written["clean"], plan.dataset.load(plan.refs[1]))
        assert len(list(write_clips(store, [wanted], tmp_path / "png", pictures=True))) == 6
        frame = np.asarray(Image.open(tmp_path / "png" / wanted.unit / "gray_1" / "adversarial" / "3.png"))
        assert np.array_equal(frame, np.rint(judged[:, 3].numpy().transpose(1, 2, 0) * 255))
        with pytest.raises(BenchError, match="No adversarial clip 'gray/9'"):
            list(write_clips(store, [wanted], tmp_path / "out", clips=["gray/9"]))
        store.path_of(wanted.clips[0].file).unlink()
        with pytest.raises(BenchError, match="its file is gone or torn"):
            list(write_clips(store, [wanted], tmp_path / "out"))
