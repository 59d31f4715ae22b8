"""Plans: rows that are always there, reasons, identities of cells, and costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from kit.running import run_plan

from bench import BenchError
from bench.grids.grid import override, read_grid
from bench.plan.expand import make_plan
from bench.records.identity import CellIdentity

Write = Callable[..., Path]
ALL = "[clean, noise, PGD, PGD+BPDA, PGD+exact]"


def test_an_impossible_gradient_is_left_out_with_its_reason(gray_grid: Write) -> None:
    plan = make_plan(read_grid(gray_grid(('"kit.gray:Identity"', "jpeg, kit.gray:Doubled"))))
    assert {(s.defense, s.attack) for s in plan.skipped} == {("jpeg", "PGD+exact")}
    assert all("exact" in s.reason for s in plan.skipped)
    assert {s.kind for s in plan.skipped} == {"gradient"}


def test_bpda_of_a_network_is_its_exact_gradient_and_made_once(gray_grid: Write) -> None:
    """A robust model with the column PGD+BPDA has an adaptive attack there, not a gap that reads as 100 %."""
    plan = make_plan(read_grid(gray_grid(('"kit.gray:Identity"', "kit.gray:Doubled"))))
    units = {c.attack_label: c.unit for c in plan.cells if c.defense.label == "kit.gray:Doubled" and c.unit}
    assert units["PGD+BPDA"] is not None
    assert units["PGD+BPDA"].gradient == "exact"
    assert units["PGD+BPDA"].id == units["PGD+exact"].id


def test_the_undefended_row_is_always_there(gray_grid: Write) -> None:
    plan = make_plan(read_grid(gray_grid(("[none, ", "["))))
    assert {c.defense.label for c in plan.cells} == {"none", "kit.gray:Identity"}


def test_cell_ids_ignore_written_defaults_and_see_everything_else(gray_grid: Write) -> None:
    def ids(*replacements: tuple[str, str]) -> list[str]:
        return [c.id for c in make_plan(read_grid(gray_grid(*replacements))).cells]

    base = ids(('"kit.gray:Identity"', "jpeg"))
    assert ids(('"kit.gray:Identity"', "jpeg(quality=75)"), ("steps: 4", "steps: 4, restarts: 1")) == base
    assert set(ids(('"kit.gray:Identity"', "jpeg(quality=74)"))) & set(base) == set(ids()) & set(base)
    seeds = make_plan(read_grid(gray_grid(("title: Gray clips", "seed: 1")))).cells
    assert not {c.id for c in seeds} & set(base)
    assert len(set(base)) == len(base)


def test_the_cost_of_a_plan_is_an_upper_bound_that_a_full_run_reaches(gray_grid: Write, tmp_path: Path) -> None:
    """With clips that never break, every pass that the plan announces is made but the checks of last iterates,
    which only clips for transfer need."""
    plan = make_plan(read_grid(gray_grid(("size: 0.15", "size: 0.01"))))
    forwards, backwards = plan.cost()
    results = run_plan(plan, tmp_path / "s")
    made: dict[str, tuple[int, int]] = {}
    for cell, result in zip(plan.cells, results, strict=True):
        if cell.unit:
            made[cell.unit.id] = (
                sum(o.forwards for o in result.outcomes),
                sum(o.backwards for o in result.outcomes),
            )
    judged = sum(len(r.outcomes) for r in results)
    assert sum(f for f, _ in made.values()) + judged == forwards - 2 * 6
    assert sum(b for _, b in made.values()) == backwards
    # 3 units of PGD (shared gray-box, bpda, exact) x 6 clips x 4 steps.
    assert backwards == 3 * 6 * 4


def test_cell_ids_see_the_code_of_the_classifier_and_the_weights_of_a_defence(gray_grid: Write) -> None:
    def cells(*replacements: tuple[str, str]) -> dict[str, CellIdentity]:
        made = make_plan(read_grid(gray_grid(*replacements))).cells
        return {c.defense.label: c.identity for c in made if c.knowledge == "clean"}

    plain = cells()
    assert len(plain["none"].model.code) == 12
    assert not plain["kit.gray:Identity"].defense.weights
    weights = {
        by: cells(("kit.gray:Identity", f"kit.gray:Offset(by={by})"))[f"kit.gray:Offset(by={by})"].defense.weights
        for by in (0.1, 0.2)
    }
    assert weights[0.1] != weights[0.2]


def test_cell_ids_see_the_files_of_an_attack(gray_grid: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def identity(weights: str) -> str:
        path = gray_grid((ALL, f"[{{attack: {{name: 'kit.gray:Reading', weights: '{weights}'}}, label: reading}}]"))
        return next(c.id for c in make_plan(read_grid(path)).cells if c.attack_label == "reading")

    file, ids = tmp_path / "weights.bin", []
    for content in (b"one", b"other", b"one"):
        file.write_bytes(content)
        ids.append(identity(str(file)))
    assert ids[0] == ids[2] != ids[1]
    # A word is no file, even where a file has its name; nor is a text that no file system takes for a name.
    before = identity("margin")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "margin").write_bytes(b"one")
    assert identity("margin") == before
    assert identity("x" * 5000 + ".bin")


def test_clips_made_against_a_defence_can_be_shown_to_the_undefended_classifier(
    gray_grid: Write, tmp_path: Path
) -> None:
    """Levels 0.2 apart, a defence that lightens by 0.05, a bound of 0.12: dark and medium clips are behind it after a
    first step of 0.06, which the bare classifier withstands; bright ones go down by all of 0.12, which it does not."""
    mine = "{name: 'kit.gray:Lighten', by: 0.05, label: Mine}"
    attacks = "[PGD, PGD+BPDA, {attack: pgd, gradient: bpda, against: Mine, label: against Mine}]"
    path = gray_grid(('"kit.gray:Identity"', f"jpeg, {mine}"), (ALL, attacks), ("size: 0.15", "size: 0.12"))
    plan = make_plan(read_grid(path))
    cells = {(c.defense.label, c.attack_label): c for c in plan.cells}
    assert [(s.defense, s.attack) for s in plan.skipped] == [("jpeg", "against Mine"), ("Mine", "against Mine")]
    cell, own = cells["none", "against Mine"], cells["Mine", "PGD+BPDA"]
    assert (cell.knowledge, cell.gradient) == ("gray-box", "bpda")
    assert cell.identity.against == own.identity.defense
    assert own.identity.against is None
    assert cell.unit is not None
    assert own.unit is not None
    assert cell.unit.id == own.unit.id
    ids = [c.id for c in plan.cells]
    assert len(set(ids)) == len(ids)
    results = {(r.defense, r.attack): r for r in run_plan(plan, tmp_path / "s")}
    right = {key: [o.correct for o in r.outcomes] for key, r in results.items()}
    assert right["none", "PGD"] == [False] * 6
    assert right["Mine", "PGD+BPDA"] == [False, False, True] * 2
    assert right["none", "against Mine"] == [True, True, False] * 2


def test_clips_are_made_against_the_grids_own_defences(gray_grid: Write) -> None:
    for entry, says in (
        (
            "{attack: pgd, gradient: bpda, against: mien}",
            "made against 'mien', which it does not have (did you mean 'mine'?)",
        ),
        ("{attack: pgd, against: Mine}", "say with 'gradient' how that defence is differentiated"),
    ):
        mine = "{name: 'kit.gray:Lighten', label: mine}"
        with pytest.raises(BenchError) as caught:
            read_grid(gray_grid(('"kit.gray:Identity"', mine), (ALL, f"[{entry}]")))
        assert says in str(caught.value)
    path = gray_grid(('"kit.gray:Identity"', "jpeg"), (ALL, "[PGD, {attack: pgd, gradient: bpda, against: jpeg}]"))
    grid = read_grid(path)
    assert [s.label for s in grid.attack_sections] == ["clean", "PGD", "pgd+bpda against jpeg"]
    # Another defence in its place takes the column away.
    assert [s.label for s in override(grid, defenses=["wavelet"]).attack_sections] == ["clean", "PGD"]
