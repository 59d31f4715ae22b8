"""The grids of arXiv 2212.07815, motion consistency: valid, each reported figure beside the cell that it belongs to."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest

from bench import Budget
from bench.grids.grid import Grid, find_grid, read_grid, shipped_grids
from bench.plan.expand import make_plan
from bench.registry import ATTACKS, DATASETS, DEFENSES, MODELS
from bench.report.reported import Reported, shipped_folder

Figures = dict[tuple[str, str], float]

GRIDS = [
    "motion_table1_hmdb51",
    "motion_table1_ucf101",
    "motion_table2",
    "motion_table3",
    "motion_table4",
    "motion_table4_bpda",
    "motion_table4_multi",
    "motion_table5",
]

# What must stand beside each grid, by defence and attack, written out.
EXPECTED: dict[str, Figures] = {
    "motion_table1_ucf101": {
        ("none", "clean"): 86.6,
        ("none", "noise"): 79.9,
        ("none", "PGD 4/255"): 14.7,
        ("none", "PGD 8/255"): 10.5,
        ("none", "PGD 8/255 with 2 updates"): 10.5,
        ("none", "PGD 16/255"): 6.2,
        ("none", "AutoAttack"): 2.4,
        ("Random", "PGD 4/255"): 15.3,
        ("Random", "PGD 8/255"): 10.9,
        ("Random", "PGD 8/255 with 2 updates"): 10.9,
        ("Random", "PGD 16/255"): 6.7,
        ("Random", "AutoAttack"): 6.9,
        ("Defended", "clean"): 84.0,
        ("Defended", "noise"): 82.2,
        ("Defended", "PGD 4/255"): 78.5,
        ("Defended", "PGD 8/255"): 73.9,
        ("Defended", "PGD 8/255 with 2 updates"): 73.9,
        ("Defended", "PGD 16/255"): 54.5,
        ("Defended", "AutoAttack"): 75.3,
    },
    "motion_table1_hmdb51": {
        ("none", "clean"): 67.0,
        ("none", "noise"): 62.7,
        ("none", "PGD 4/255"): 8.8,
        ("none", "PGD 8/255"): 7.9,
        ("none", "PGD 8/255 with 2 updates"): 7.9,
        ("none", "PGD 16/255"): 5.2,
        ("none", "AutoAttack"): 1.3,
        ("Random", "PGD 4/255"): 8.8,
        ("Random", "PGD 8/255"): 7.7,
        ("Random", "PGD 8/255 with 2 updates"): 7.7,
        ("Random", "PGD 16/255"): 6.6,
        ("Random", "AutoAttack"): 5.6,
        ("Defended", "clean"): 66.9,
        ("Defended", "noise"): 63.9,
        ("Defended", "PGD 4/255"): 59.5,
        ("Defended", "PGD 8/255"): 53.9,
        ("Defended", "PGD 8/255 with 2 updates"): 53.9,
        ("Defended", "PGD 16/255"): 40.8,
        ("Defended", "AutoAttack"): 57.9,
    },
    "motion_table2": {
        ("none", "clean"): 79.7,
        ("none", "One-frame"): 34.3,
        ("Random", "clean"): 71.4,
        ("Random", "One-frame"): 59.1,
        ("Defended", "clean"): 77.5,
        ("Defended", "One-frame"): 76.6,
    },
    "motion_table3": {
        ("none", "clean"): 84.0,
        ("none", "Flickering"): 34.0,
        ("Defended", "clean"): 84.0,
        ("Defended", "Flickering"): 79.5,
    },
    "motion_table4": {
        ("none", "clean"): 85.5,
        ("none", "Adaptive I"): 28.0,
        ("none", "Adaptive II"): 64.5,
        ("Defended", "clean"): 83.5,
        ("Defended", "Adaptive I"): 65.0,
        ("Defended", "Adaptive II"): 68.5,
    },
    "motion_table4_multi": {
        ("Defended (Multi)", "clean"): 81.0,
        ("Defended (Multi)", "Adaptive I"): 68.5,
        ("Defended (Multi)", "Adaptive II"): 72.5,
    },
    "motion_table4_bpda": {
        ("none", "clean"): 85.5,
        ("none", "Clips of III"): 18.5,  # made against the defence, and shown to the classifier without it
        ("Defended", "clean"): 83.5,
        ("Defended", "Adaptive III"): 20.5,
        ("Defended (Multi)", "clean"): 81.0,
        ("Defended (Multi)", "Adaptive III"): 25.5,
    },
    "motion_table5": {("L1", "PGD"): 66.5, ("L2", "PGD"): 61.5, ("SSIM", "PGD"): 66.5},
}

# Figures that belong to no cell: of the other clips of Table 1.
LEFT_OUT = {
    ("UCF-101", "PGD (1000 clips)", "Standard"),
    ("UCF-101", "PGD (1000 clips)", "Defended"),
}


def rows(file: str) -> list[dict[str, str]]:
    with (shipped_folder() / file).open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def selected(grid: Grid) -> dict[tuple[str, str], list[dict[str, str]]]:
    """The rows that the grid's mappings fit, for every cell that they name, blank ones included."""
    section = grid.reported
    assert section is not None
    assert not section.budgets
    found = {}
    for defense, of_defense in section.defenses.items():
        for attack, of_attack in section.attacks.items():
            if attack in section.without.get(defense, ()):
                continue
            assert isinstance(of_defense, dict)
            assert isinstance(of_attack, dict)
            assert not (of_defense.keys() & of_attack.keys() | section.where.keys() & of_attack.keys())
            wanted = {**section.where, **of_attack, **of_defense}
            assert wanted.keys() == {"dataset", "condition", "column"}
            table = rows(section.file)
            found[defense, attack] = [r for r in table if all(r[k] == v for k, v in wanted.items())]
    return found


def test_these_are_all() -> None:
    assert [name for name in shipped_grids() if name.startswith("motion_")] == ["motion_figure9", *GRIDS]


def test_figure_9_sweeps_the_steps_of_the_defence_of_table_4() -> None:
    """20 are the paper's, and enough, it says; so there must be more and fewer."""
    grid, table = find_grid("motion_figure9"), find_grid("motion_table4")
    (defended,) = [s.params for s in table.defense_specs if s.name == "motion_consistency"]
    swept = [s.params for s in grid.defense_specs if s.name == "motion_consistency"]
    assert [p["steps"] for p in swept] == [1, 5, 10, 20, 40]
    assert all({k: v for k, v in p.items() if k != "steps"} == defended for p in swept)
    assert (grid.dataset, grid.models, grid.budgets) == (table.dataset, table.models, table.budgets)
    assert grid.reported is None


@pytest.mark.parametrize("name", GRIDS)
def test_every_mapping_selects_exactly_one_row(name: str) -> None:
    grid = find_grid(name)
    assert grid.reported is not None
    assert grid.reported.file == f"{name[:13]}.csv"
    assert grid.reported.model == "i3d_flow"
    labels, defenses = [s.label for s in grid.attack_sections], [str(s) for s in grid.defense_specs]
    assert set(grid.reported.attacks) <= set(labels)
    assert set(grid.reported.defenses) <= set(defenses)
    found = selected(grid)
    assert {cell: len(fitting) for cell, fitting in found.items()} == dict.fromkeys(found, 1)
    figures = {cell: fitting[0]["value"] for cell, fitting in found.items()}
    assert {cell: float(value) for cell, value in figures.items() if value} == EXPECTED[name]
    blank = {cell for cell, value in figures.items() if not value}
    assert blank == ({("Random", "clean"), ("Random", "noise")} if "table1" in name else set())


def test_every_figure_of_the_tables_stands_somewhere() -> None:
    used = {tuple(r[k] for k in ("dataset", "condition", "column")) for n in GRIDS for r in _flat(find_grid(n))}
    all_rows = [r for table in range(1, 6) for r in rows(f"motion_table{table}.csv") if r["value"]]
    absent = {(r["dataset"], r["condition"], r["column"]) for r in all_rows} - used
    assert absent == LEFT_OUT


def _flat(grid: Grid) -> list[dict[str, str]]:
    return [row for fitting in selected(grid).values() for row in fitting]


@pytest.mark.parametrize("name", GRIDS)
def test_tables_show_these_figures(name: str) -> None:
    """As the benchmark itself reads them."""
    grid = find_grid(name)
    assert grid.reported is not None
    reported = Reported(grid.reported, shipped_folder())
    labels = [s.label for s in grid.attack_sections]
    (budget,) = (str(Budget.parse(b)) for b in grid.budgets)
    shown = {
        (d, a): figure for d in map(str, grid.defense_specs) for a, figure in reported.row(d, labels, budget).items()
    }
    assert shown == EXPECTED[name]


@pytest.mark.parametrize("name", GRIDS)
def test_names_and_parameters_exist(name: str) -> None:
    grid = find_grid(name)
    DATASETS.get(grid.dataset.name).check(grid.dataset.spec.params)
    for spec in (*grid.model_specs, *(s.source for s in grid.attack_sections if s.source is not None)):
        MODELS.get(spec.name).check(spec.params)
    for spec in grid.defense_specs:
        DEFENSES.get(spec.name).check(spec.params)
    for section in grid.attack_sections:
        if section.attack is not None:
            ATTACKS.get(section.attack.name).check(section.attack.params)


def parts(name: str) -> tuple[dict[str, Budget], dict[str, Any]]:
    """Budgets of the attacks and parameters of the defences, by label."""
    grid = find_grid(name)
    (common,) = grid.budgets
    budgets = {s.label: Budget.parse({**common, **s.budget}) for s in grid.attack_sections if s.attack}
    return budgets, {str(s): dict(s.params) for s in grid.defense_specs}


def test_the_papers_settings() -> None:
    """Settings that arXiv 2212.07815 states, and those that docs/decisions.md chooses where it is silent."""
    for name in ("motion_table1_ucf101", "motion_table1_hmdb51"):
        budgets, defenses = parts(name)
        for eps in (4, 8, 16):
            budget = budgets[f"PGD {eps}/255"]
            assert (budget.norm, budget.steps) == ("linf", 20)
            assert budget.size == pytest.approx(eps / 255)
            assert budget.step_size == pytest.approx(max(1, eps / 4) / 255)
        assert budgets["noise"].size == budgets["AutoAttack"].size == pytest.approx(8 / 255)
        assert (budgets["AutoAttack"].steps, budgets["AutoAttack"].step_size) == (10, None)
        assert defenses["Random"] == {"bound": "12/255"}
        source = next(s.source for s in find_grid(name).attack_sections if s.source is not None)
        assert (source.name, source.params) == ("i3d_flow", {"updates": 2})
        assert budgets["PGD 8/255 with 2 updates"] == budgets["PGD 8/255"]
    one = parts("motion_table2")[0]["One-frame"]
    assert (one.norm, one.steps, one.size, one.step_size) == (
        "one-frame",
        20,
        pytest.approx(16 / 255),
        pytest.approx(2 / 255),
    )
    flicker = parts("motion_table3")[0]["Flickering"]
    assert (flicker.norm, flicker.steps, flicker.step_size) == ("flicker", 300, None)
    frames = {n: find_grid(n).dataset.spec.params["frames"] for n in GRIDS}
    assert [frames[f"motion_table{n}"] for n in (2, 3, 4)] == [32, 90, 64]
    assert {frames[n] for n in GRIDS if "1" in n or "4" in n or "5" in n} == {64}
    clips = {n: find_grid(n).dataset.spec.params["clips_per_class"] for n in GRIDS}
    assert (51 * clips["motion_table1_hmdb51"], 101 * clips["motion_table1_ucf101"]) == (1020, 1010)
    assert {101 * clips[n] for n in GRIDS if "table3" in n or "table4" in n or "table5" in n} == {202}
    for name in ("motion_table4", "motion_table4_multi"):
        sections = {s.label: s for s in find_grid(name).attack_sections}
        for label, attack, weight in (("Adaptive I", "motion_i", 300.0), ("Adaptive II", "motion_ii", 1e5)):
            spec = sections[label].attack
            assert spec is not None
            assert (spec.name, spec.params["lambdas"], sections[label].gradient) == (attack, [weight], None)
            assert (spec.params.get("loss", "ce"), spec.params["keep"]) == ("ce", "last")
            assert parts(name)[0][label].size == pytest.approx(8 / 255)


@pytest.mark.parametrize("name", GRIDS)
def test_attacker_and_defence_agree_on_flow_and_loss(name: str) -> None:
    grid = find_grid(name)
    purifiers = [s.params for s in grid.defense_specs if s.name == "motion_consistency"]
    assert all(p["flow"] == "raft_large" for p in purifiers)
    for section in grid.attack_sections:
        if section.attack is None or not section.attack.name.startswith("motion_i"):
            continue
        params = {k: v for k, v in section.attack.params.items() if k not in ("lambdas", "loss", "keep")}
        of_flow = [{k: p[k] for k in ("flow", "pairs_at_once")} for p in purifiers]
        known = purifiers if section.attack.name == "motion_i" else of_flow
        assert params in known


@pytest.mark.parametrize("name", GRIDS)
def test_the_grid_can_be_planned(name: str, tmp_path: Path) -> None:
    """With the shipped networks and clips in place of those that must be fetched, nothing else changed."""
    text = shipped_grids()[name].read_text(encoding="utf-8")
    text = re.sub(r"dataset: \{name.*", "dataset: {name: motion12, clips: 2}", text, count=1)
    text = text.replace("{name: i3d_flow, updates: 2}", "nl_tiny").replace("i3d_flow", "flow_stream_tiny")
    text = text.replace("raft_large", "flow_tiny")
    path = tmp_path / f"tiny_{name}.yaml"
    path.write_text(text, encoding="utf-8")
    plan = make_plan(read_grid(path))
    grid = find_grid(name)
    against = [s.label for s in grid.attack_sections if s.against is not None]
    assert against == (["Clips of III"] if name.endswith("bpda") else [])
    assert [(s.defense, s.attack) for s in plan.skipped] == [
        (str(d), label) for label in against for d in grid.defense_specs if d.name != "none"
    ]
    attacked = [c for c in plan.cells if c.attack_label != "clean"]
    assert len(attacked) + len(plan.skipped) == (len(grid.attack_sections) - 1) * len(grid.defense_specs)
    adaptive = {c.attack_label for c in attacked if c.knowledge == "adaptive"}
    through = {"Adaptive III", "PGD+surrogate", "PGD+exact", "I+BPDA", "I margin+BPDA"}
    through |= {"APGD margin 100+BPDA", "APGD margin 100+exact"}
    assert adaptive == {"motion_table4_bpda": through, "motion_table5": {"PGD+BPDA"}}.get(name, set())
