"""Grids: every key checked, mistakes named with the nearest right word."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import BenchError, Budget
from bench.grids.grid import AttackSection, find_grid, override, read_grid, shipped_grids
from bench.plan.expand import make_plan
from bench.registry import Spec
from bench.report.reported import Reported, shipped_folder

Write = Callable[..., Path]


@pytest.mark.parametrize(
    ("replace", "says"),
    [
        (("defenses:", "defences:"), "did you mean 'defenses'?"),
        (("budgets:", "budget:"), "did you mean 'budgets'?"),
        (('models: ["kit.gray:level_classifier"]', "title2: x"), "'models' is missing"),
        (("defenses: [none", "defenses: [3x("), "3x("),
        (("[clean, noise, PGD, PGD+BPDA, PGD+exact]", "[PGD, PGD]"), "two attacks labelled 'PGD'"),
        (("[clean, noise, PGD, PGD+BPDA, PGD+exact]", "[{attak: pgd}]"), "did you mean 'attack'?"),
        (("[clean, noise, PGD, PGD+BPDA, PGD+exact]", "[]"), "attacks"),
        (("length: 6", "clips: 0"), "clips"),
        (("models: [", "models: {["), "not YAML"),
        (("[clean, noise, PGD, PGD+BPDA, PGD+exact]", "[5]"), "Cannot read attack 5"),
        (("[clean, noise, PGD, PGD+BPDA, PGD+exact]", "[null]"), "Cannot read attack None"),
        (("[clean, noise, PGD, PGD+BPDA, PGD+exact]", "[{attack: pgd, label: 3}]"), "'label': input should be"),
        (("[clean, noise, PGD, PGD+BPDA, PGD+exact]", "[{attack: pgd, budget: 5}]"), "'budget': input should be"),
        (
            ("[clean, noise, PGD, PGD+BPDA, PGD+exact]", "[{attack: pgd, gradient: 5}]"),
            "asks for gradient 5; known: exact",
        ),
        (("budgets: [{norm: linf, size: 0.15, steps: 4}]", "budgets: []"), "budgets"),
        (('[none, "kit.gray:Identity"]', "[none, jpeg, jpeg]"), "defence jpeg twice"),
        (("title: Gray clips", "averages: {Average: []}"), "'Average' of grid 'gray' is of no attack"),
        (("title: Gray clips", "averages: {Average: [PDG]}"), "did you mean 'PGD'?"),
        (("title: Gray clips", "averages: {Mean: [PGD]}"), "another column called 'Mean'"),
        (("title: Gray clips", "averages: {Average: [PGD, PGD]}"), "attack PGD twice"),
        (("title: Gray clips", "name: ../escape"), "cannot name a folder"),
        (("title: Gray clips", "name: reported"), "cannot name a folder"),
        (("title: Gray clips", "name: demo"), "as a shipped grid is"),
    ],
)
def test_bad_grids_are_one_sentence(gray_grid: Write, replace: tuple[str, str], says: str) -> None:
    with pytest.raises(BenchError) as caught:
        read_grid(gray_grid(replace))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("replace", "says"),
    [
        (("norm: linf", "nrom: linf"), "did you mean 'norm'?"),
        (("norm: linf", "norm: lin"), "did you mean 'linf'?"),
        (("size: 0.15", "size: four"), "fraction such as 4/255"),
        (("steps: 4", "steps: 2.5"), "whole number"),
        (("PGD+BPDA", "PGD+BDPA"), "did you mean 'bpda'?"),
        (("PGD+BPDA", "PDG+BPDA"), "did you mean 'pgd'?"),
        (('"kit.gray:Identity"', "jepg"), "did you mean 'jpeg'?"),
        (('"kit.gray:Identity"', "jpeg(qality=3)"), "did you mean 'quality'?"),
        (('"kit.gray:Identity"', "jpeg(quality=300)"), "1 to 95"),
        (("length: 6", "lenght: 6"), "did you mean 'length'?"),
        (("kit.gray:level_classifier", "kit.gray:TEXT"), "no class or function 'TEXT'"),
        (("kit.gray:level_classifier", "kit.gray:not_a_model"), "not a torch.nn.Module"),
        (("kit.gray:level_classifier", "nowhere_at_all:x"), "Cannot import 'nowhere_at_all'"),
        (("kit.gray:level_classifier", "kit.gray:raises"), "cannot be made: FileNotFoundError: no weights.bin"),
        (("kit.gray:level_classifier", "broken_module:x"), "Importing 'broken_module'"),
        (('"kit.gray:Identity"', "'wavelet(sigma=[1])'"), "'wavelet' cannot be made with sigma=[1]: TypeError"),
        (("kit.gray:level_classifier", "nl_tinny"), "did you mean 'nl_tiny'?"),
        (("kit.gray:level_classifier", "nl_tiny"), "No weights are known"),
    ],
)
def test_bad_names_and_values_stop_the_plan(
    gray_grid: Write, replace: tuple[str, str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_module.py").write_text("def x(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BenchError) as caught:
        make_plan(read_grid(gray_grid(replace)))
    assert says in str(caught.value)


def test_unknown_grids_suggest_the_nearest() -> None:
    with pytest.raises(BenchError, match="did you mean 'demo'"):
        find_grid("dmo")
    with pytest.raises(BenchError, match="no grid file"):
        find_grid("nowhere.yaml")


@pytest.mark.parametrize("name", sorted(shipped_grids()))
def test_shipped_grids_are_valid_and_their_reported_figures_exist(name: str) -> None:
    grid = find_grid(name)
    assert grid.title
    assert grid.attack_sections[0].attack is None  # Standard comes first
    if grid.reported is not None:
        reported = Reported(grid.reported, shipped_folder())
        labels = [
            *(s.label for s in grid.attack_sections),
            *grid.worst,
            "Union",
            "Mean",
            "Seconds",
            *grid.averages,
            *grid.across,
        ]
        rows = [*(str(s) for s in grid.defense_specs), *grid.oracles]
        for budget in map(str, map(Budget.parse, grid.budgets)):
            for defense in grid.reported.defenses:
                assert defense in rows
                assert reported.row(defense, labels, budget), f"no reported figure for {defense} at {budget}"


def test_every_reported_table_of_accuracies_stands_beside_a_grid() -> None:
    """All but costs, a survey of other people's defences, a first preprint, and what is derived from Table I."""
    grids = [find_grid(name) for name in shipped_grids()]
    used = {grid.reported.file for grid in grids if grid.reported is not None}
    files = {path.name for path in shipped_folder().glob("*.csv")}
    assert len(files) == 31
    assert files - used == {
        "motion_table6.csv",
        "obfuscated_gradients_slide.csv",
        "multibn_v1_preprint_tables.csv",
        "videopure_table1_worst_attack.csv",
    }


def test_labels_name_a_defence_in_tables_and_leave_its_identity_alone(gray_grid: Write) -> None:
    entry = "defenses: [none, {name: jpeg, quality: 50, label: rough JPEG}]"
    plain = "defenses: [none, jpeg(quality=50)]"
    found = []
    for defenses in (entry, plain):
        grid = gray_grid()
        text = re.sub(r"defenses: .*", defenses, grid.read_text())
        grid.write_text(text)
        found.append(make_plan(read_grid(grid)).cells[1])
    assert [c.defense.label for c in found] == ["rough JPEG", "jpeg(quality=50)"]
    assert found[0].id == found[1].id
    with pytest.raises(BenchError, match="label of jpeg must be a text"):
        Spec.parse({"name": "jpeg", "label": 3})


def test_overrides_keep_the_undefended_row(gray_grid: Write) -> None:
    grid = override(read_grid(gray_grid()), defenses=["jpeg"], attacks=["PGD+BPDA"], clips=2, steps=7, seed=5)
    assert [str(s) for s in grid.defense_specs] == ["none", "jpeg"]
    assert [s.label for s in grid.attack_sections] == ["clean", "PGD+BPDA"]
    assert (grid.dataset.clips, grid.budgets[0]["steps"], grid.seed) == (2, 7, 5)
    with pytest.raises(BenchError, match="--clips"):
        override(grid, clips=0)


def test_the_same_budget_twice_is_refused(gray_grid: Write) -> None:
    twice = ("budgets: [", "budgets: [{norm: linf, size: 0.15, steps: 4, restarts: 1}, ")
    with pytest.raises(BenchError, match="same budget twice"):
        make_plan(read_grid(gray_grid(twice)))


def test_attack_budgets_override_single_keys(gray_grid: Write) -> None:
    entry = "[{attack: {name: pgd, loss: margin}, gradient: exact, label: strong, budget: {steps: 9}}]"
    plan = make_plan(read_grid(gray_grid(("[clean, noise, PGD, PGD+BPDA, PGD+exact]", entry))))
    cell = next(c for c in plan.cells if c.attack_label == "strong" and c.defense.label != "none")
    assert cell.budget is not None
    assert (cell.budget.steps, cell.budget.size) == (9, 0.15)
    assert cell.identity.attack is not None
    assert cell.identity.attack.params["loss"] == "margin"
    assert cell.threat == "linf 0.15, 4 steps"  # it stays in the table of the grid's budget


@pytest.mark.parametrize(
    ("replace", "says"),
    [
        (
            ('[none, "kit.gray:Identity"]', '[none, {name: jpeg, label: JPEG 90}, {name: jpeg, label: "JPEG (90)"}]'),
            "'JPEG 90' and 'JPEG (90)' make one file name",
        ),
        (
            ('[none, "kit.gray:Identity"]', "[none, {name: jpeg, label: JPEG/90}, {name: jpeg, label: jpeg 90}]"),
            "'JPEG/90' and 'jpeg 90' make one file name",
        ),
        (
            ("[clean, noise, PGD, PGD+BPDA, PGD+exact]", "[{attack: pgd, label: A B}, {attack: pgd, label: A/B}]"),
            "'A B' and 'A/B' make one file name",
        ),
        (('[none, "kit.gray:Identity"]', '[none, {name: jpeg, label: "@"}]'), "'@' makes no file name"),
    ],
)
def test_labels_that_make_one_file_name_are_refused(gray_grid: Write, replace: tuple[str, str], says: str) -> None:
    with pytest.raises(BenchError, match=re.escape(says)):
        read_grid(gray_grid(replace))


def test_labels_that_make_one_file_name_together_are_refused(gray_grid: Write) -> None:
    """A label may hold what stands between the labels of a file's name."""
    defenses = '[none, {name: jpeg, label: "a"}, {name: jpeg, label: "a--noise"}]'
    attacks = '[{attack: noise, label: "noise--x"}, {attack: noise, label: x}]'
    path = gray_grid(('[none, "kit.gray:Identity"]', defenses), ("[clean, noise, PGD, PGD+BPDA, PGD+exact]", attacks))
    with pytest.raises(BenchError, match="make one file name, kit"):
        make_plan(read_grid(path))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("size: 0.15", "size: 8", "is at most 1, as clips are in [0, 1], not 8 (did you mean 8/255?)"),
        ("norm: linf, size: 0.15", "norm: one-frame, size: 16", "did you mean 16/255?"),
        ("norm: linf, size: 0.15", "norm: flicker, size: 20", "did you mean 20/255?"),
        ("size: 0.15", "eps: 0.15", "no key 'eps' (did you mean 'size'?)"),
        ("steps: 4", "iters: 4", "no key 'iters' (did you mean 'steps'?)"),
        ("steps: 4", "alpha: 0.1", "no key 'alpha' (did you mean 'step_size'?)"),
        ("size: 0.15", "size: 0.15, step_size: 2", "step_size in linf is at most 1"),
        ("size: 0.15", "size: .nan", "Cannot read the size"),
        ("steps: 4", "steps: true", "whole number"),
        ("size: 0.15", "size: 1e999999999", "Cannot read the size"),
        ("defenses: [none,", "defenses: [{name: jpeg, label: none},", "as the undefended one"),
        ("defenses: [none,", "defenses: [{name: jpeg, label: None},", "make one file name"),
        ("clean, noise", "{attack: noise, label: clean}, noise", "as a column that is no attack"),
        ("clean, noise", "{attack: noise, label: Standard}, noise", "as a column that is no attack"),
        ("clean, noise", "{attack: noise, label: Union}, noise", "as a column that is no attack"),
        ("clean, noise", '{attack: noise, label: "a\\0b"}, noise', "holds signs that cannot be printed"),
        ("clean, noise", "{attack: noise, label: " + "x" * 300 + "}, noise", "are the most: give the longest another"),
        ("title: Gray clips", "title: Gray clips\nseed: true", "'seed'"),
        ("title: Gray clips", 'title: Gray clips\nseed: "7"', "'seed'"),
        ("title: Gray clips", "title: Gray clips\ntimed: 1", "'timed'"),
        ("length: 6", "length: 6, clips: true", "'dataset.clips'"),
        ('"kit.gray:Identity"', '"jpeg(quality=' + "-" * 100_000 + '1)"', "20000 are the most"),
        ('"kit.gray:Identity"', '"jpeg(quality=' + "(" * 5000 + '1)"', "Cannot read"),
    ],
    ids=lambda value: value[:40],
)
def test_what_would_mean_something_else_is_refused_before_any_work(
    gray_grid: Callable[..., Path], old: str, new: str, words: str
) -> None:
    with pytest.raises(BenchError) as raised:
        make_plan(read_grid(gray_grid((old, new))))
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 700


def test_a_defence_that_says_that_it_is_none_does_not_take_the_place_of_the_undefended_row(
    gray_grid: Callable[..., Path],
) -> None:
    plan = make_plan(read_grid(gray_grid(('none, "kit.gray:Identity"', "kit.gray:Pretending"))))
    assert {cell.defense.label for cell in plan.cells} == {"none", "kit.gray:Pretending"}
    # Nor is it what other defences are measured against, wherever it is listed.
    plan = make_plan(read_grid(gray_grid(('none, "kit.gray:Identity"', "kit.gray:Pretending, none"))))
    shared = {
        cell.unit.defended.defense for cell in plan.cells if cell.unit and cell.unit.shared and cell.unit.defended
    }
    assert {type(defense).__module__ for defense in shared} == {"bench.defenses.none"}


def test_labels_of_attacks_are_read_with_their_parameters() -> None:
    read = AttackSection.read
    assert read("MI-FGSM+BPDA").attack == Spec("mi_fgsm")
    assert read("PGD(loss='margin')+bpda-identity").attack == Spec("pgd", {"loss": "margin"})
    assert read("af_universal(border='Some-File.pt')").attack == Spec("af_universal", {"border": "Some-File.pt"})
    assert read("adaptive(extra=['tt+exact'])").attack == Spec("adaptive", {"extra": ["tt+exact"]})
    assert read("square(queries=-1)").attack == Spec("square", {"queries": -1})
    assert read(" Clean ").attack is None
    for wrong in ("clean+bpda", "clean(a=1)", "PGD+", "+bpda", "PGD+(bpda)", ""):
        with pytest.raises(BenchError):
            read(wrong)
