"""The grids of MultiBN, OUDefend, MultAV and halftoning: valid, and each reported figure beside its own cell."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from safetensors.torch import save_file

from bench import BenchError, Budget
from bench.grids.grid import Grid, find_grid, read_grid, shipped_grids
from bench.models.robust import ARCHITECTURES
from bench.plan.expand import make_plan
from bench.registry import ATTACKS, DATASETS, DEFENSES, MODELS, Spec
from bench.report.reported import Reported, shipped_folder
from bench.training.recipes import RECIPES
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
    "adv_framing_ucf101": "adv_framing_ucf101.csv",
}
EMBEDDED = [n for n in shipped_grids() if n.startswith(("embedded_multibn", "embedded_transforms"))]
# Rows of adversarial training behind a transform, and averages over other columns than ours.
LEFT_OUT = {
    ("halftone_cifar10", "Adversarial training", ""),
    ("halftone_cifar10", "", "Avg_adv"),
    ("halftone_cifar10", "", "Avg_all"),
}


def rows(name: str) -> list[dict[str, str]]:
    with (shipped_folder() / FILES[name]).open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def shown(grid: Grid) -> dict[tuple[str, str], float]:
    """What the benchmark itself shows beside the measured figures, by its own labels."""
    assert grid.reported is not None
    reported = Reported(grid.reported, shipped_folder())
    labels = [*(s.label for s in grid.attack_sections), *grid.worst, "Union", "Mean"]
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
        training = row.get("training", "")
        if training == "Adversarial training" or (name, "", row["attack"]) in LEFT_OUT:
            assert (name, training, "") in LEFT_OUT or (name, "", row["attack"]) in LEFT_OUT
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
        budgets = {s.label: Budget.parse({**grid.budgets[0], **s.budget}) for s in grid.attack_sections if s.attack}
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
        assert all(s.attack is None or s.attack.params["keep"] == "last" for s in grid.attack_sections)


@pytest.mark.parametrize("name", [n for n in FILES if n.startswith("multibn")])
def test_networks_of_the_grids_are_those_that_the_recipes_train(name: str) -> None:
    for spec in find_grid(name).defense_specs:
        if not spec.params.get("weights"):
            continue
        stem = Path(spec.params["weights"]).stem
        recipe = RECIPES[stem.removeprefix(f"{find_grid(name).model_specs[0].name}_").rpartition("-")[0]]
        options = dict(recipe.options.get("architecture_options", {}))
        if spec.name == "multibn":
            assert recipe.options.get("architecture") is None  # the objective's own
            assert options == {"selector": spec.params["selector"]}
        else:
            assert spec.name == "adversarial_training"
            assert options == {}


def test_published_sizes() -> None:
    assert RECIPES["oudefend-published"].options["architecture_options"] == {"base_width": 8}
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
    with pytest.raises(
        BenchError, match=r"No weights of resnet3d_tiny on actions12 by recipe 'at_nothing'.*bench train"
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
    with pytest.raises(BenchError, match=r"are shipped for registered classifiers.*weights="):
        DEFENSES.create("multibn").wrap(build_classifier(Spec("resnet3d_tiny"), None))
