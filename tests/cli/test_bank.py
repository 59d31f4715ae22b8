"""``bench bank``, and what ``bench run`` keeps."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kit.commands import Answer
from safetensors.torch import load_file

from bench.cli.bank import in_bytes

Bench = Callable[..., Answer]


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (19_267_584, "19.3 MB"), (2.92e11, "292 GB")]
)
def test_sizes_are_read_at_a_glance(size: float, text: str) -> None:
    assert in_bytes(size) == text


def stored(folder: Path) -> list[Path]:
    return sorted((folder / ".store" / "bank").rglob("*.adv"))


def test_clips_are_listed_had_back_and_removed(results: Path, tmp_path: Path, bench: Bench) -> None:
    answer = bench("bank", "ls", "--results", results)
    assert answer.code == 0
    assert "24 clips of 4 units" in answer.out
    assert answer.out.count("(shared)") == 2
    assert answer.out.count("kit.gray:Lighten") == 2
    exact = bench("bank", "ls", "PGD+exact", "kit.gray:Lighten", "--results", results)
    assert "6 clips of 1 units" in exact.out

    answer = bench("bank", "export", "noise", "--clip", "gray/4", "--to", tmp_path / "out", "--results", results)
    assert (answer.code, "1 clips of 1 units are in" in answer.err) == (0, True)
    (written,) = (tmp_path / "out").rglob("*.safetensors")
    clips = load_file(written)
    assert 0.1 < float((clips["adversarial"] - clips["clean"]).abs().max()) <= 0.15 + 1e-6
    assert bench("bank", "export", "noise", "--png", "--to", tmp_path / "png", "--results", results).code == 0
    assert len(list((tmp_path / "png").rglob("*.png"))) == 6 * 2 * 4

    before = stored(results)
    answer = bench("bank", "prune", "PGD+exact", "kit.gray:Lighten", "--dry-run", "--results", results)
    assert "would remove 6 clips of unit" in answer.out
    assert "would be free" in answer.out
    assert stored(results) == before
    assert bench("bank", "prune", "kit.gray:Lighten", "--keep-shared", "--results", results).code == 0
    assert "12 clips of 2 units" in bench("bank", "ls", "--results", results).out
    assert len(stored(results)) < len(before)
    old = time.time() - 3 * 86400
    for path in stored(results):
        os.utime(path, (old, old))
    assert "0 B are free" in bench("bank", "prune", "gray", "--older-than", 4, "--results", results).out
    assert "removed 6 clips" in bench("bank", "prune", "gray", "--older-than", 2, "--results", results).out
    assert stored(results) == []
    assert "No adversarial clips are kept" in bench("bank", "ls", "--results", results).out


def test_the_command_line_says_what_is_kept(gray_grid: Callable[..., Path], tmp_path: Path, bench: Bench) -> None:
    for keep, kept in (("all", True), ("shared", True), ("none", False)):
        folder = tmp_path / keep
        assert bench("run", "--grid", gray_grid(), "--control", 0, "--keep", keep, "--results", folder).code == 0
        assert bool(stored(folder)) == kept
    assert len(stored(tmp_path / "shared")) < len(stored(tmp_path / "all"))
    planned = bench("run", "--grid", gray_grid(), "--keep", "shared", "--dry-run", "--results", tmp_path / "dry")
    assert "Adversarial clips that stay (--keep shared): about 9.22 kB." in planned.out
    answer = bench("run", "--grid", gray_grid(), "--keep", "some", "--results", tmp_path / "some")
    assert (answer.code, answer.err) == (2, "Error: --keep must be all, shared or none, not 'some'.\n")


def test_bad_requests_are_one_sentence(results: Path, tmp_path: Path, bench: Bench) -> None:
    nowhere = tmp_path / "nowhere"
    for arguments, says in (
        (("prune", "--results", nowhere), "There is no store in"),
        (("prune", "nothing", "--results", results), "No kept clips answer to 'nothing'"),
        (("export", "PGD", "--to", tmp_path, "--results", nowhere), "No kept clips answer to 'PGD'"),
        (("export", "PGD", "--to", tmp_path, "--clip", "x", "--results", results), "No adversarial clip 'x' is kept"),
        (("export", "noise", "--to", results / "gray" / "_run.json", "--results", results), "Cannot write to"),
    ):
        answer = bench("bank", *arguments)
        assert answer.code == 2
        assert says in answer.err
        assert "Traceback" not in answer.err
    assert not nowhere.exists()
    assert bench("bank", "ls", "--results", nowhere).code == 0
    assert not nowhere.exists()
