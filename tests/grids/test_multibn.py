"""The grids of MultiBN, OUDefend, MultAV and halftoning: valid, and each reported figure beside its own cell."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from safetensors.torch import save_file
from torch import nn

from bench import BenchError, Budget, TrainedDefense
from bench.data.base import Missing
from bench.grids.grid import Grid, find_grid, read_grid, shipped_grids
from bench.models.resnet3d import ResNet3D
from bench.models.robust import ARCHITECTURES, rebuilt
from bench.plan.expand import make_plan
from bench.registry import ATTACKS, DATASETS, DEFENSES, MODELS, Spec
from bench.report.reported import Reported, shipped_folder
from bench.training.objectives.robust import RobustClassification
from bench.training.recipes import RECIPES, objective_of
from bench.weights.zoo import build_classifier

FILES = {
    "multibn_ucf101": "multibn_ucf101.csv",
    "multibn_hmdb51": "multibn_hmdb51.csv",
    "multibn_cifar10": "multibn_cifar10.csv",
    "multibn_blackbox_ucf101": "multibn_blackbox_ucf101.csv",
    "multibn_branches_ucf101": "multibn_branches_ucf101.csv",
    "multibn_single_at_ucf101": "multibn_single_at_ucf101.csv",
    "oudefend_ucf101": "oudefend_ucf101.csv",
    "multav_ucf101": "multav_ucf101.csv",
    "halftone_cifar10": "halftone_cifar10.csv",
    "halftone_cifar10_at": "halftone_cifar10.csv",
    "adv_framing_ucf101": "adv_framing_ucf101.csv",
}
EMBEDDED = [n for n in shipped_grids() if n.startswith(("embedded_multibn", "embedded_transforms"))]
# Averages over other columns than ours.
LEFT_OUT = {
    (name, average) for name in ("halftone_cifar10", "halftone_cifar10_at") for average in ("Avg_adv", "Avg_all")
}
# The table of one file that a grid shows, and the other that another grid shows.
TRAINING = {"halftone_cifar10": "Standard training", "halftone_cifar10_at": "Adversarial training"}


def rows(name: str) -> list[dict[str, str]]:
    with (shipped_folder() / FILES[name]).open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def shown(grid: Grid) -> dict[tuple[str, str], float]:
    """What the benchmark itself shows beside the measured figures, by its own labels."""
    assert grid.reported is not None
    reported = Reported(grid.reported, shipped_folder())
    labels = [*(s.label for s in grid.attack_sections), *grid.worst, *grid.averages, "Union", "Mean"]
    (budget,) = (str(Budget.parse(b)) for b in grid.budgets)
    defenses = [*(str(s) for s in grid.defense_specs), *grid.oracles]
    return {(d, a): figure for d in defenses for a, figure in reported.row(d, labels, budget).items()}


@pytest.mark.parametrize("name", FILES)
def test_every_figure_of_the_table_stands_beside_one_cell(name: str) -> None:
    grid = find_grid(name)
    assert grid.reported is not None
    defenses = {str(v): k for k, v in grid.reported.defenses.items()}
    attacks = {str(v): k for k, v in grid.reported.attacks.items()}
    expected = {}
    for row in rows(name):
        if row.get("training") != TRAINING.get(name) or (name, row["attack"]) in LEFT_OUT:
            continue
        if row["accuracy"]:
            chosen = {"attack": row["attack"], **({"width": row["width"]} if row.get("width") else {})}
            column = attacks[str(chosen)] if "width" in row else attacks[row["attack"]]
            expected[defenses[row["defense"]], column] = float(row["accuracy"])
    assert shown(grid) == expected
    assert len(expected) > 5


@pytest.mark.parametrize("name", [*FILES, *EMBEDDED])
def test_names_parameters_and_budgets_exist(name: str) -> None:
    grid = find_grid(name)
    grid.check()
    DATASETS.get(grid.dataset.name).check(grid.dataset.spec.params)
    for spec in (*grid.model_specs, *(s.source for s in grid.attack_sections if s.source is not None)):
        MODELS.get(spec.name).check(spec.params)
    for spec in grid.defense_specs:
        DEFENSES.create(spec)
    (common,) = grid.budgets
    for section in grid.attack_sections:
        if section.attack is not None:
            ATTACKS.create(section.attack).check(Budget.parse({**common, **section.budget}))


def test_the_papers_settings() -> None:
    for name in (n for n in FILES if n.startswith("multibn") and "cifar" not in n):
        grid = find_grid(name)
        published = [s for s in grid.attack_sections if s.label in ("clean", "PGD", "ROA", "AF", "SPA")]
        assert len(published) == 5
        budgets = {s.label: Budget.parse({**grid.budgets[0], **s.budget}) for s in published if s.attack}
        assert {k: (b.norm, round(float(b.size), 6), b.steps) for k, b in budgets.items()} == {
            "PGD": ("linf", round(4 / 255, 6), 5),
            "ROA": ("rectangle", 30.0, 5),
            "AF": ("border", 10.0, 5),
            "SPA": ("pixels", 100.0, 5),
        }
        steps = {k: round(255 * float(b.step_size or 0)) for k, b in budgets.items()}
        assert steps == {"PGD": 1, "ROA": 70, "AF": 70, "SPA": 70}
        assert grid.dataset.spec.params["frames"] == 40
        assert grid.dataset.spec.params["size"] == 112
        assert grid.counts_clean
        assert all(s.attack is None or s.attack.params["keep"] == "last" for s in published)


@pytest.mark.parametrize("name", ["embedded_multibn", "multibn_ucf101", "multibn_hmdb51", "multibn_cifar10"])
def test_the_main_tables_attack_harder_than_the_paper_too(name: str) -> None:
    """Beside the published columns, with budgets no smaller, and the paper's union is of its own four."""
    grid = find_grid(name)
    assert grid.worst == {"Union, published four": ["PGD", "ROA", "AF", "SPA"]}
    sections = {s.label: s for s in grid.attack_sections}
    for label, former in (
        ("ROA margin, 5 restarts", "ROA"),
        ("SPA located", "SPA"),
        ("ROA branches", "ROA"),
        ("SPA branches", "SPA"),
    ):
        budget, old = (Budget.parse({**grid.budgets[0], **sections[one].budget}) for one in (label, former))
        assert (budget.norm, budget.size) == (old.norm, old.size)
        assert budget.steps >= old.steps
        assert sections[label].gradient == "exact"


def trained(grid: Grid) -> list[tuple[Spec, TrainedDefense]]:
    """Nothing else is made: some defences need files, too."""
    found = []
    for spec in grid.defense_specs:
        factory = DEFENSES.get(spec.name).factory
        if isinstance(factory, type) and issubclass(factory, TrainedDefense):
            found.append((spec, factory(**spec.params)))
    return found


WITH_TRAINED = [name for name in shipped_grids() if trained(find_grid(name))]


@pytest.mark.parametrize("name", WITH_TRAINED)
def test_every_checkpoint_that_a_grid_asks_for_is_written_by_a_recipe(name: str, tmp_path: Path) -> None:
    """Under its very name, in the folder in which the grid looks for it."""
    grid, folder = find_grid(name), tmp_path / "checkpoints"
    folder.mkdir()
    for model in grid.model_specs:
        for _, defense in trained(grid):
            objective = objective_of(RECIPES[defense.recipe])
            file = f"{objective.entry(model.name, defense.recipe)['model']}-{grid.dataset.name}.safetensors"
            found = defense.find(model.name, grid.dataset.name, tmp_path)
            if isinstance(found, Missing):
                assert f"--recipe {defense.recipe} --out {folder} " in found.get
                assert str(found.put).startswith(str(folder / file))
                (folder / file).touch()
                found = defense.find(model.name, grid.dataset.name, tmp_path)
                assert found == folder / file
            assert isinstance(found, Path)
            assert found.name == file


def small() -> nn.Module:
    """Of four stages, as published ones have."""
    return ResNet3D(5, width=2, blocks=(1, 1, 1, 1), stem_kernel=(1, 3, 3), stem_stride=(1, 4, 4))


def test_networks_of_the_grids_are_those_that_the_recipes_train() -> None:
    """Seen on a small classifier: the weights of the one fit the other."""
    known: set[str] = set()
    for spec, defense in (pair for name in WITH_TRAINED for pair in trained(find_grid(name))):
        objective = objective_of(RECIPES[defense.recipe])
        assert isinstance(objective, RobustClassification)
        params = {k: v for k, v in spec.params.items() if k not in ("recipe", "select")}
        key = f"{spec.name} {params} {objective.architecture} {objective.architecture_options}"
        if key in known:
            continue
        known.add(key)
        expected = rebuilt(objective.architecture, small(), 0, objective.architecture_options).state_dict()
        found = defense.network(small()).state_dict()
        assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in expected.items()}, key
    assert len(known) > 6


def test_transforms_of_the_grid_are_those_that_the_recipes_train_behind() -> None:
    for spec, defense in trained(find_grid("halftone_cifar10_at")):
        assert RECIPES[defense.recipe].options.get("behind", "") == spec.params.get("transform", "")
    rows_of = {str(s): s.params for s in find_grid("halftone_cifar10").defense_specs}
    for label, text in (("Bit depth", "bit_depth(bits=1)"), ("JPEG", "jpeg"), ("Halftoning", "halftone")):
        assert rows_of[label] == Spec.parse(text).params  # as in the other half of the table


def test_missing_robust_weights_are_listed_with_the_rest(tmp_path: Path) -> None:
    """The classifier and one file for each network of the table, in one message."""
    with pytest.raises(BenchError) as caught:
        make_plan(find_grid("oudefend_ucf101"), data_root=tmp_path)
    said, folder = str(caught.value), tmp_path / "checkpoints"
    assert str(folder / "r3d18_hara_ucf101.pth") in said
    columns = ("clean", "pgd", "pgd_l2", "multav", "roa", "af", "spa")
    compared = ("at", "denoise_a", "denoise_b", "oudefend")
    names = [f"r3d18_hara_{n}_{c}-published-ucf101.safetensors" for n in compared for c in columns]
    assert [said.count(str(folder / name)) for name in names] == [1] * 28


def test_a_relative_file_is_looked_for_under_the_data_root(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    defense = DEFENSES.create("adversarial_training(weights='mine/net.safetensors')")
    assert isinstance(defense, TrainedDefense)
    missing = defense.find("resnet3d_tiny", "actions12", tmp_path)
    assert isinstance(missing, Missing)
    assert missing.put == tmp_path / "mine/net.safetensors"
    (tmp_path / "mine/net.safetensors").touch()
    assert defense.find("resnet3d_tiny", "actions12", tmp_path) == tmp_path / "mine/net.safetensors"


def test_published_sizes() -> None:
    assert RECIPES["oudefend-published"].options["architecture_options"] == {"base_width": 8}
    assert RECIPES["oudefend_pgd-published"].options["architecture_options"] == {"base_width": 8}
    assert RECIPES["denoise_b-published"].options["architecture_options"] == {"variant": "b", "frames": 40}
    assert RECIPES["multibn-cifar10"].start_recipe == "multibn_branches-cifar10"


def test_an_oracle_of_what_the_grid_lacks_is_refused(tmp_path: Path) -> None:
    text = shipped_grids()["embedded_multibn_branches"].read_text(encoding="utf-8")
    for old, new, says in (
        ("PGD: BN-Lp", "PGD: BN-LP", r"needs the defence 'BN-LP'.*did you mean 'BN-Lp'"),
        ("SPA: BN-Lp", "SAP: BN-Lp", r"needs the attack 'SAP'"),
        ("MultiBN-manual:", "BN-Lp:", r"a defence and an oracle called 'BN-Lp'"),
    ):
        path = tmp_path / "changed.yaml"
        path.write_text(text.replace(old, new), encoding="utf-8")
        with pytest.raises(BenchError, match=says):
            read_grid(path).check()


def test_weights_that_are_not_there_are_one_sentence(tmp_path: Path) -> None:
    text = shipped_grids()["embedded_multibn"].read_text(encoding="utf-8")
    path = tmp_path / "changed.yaml"
    path.write_text(text.replace("recipe: at_pgd", "recipe: at_nothing"), encoding="utf-8")
    with pytest.raises(BenchError, match=r"Unknown recipe 'at_nothing'"):
        make_plan(read_grid(path))
    path.write_text(text.replace("recipe: at_pgd", "recipe: avg_all4"), encoding="utf-8")
    with pytest.raises(
        BenchError,
        match=r"(?s)needs files that are not here:.*weights of resnet3d_tiny on actions12 by recipe 'avg_all4'"
        r".*bench train --model resnet3d_tiny --dataset actions12 --recipe avg_all4",
    ):
        make_plan(read_grid(path))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_file_of_another_width_is_one_sentence(architecture: str, tmp_path: Path) -> None:
    name = {"plain": "adversarial_training"}.get(architecture, architecture)
    other = build_classifier(Spec("nl_tiny"), None)
    file = tmp_path / "other.safetensors"
    save_file({k: v.contiguous() for k, v in other.state_dict().items()}, file)
    defense = DEFENSES.create({"name": name, "weights": str(file)})
    with pytest.raises(BenchError, match="is not for"):
        defense.wrap(build_classifier(Spec("resnet3d_tiny"), None))


def test_a_classifier_of_ones_own_needs_a_file() -> None:
    with pytest.raises(BenchError, match=r"are found for registered classifiers.*weights="):
        DEFENSES.create("multibn").wrap(build_classifier(Spec("resnet3d_tiny"), None))
