"""What identifies code: which edit makes which cells stale, and which edits none."""

from __future__ import annotations

import ast
import importlib.util
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from kit.roost import Roost

import bench
from bench import code, origins
from bench.grids.grid import Grid
from bench.plan.expand import make_plan
from bench.registry import ATTACKS, DATASETS, DEFENSES, MODELS, REGISTRIES

TREE = Path(bench.__file__).parents[1]
Edit = Callable[[str], str]
LINF = {"norm": "linf", "size": "4/255", "steps": 2, "restarts": 1}
# A column for each family that shares code: name, attack, budget.
COLUMNS = {
    "noise": ("noise", {}),
    "PGD": ("pgd", {}),
    "Square": ("square(queries=5)", {}),
    "flicker": ("flicker", {"norm": "flicker", "size": "20/255"}),
    "joint": ("joint_flow", {}),
    "ROA": ("roa(frame_size=[64, 64])", {"norm": "rectangle", "size": 12}),
    "multiplied": ("multav", {"norm": "mult-linf", "size": 1.3}),
    "framing": ("af_universal", {"norm": "framing", "size": 4}),
}
GRADIENT = {"PGD", "joint", "ROA", "multiplied"}
ATTACKED = set(COLUMNS)
EVERYTHING = {"clean", *COLUMNS}
ROWS = {"none", "jpeg", "adversarial_training(recipe='at_pgd')"}


def append(text: str) -> str:
    """An edit of the meaning: a constant more."""
    return text + "\nEDITED = 1\n"


def identities() -> dict[tuple[str, str], str]:
    """Ids of a grid's cells as the code stands now, by defence and column."""
    for registry in REGISTRIES.values():
        for entry in registry:
            entry.__dict__.pop("code", None)
    attacks = [
        {"attack": attack, "label": label, "budget": budget, **({} if label == "noise" else {"gradient": "query"})}
        if label == "Square"
        else {"attack": attack, "label": label, "budget": budget}
        for label, (attack, budget) in COLUMNS.items()
    ]
    grid = Grid.model_validate(
        {
            "name": "identities",
            "dataset": {"name": "actions12", "clips": 1},
            "models": ["resnet3d_tiny"],
            "defenses": sorted(ROWS),
            "budgets": [LINF],
            "attacks": attacks,
        }
    )
    plan = make_plan(grid)
    assert {c.attack_label for c in plan.cells} == EVERYTHING
    return {(c.defense.label, c.attack_label): c.id for c in plan.cells}


@pytest.fixture(scope="module")
def before() -> dict[tuple[str, str], str]:
    return identities()


@pytest.fixture
def edited(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[tuple[str, str], str]]:
    """Identities with some files edited, in a copy: the files themselves stay as they are."""

    def of(*edits: tuple[str, Edit]) -> dict[tuple[str, str], str]:
        changed = {(TREE / file).resolve(): edit for file, edit in edits}
        assert all(file.is_file() for file in changed)

        def text(file: Path) -> str:
            original = file.read_text(encoding="utf-8")
            return changed.get(file.resolve(), str)(original)

        monkeypatch.setattr(code, "_text", text)
        code.engine.cache_clear()
        origins.engine.cache_clear()
        found = identities()
        monkeypatch.undo()
        code.engine.cache_clear()
        origins.engine.cache_clear()
        return found

    return of


def faster(text: str) -> str:
    assert "STEP = 70 / 255" in text
    return text.replace("STEP = 70 / 255", "STEP = 1 / 255")


TABLE: list[tuple[str, Edit, set[str], set[str]]] = [
    # file, edit, columns whose cells must change, rows in which they must; no other cell may.
    ("bench/attack/masked.py", faster, {"ROA", "multiplied"}, ROWS),
    ("bench/attack/penalised.py", append, {"joint"}, ROWS),
    ("bench/attack/losses.py", append, {*GRADIENT, "Square"}, ROWS),
    ("bench/attack/gradient.py", append, GRADIENT, ROWS),
    ("bench/attack/best.py", append, {*GRADIENT, "Square", "flicker"}, ROWS),
    ("bench/attack/survivors.py", append, {*GRADIENT, "Square", "flicker"}, ROWS),
    ("bench/attack/turns.py", append, set(), ROWS),
    ("bench/attack/base.py", append, ATTACKED, ROWS),
    ("bench/threat/norms.py", append, ATTACKED, ROWS),
    ("bench/threat/regions.py", append, {"ROA", "multiplied"}, ROWS),
    ("bench/threat/ratios.py", append, {"multiplied"}, ROWS),
    ("bench/threat/framing.py", append, {"framing"}, ROWS),
    ("bench/defense/trained.py", append, EVERYTHING, {"adversarial_training(recipe='at_pgd')"}),
    ("bench/models/resnet3d.py", append, EVERYTHING, ROWS),
    ("bench/flow/tiny.py", append, {"joint"}, ROWS),
    ("bench/data/procedural.py", append, EVERYTHING, ROWS),
    ("attacks/roa.py", append, {"ROA"}, ROWS),
    ("defenses/jpeg.py", append, EVERYTHING, {"jpeg"}),
    *((f"bench/{file}.py", append, EVERYTHING, ROWS) for file in ("seeds", "attack/target", "threat/budgets")),
    *((f"bench/defense/{file}.py", append, EVERYTHING, ROWS) for file in ("base", "defended")),
    *((f"bench/run/{file}.py", append, EVERYTHING, ROWS) for file in ("runner", "work", "schedule", "engine", "judge")),
    *((f"bench/plan/{file}.py", append, EVERYTHING, ROWS) for file in ("cells", "expand")),
    *((f"bench/{file}.py", append, set(), ROWS) for file in ("errors", "files", "registry", "code", "api")),
    *((f"bench/run/{file}.py", append, set(), ROWS) for file in ("store", "leases", "crew", "export", "control")),
    *((f"bench/records/{file}.py", append, set(), ROWS) for file in ("outcome", "metrics", "results")),
    ("bench/report/tables.py", append, set(), ROWS),
    ("bench/weights/zoo.py", append, set(), ROWS),
    ("bench/models/transformer.py", append, set(), ROWS),
    ("attacks/tt.py", append, set(), ROWS),
]


@pytest.mark.parametrize(("file", "edit", "columns", "rows"), TABLE, ids=[row[0] for row in TABLE])
def test_an_edit_changes_the_cells_that_it_can_change_and_no_other(
    before: dict[tuple[str, str], str],
    edited: Callable[..., dict[tuple[str, str], str]],
    file: str,
    edit: Edit,
    columns: set[str],
    rows: set[str],
) -> None:
    after = edited((file, edit))
    changed = {cell for cell in before if after[cell] != before[cell]}
    assert changed == {(row, column) for row, column in before if row in rows and column in columns}


def split_imports(text: str) -> str:
    """One name a line, in reverse order."""

    def lines(match: re.Match[str]) -> str:
        names = sorted((name.strip() for name in match[2].strip("()").split(",") if name.strip()), reverse=True)
        return "\n".join(f"from {match[1]} import {name}" for name in names)

    new = re.sub(r"^from ([\w.]+) import ([\w, ]+|\([\w,\s]+\))$", lines, text, flags=re.MULTILINE)
    assert new != text
    return new


def undocumented(text: str) -> str:
    return ast.unparse(ast.parse(re.sub(r'"""(?:.|\n)*?"""', '"""Other words."""', text)))


def annotated(text: str) -> str:
    assert ") -> AttackResult:" in text
    assert "budget: Budget, " in text
    return text.replace(") -> AttackResult:", ') -> "Other":').replace("budget: Budget, ", "budget: object, ")


def reworded(text: str) -> str:
    new = re.sub(r"raise BenchError\((?:.|\n)*?\)\n", 'raise BenchError("Other words.")\n', text)
    assert new != text
    return new


@pytest.mark.parametrize(
    ("file", "edit"),
    [
        ("attacks/roa.py", split_imports),
        ("attacks/roa.py", undocumented),
        ("bench/run/judge.py", undocumented),
        ("bench/threat/norms.py", undocumented),
        ("bench/attack/gradient.py", annotated),
        ("bench/threat/norms.py", reworded),
    ],
)
def test_words_layout_and_imports_change_nothing(
    before: dict[tuple[str, str], str], edited: Callable[..., dict[tuple[str, str], str]], file: str, edit: Edit
) -> None:
    assert edited((file, edit)) == before


CODE = '''"""Module words."""
import math


class Made:
    """Class words."""

    def __init__(self, size=3):
        """Method words."""
        self.size = size + 1  # one more


def helper():
    return math.pi
'''


def digest_of(roost: Roost, text: str) -> str:
    (roost.root / "acme.py").write_text(text)
    return roost.renew().get("acme:Made").code


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# one more", "# one more than asked"),
        ("  # one more", ""),
        ("Module words.", "Other module words."),
        ("Class words.", "Other class words.\n\n    More of them.\n    "),
        ("Method words.", ""),
        ("size=3", "size = 3"),
        ("\n\n\nclass", "\n\n\n\n# ---\n\nclass"),
        ("size + 1", "(size\n            + 1)"),
        ('        """Method words."""\n', ""),
    ],
)
def test_digest_is_blind_to_words_and_layout(roost: Roost, old: str, new: str) -> None:
    assert CODE.count(old) == 1
    assert digest_of(roost, CODE.replace(old, new)) == digest_of(roost, CODE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("size + 1", "size + 2"),
        ("size=3", "size=4"),
        ("math.pi", "math.e"),
        ("class Made", "class Made(object)"),
        ("math.pi", "'words'"),
    ],
)
def test_digest_sees_every_change_of_code(roost: Roost, old: str, new: str) -> None:
    assert digest_of(roost, CODE.replace(old, new)) != digest_of(roost, CODE)


def test_digest_sees_strings_that_are_no_docstrings(roost: Roost) -> None:
    text = CODE + "\nMODE = 'fast'\n"
    assert digest_of(roost, text) != digest_of(roost, text.replace("fast", "slow"))


def test_digest_sees_the_modules_of_the_same_package_that_are_imported(roost: Roost) -> None:
    package = roost.root / "acme_nets"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "deep.py").write_text("RATE = 1\n")
    (package / "middle.py").write_text("import math\nfrom . import deep\n\nRATE = deep.RATE\n")
    (package / "unused.py").write_text("RATE = 1\n")
    (package / "made.py").write_text(f"from acme_nets.middle import RATE\n{CODE}")

    def found() -> str:
        return roost.renew().get("acme_nets.made:Made").code

    first = found()
    (package / "unused.py").write_text("RATE = 2\n")
    assert found() == first
    (package / "deep.py").write_text("RATE = 1  # a comment\n")
    assert found() == first
    (package / "deep.py").write_text("RATE = 2\n")
    assert found() != first


USER = """
from torch.nn.functional import avg_pool3d as pool
import numpy
from {helpers} import strength
{extra}

class Mine:
    '''Words.'''

    def purify(self, clips):
        return pool(clips, 3) * strength() + numpy.pi
"""
HELPERS = "RATE = 2\n\n\ndef strength():\n    return RATE\n"
_made = 0


def user_code(folder: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> str:
    """Digest of ``Mine`` in a file of the user's; every call imports it afresh."""
    global _made
    _made += 1
    place = folder / str(_made)
    place.mkdir()
    for name, text in files.items():
        (place / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(place)
    for name in files:
        sys.modules.pop(name, None)
    return code.digest(__import__("mine").Mine)


def test_a_users_own_modules_belong_to_what_comes_from_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of(text: str = USER, helpers: str = HELPERS, name: str = "my_helpers", extra: str = "") -> str:
        files = {"mine": text.format(helpers=name, extra=extra), name: helpers}
        return user_code(tmp_path, monkeypatch, files)

    first = of()
    assert of() == first
    assert of(name="renamed_helpers") == first  # a move
    assert of(helpers=HELPERS.replace("RATE = 2", "RATE = 2  # words")) == first
    assert of(helpers=HELPERS.replace("RATE = 2", "RATE = 3")) != first
    # What a name stands for counts, who else is imported does not.
    assert of(text=USER.replace("import avg_pool3d", "import max_pool3d")) != first
    assert of(text=USER.replace("import numpy\n", "import math as numpy\n")) != first
    assert of(extra="import json") == first
    # A function that moves from one file to another takes its meaning along.
    body = "from my_rates import RATE\n\n\ndef strength():\n    return RATE\n"
    moved = {"mine": USER.format(helpers="my_helpers", extra=""), "my_helpers": body, "my_rates": "RATE = 2\n"}
    assert user_code(tmp_path, monkeypatch, moved) == first


def test_order_counts_where_a_name_is_bound_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of(body: str) -> str:
        return user_code(tmp_path, monkeypatch, {"mine": body + "\n\nclass Mine:\n    pass\n"})

    assert of("A = 1\nB = 2") == of("B = 2\nA = 1")
    assert of("A = 1\nA = 2") != of("A = 2\nA = 1")


def test_what_has_no_source_is_unknown() -> None:
    assert code.digest(len) == "unknown"


def test_every_module_stands_in_one_of_the_lists() -> None:
    """What nobody thought of is followed; here it is thought of."""
    entries = [*code.ENGINE, *code.SILENT, *code.FOLLOWED]
    assert len(entries) == len(set(entries))
    # A package's own file holds names alone.
    modules = [m.name for m in pkgutil.walk_packages(bench.__path__, "bench.") if not m.ispkg]
    for module in modules:
        listed = [e for e in entries if e != "bench" and (module == e or module.startswith(f"{e}."))]
        assert listed, f"{module} stands in none of the lists of bench/code.py"
    for entry in entries:
        assert importlib.util.find_spec(entry), f"{entry} is nowhere"


@pytest.mark.parametrize(
    ("registry", "name", "reached"),
    [
        (MODELS, "nl_tiny", {"models.nl", "models.base"}),
        (DATASETS, "motion12", {"datasets.motion12", "data.procedural", "data.base"}),
        (ATTACKS, "noise", {"attacks.noise", "attack.base"}),
        (
            DEFENSES,
            "jpeg",
            {"defenses.jpeg", "defense.codec", "defense.frames", "defense.libjpeg", "defense.rounding"},
        ),
    ],
)
def test_a_component_reaches_what_it_imports_by_whatever_name(registry: object, name: str, reached: set[str]) -> None:
    """``from bench import Attack`` means the file in which it stands, and nothing else."""
    factory = registry.get(name).factory  # type: ignore[attr-defined]
    assert set(code.sources(factory) or ()) == {f"bench.{module}" for module in reached}


@pytest.mark.slow
def test_an_edited_step_is_measured_again(tmp_path: Path) -> None:
    """The whole way, in a copy of the package: the second run must not say that nothing is left to do."""
    package = tmp_path / "lib" / "bench"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(TREE / "bench", package, ignore=ignored)
    for folder in ("attacks", "defenses", "datasets"):
        shutil.copytree(TREE / folder, package / folder, ignore=ignored)
    grid = tmp_path / "tiny.yaml"
    grid.write_text(
        "dataset: {name: actions12, clips: 1}\nmodels: [resnet3d_tiny]\ndefenses: [none]\n"
        "budgets: [{norm: rectangle, size: 12, steps: 1}]\n"
        "attacks: [{attack: {name: roa, location: fixed, frame_size: [64, 64]}, label: ROA}]\n"
    )

    def run() -> str:
        command = [sys.executable, "-m", "bench.cli", "run", "--grid", str(grid), "--results", str(tmp_path / "r")]
        environment = {**os.environ, "PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "2 clip outcomes" in run()
    loop = package / "attack" / "masked.py"
    loop.write_text(faster(loop.read_text()))
    assert "1 clip outcomes" in run()
