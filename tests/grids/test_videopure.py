"""The grids of VideoPure, IEEE TCSVT 2025: valid, by its protocol, and each reported figure beside its own cells."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from bench import Budget
from bench.grids.grid import Grid, find_grid, override, read_grid, shipped_grids
from bench.plan.expand import make_plan
from bench.registry import ATTACKS, DATASETS, DEFENSES, MODELS
from bench.report.reported import Reported, shipped_folder

TABLE1 = {
    "ucf101_nl": ("UCF-101", "NL"),
    "videopure_table1_ucf101_nl": ("UCF-101", "NL"),
    "videopure_table1_ucf101_slowfast": ("UCF-101", "SlowFast"),
    "videopure_table1_kinetics400_nl": ("Kinetics-400", "NL"),
    "videopure_table1_kinetics400_slowfast": ("Kinetics-400", "SlowFast"),
}
GRIDS = sorted({*TABLE1, "ucf101_nl_simple", *(n for n in shipped_grids() if n.startswith("videopure_"))})
# Beside each of these stand figures that come from the authors' PGD.
AUTHORS_PGD = [*TABLE1, *(f"videopure_table{n}" for n in (4, 5, 7, 8, 9, 11))]
FIGURES = ("videopure_figure4", "videopure_figure5", "videopure_figure6")
BOTH = ["nl_r50", "slowfast_r50"]


def rows(file: str) -> list[dict[str, str]]:
    with (shipped_folder() / file).open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def shown(grid: Grid) -> dict[tuple[str, str, str], float]:
    """What the benchmark shows beside the measured figures, by budget, defence and column."""
    assert grid.reported is not None
    reported = Reported(grid.reported, shipped_folder())
    labels = [
        *(s.label for s in grid.attack_sections),
        *grid.worst,
        "Union",
        "Mean",
        *grid.averages,
        *grid.across,
        "Seconds",
    ]
    return {
        (budget, str(d), label): figure
        for budget in (str(Budget.parse(b)) for b in grid.budgets)
        for d in grid.defense_specs
        for label, figure in reported.row(str(d), labels, budget).items()
    }


@pytest.mark.parametrize("name", TABLE1)
def test_every_figure_of_table_i_stands_beside_its_cells(name: str) -> None:
    """A row per defence of the paper, a column per attack, ours beside them; PGD in both protocols."""
    dataset, model = TABLE1[name]
    figures = {
        (r["defense"], r["attack"]): float(r["accuracy"])
        for r in rows("videopure_table1.csv")
        if (r["dataset"], r["model"]) == (dataset, model) and r["accuracy"]
    }
    grid = find_grid(name)
    found = {(d, a): figure for (_, d, a), figure in shown(grid).items()}
    expected = {}
    for (defense, attack), figure in figures.items():
        row, column = {"None": "none"}.get(defense, defense), {"None": "clean"}.get(attack, attack)
        expected[row, column] = figure
        if attack in ("PGD", "PGD+BPDA"):
            expected[row, f"{column} as published"] = figure
    assert found == expected
    assert [str(s) for s in grid.defense_specs] == [
        *("none", "JPEG", "WD", "Temporal Shuffle", "Diffpure_DDPM", "Diffpure_DDIM", "DDIM Inversion", "VideoPure")
    ]
    labels = [s.label for s in grid.attack_sections]
    assert {"PGD+exact", "EOT+BPDA", "EOT+exact"} <= set(labels)
    (worst,) = grid.worst.values()
    assert set(worst) == {s.label for s in grid.attack_sections if s.gradient}


@pytest.mark.parametrize("name", TABLE1)
def test_the_papers_average_is_that_of_its_own_columns(name: str) -> None:
    """Which reproduces every average that it prints, of five attacks or six, to the digit that it prints."""
    dataset, model = TABLE1[name]
    grid = find_grid(name)
    ((label, parts),) = grid.averages.items()
    assert label == "Average"
    section = grid.reported
    assert section is not None
    columns = [section.attacks[part] for part in parts]
    assert columns == ["PGD", "PGD+BPDA", "TT", "TT+BPDA", "EOT+BPDA", "PGD+Diffattack"]
    checked = 0
    for defense in ("JPEG", "WD", "Temporal Shuffle", "Diffpure_DDPM", "Diffpure_DDIM", "DDIM Inversion", "VideoPure"):
        of_row = {
            r["attack"]: float(r["accuracy"])
            for r in rows("videopure_table1.csv")
            if (r["dataset"], r["model"], r["defense"]) == (dataset, model, defense) and r["accuracy"]
        }
        there = [of_row[column] for column in columns if column in of_row]
        assert sum(there) / len(there) == pytest.approx(of_row["Average"], abs=0.11)
        checked += 1
    assert checked == 7


def test_the_command_that_is_named_first_is_the_whole_table() -> None:
    first, table = find_grid("ucf101_nl"), find_grid("videopure_table1_ucf101_nl")
    own = {"name", "title", "summary"}
    assert first.model_dump(exclude=own) == table.model_dump(exclude=own)
    small = find_grid("ucf101_nl_simple")
    assert {str(s) for s in small.defense_specs} < {str(s) for s in first.defense_specs}
    for spec in small.defense_specs:
        assert spec in first.defense_specs


def test_tables_iv_to_xi() -> None:
    """Figures picked from the paper, in both protocols."""
    for name, budget, defense, column, figure in (
        ("videopure_table4", "", "+ temporal, voting", "PGD+BPDA", 69.3),
        ("videopure_table5", "", "Stable Diffusion DDIM", "PGD", 49.5),
        ("videopure_table7", "", "candidate 0", "PGD+BPDA", 99.0),
        ("videopure_table8", "", "VideoPure", "PGD", 94.1),
        ("videopure_table9", "", "no loss", "PGD+BPDA", 69.3),
        ("videopure_table11", "linf 16/255, 10 steps", "Diffpure_DDPM", "PGD+BPDA", 32.7),
    ):
        found = shown(find_grid(name))
        budget = budget or "linf 4/255, 10 steps"
        assert found[budget, defense, column] == found[budget, defense, f"{column} as published"] == figure


@pytest.mark.parametrize("number", [4, 5, 7, 9, 11])
def test_every_figure_of_a_small_table_is_shown(number: int) -> None:
    figures = [float(r["accuracy"]) for r in rows(f"videopure_table{number}.csv") if r["accuracy"]]
    found = {k: v for k, v in shown(find_grid(f"videopure_table{number}")).items() if "as published" not in k[2]}
    if number == 9:  # Standard is printed twice, once per attack
        figures = [
            float(r["accuracy"])
            for r in rows("videopure_table9.csv")
            if (r["attack_family"], r["attack"]) != ("TT", "None")
        ]
    if number == 11:  # the undefended figures are printed twice, once per defence
        figures = [
            float(r["accuracy"])
            for r in rows("videopure_table11.csv")
            if (r["defense"], r["metric"]) != ("Diffpure_DDPM", "w/o Defense")
        ]
    assert sorted(found.values()) == sorted(figures)


def test_tables_iii_and_x_have_means_over_grids() -> None:
    """The one figure per defence that Table III prints, beside the mean over both data sets and directions."""
    four = [n for n in GRIDS if n.startswith("videopure_table3")]
    assert len(four) == 4
    sides = set()
    for name in four:
        grid = find_grid(name)
        (section,) = grid.across.values()
        assert (sorted(section.grids), section.column) == (four, "TT-MI transfer")
        assert {a: v for (_, d, a), v in shown(grid).items() if d == "VideoPure"} == {"Mean of four": 50.8}
        (transfer,) = [s for s in grid.attack_sections if s.source is not None]
        sides.add((grid.dataset.name, grid.models[0], str(transfer.source)))
    assert sides == {(d, m, s) for d in ("ucf101", "kinetics400") for m, s in (BOTH, BOTH[::-1])}
    tenth = find_grid("videopure_table10")
    assert tenth.across["Average"].grids == [n for n in TABLE1 if n != "ucf101_nl"]
    found = {(d, a): v for (_, d, a), v in shown(tenth).items()}
    # The printed averages are those of Table I's four.
    for defense in ("Diffpure_DDPM", "Diffpure_DDIM", "DDIM Inversion", "VideoPure"):
        four_averages = [
            shown(find_grid(n))["linf 4/255, 10 steps", defense, "Average"] for n in tenth.across["Average"].grids
        ]
        assert sum(four_averages) / 4 == pytest.approx(found[defense, "Average"], abs=0.15)
    assert found["VideoPure", "Seconds"] == 8.5


def test_table_ix_has_tt() -> None:
    found = {(d, a): v for (_, d, a), v in shown(find_grid("videopure_table9")).items()}
    assert [found[d, "TT"] for d in ("no loss", "spatial", "spatial and temporal")] == [54.5, 51.4, 55.4]
    assert [found[d, "TT+BPDA"] for d in ("no loss", "spatial", "spatial and temporal")] == [49.5, 82.2, 80.2]


@pytest.mark.parametrize("name", AUTHORS_PGD)
def test_figures_of_the_authors_pgd_stand_beside_it(name: str) -> None:
    """Ten steps of 2/255, a Gaussian start, the last iterate, the identity behind the defence: the released code."""
    grid = find_grid(name)
    sections = {s.label: s for s in grid.attack_sections}
    for label, gradients in (("PGD as published", {None}), ("PGD+BPDA as published", {"bpda", "bpda-identity"})):
        section = sections[label]
        assert section.attack is not None
        assert dict(section.attack.params) == {"protocol": "videopure"}
        assert section.gradient in gradients
        attack = ATTACKS.create(section.attack)
        for budget in grid.budgets:
            whole = Budget.parse({**budget, **section.budget})
            assert whole.steps == 10
            assert attack.step_size(whole) == pytest.approx(2 / 255)
        assert (attack.begins, attack.keep) == ("gaussian", "last")


@pytest.mark.parametrize("name", GRIDS)
def test_clips_are_those_that_both_classifiers_get_right(name: str) -> None:
    """One per class, as in the paper; the small grid needs one classifier alone."""
    dataset = find_grid(name).dataset
    assert dataset.select is not None
    assert dataset.select.correct_by == (["nl_r50"] if name == "ucf101_nl_simple" else BOTH)
    assert dataset.select.per_class == 1
    assert dataset.spec.params["clips_per_class"] is None  # whoever is right may be drawn


@pytest.mark.parametrize("name", GRIDS)
def test_one_reported_row_is_one_defence(name: str) -> None:
    """The same parameters wherever the same figures stand: the whole clip is shuffled, in every grid."""
    whole = {str(s): s for s in find_grid("ucf101_nl").defense_specs}
    for spec in find_grid(name).defense_specs:
        if str(spec) in whole:
            assert spec == whole[str(spec)]
        if spec.name == "temporal_shuffle":
            assert spec.params == {"window": 0}


@pytest.mark.parametrize("name", GRIDS)
def test_names_and_parameters_exist(name: str) -> None:
    grid = find_grid(name)
    DATASETS.get(grid.dataset.name).check(grid.dataset.spec.params)
    assert grid.dataset.select is not None
    sources = (s.source for s in grid.attack_sections if s.source is not None)
    for spec in (*grid.model_specs, *grid.dataset.select.specs, *sources):
        MODELS.get(spec.name).check(spec.params)
    for spec in grid.defense_specs:
        DEFENSES.get(spec.name).check(spec.params)
    for section in grid.attack_sections:
        if section.attack is not None:
            ATTACKS.get(section.attack.name).check(section.attack.params)


def test_figures_sweep_what_they_say() -> None:
    assert [b["steps"] for b in find_grid("videopure_figure4").budgets] == [1, 5, 10, 20, 50, 100]
    swept = {n: [s.params for s in find_grid(n).defense_specs if s.name == "videopure"] for n in FIGURES[1:]}
    assert [p["guidance"] for p in swept["videopure_figure5"]] == [0, 1, 2, 4, 8, 16]
    # The paper's t* counts the steps: timesteps 1, 21, 41, ... of 1000, and its own 6 is timestep 101.
    assert {p["steps"]: p["t_star"] for p in swept["videopure_figure6"]}[6] == 101
    assert all(p["t_star"] == 1 + 20 * (p["steps"] - 1) for p in swept["videopure_figure6"])
    for name in FIGURES:
        assert find_grid(name).reported is None


def test_embedded_figures_sweep_the_same() -> None:
    assert [b["steps"] for b in find_grid("embedded_steps").budgets] == [1, 5, 10, 20, 40]
    guided = [s.params for s in find_grid("embedded_guidance").defense_specs if s.name == "videopure"]
    assert [p["guidance"] for p in guided] == [0, 1, 2, 4, 8, 16]
    carried = [s.params for s in find_grid("embedded_t_star").defense_specs if s.name == "videopure"]
    assert [(p["steps"], p["t_star"]) for p in carried] == [(2, 21), (4, 61), (6, 101), (8, 141)]


def tiny(name: str, folder: Path) -> Path:
    """A grid with the shipped networks and clips in place of those that must be fetched."""
    text = shipped_grids()[name].read_text(encoding="utf-8")
    text = re.sub(
        r"dataset: \{name.*?(, select: \{.*?\}).*\}", r"dataset: {name: actions12, clips: 2\1}", text, count=1
    )
    text = text.replace("nl_r50", "nl_tiny").replace("slowfast_r50", "slowfast_tiny").replace("raft_large", "flow_tiny")
    text = re.sub(r"backbone: \w+(, weights: [\w.]+)?, precision: fp16", "backbone: pixel_tiny", text)
    path = folder / f"tiny_{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", GRIDS)
def test_the_grid_can_be_planned(name: str, tmp_path: Path) -> None:
    grid = read_grid(tiny(name, tmp_path))
    plan = make_plan(grid)
    assert len(plan.refs) == 2
    assert plan.note.startswith("2 of the ")
    rows_ = {"none", *map(str, grid.defense_specs)}
    attacks = [s for s in grid.attack_sections if s.attack is not None]
    cells = [c for c in plan.cells if c.attack_label != "clean"]
    assert len(cells) + len(plan.skipped) == len(attacks) * len(rows_) * len(grid.budgets)
    # What does not exist: an exact gradient of JPEG and wavelets, and what needs a denoising trajectory or a short cut.
    for skipped in plan.skipped:
        section = next(s for s in attacks if s.label == skipped.attack)
        assert section.gradient in ("exact", "surrogate", "diffattack"), skipped
    of = {(c.defense.label, c.attack_label) for c in cells}
    for defense in rows_ & {"Diffpure_DDPM", "Diffpure_DDIM", "DDIM Inversion", "VideoPure"}:
        assert {a for d, a in of if d == defense} == {s.label for s in attacks}


def test_part_of_the_table_has_no_average(tmp_path: Path) -> None:
    grid = override(find_grid("ucf101_nl"), attacks=["PGD", "PGD+BPDA"], defenses=["jpeg"])
    assert grid.averages == {}
