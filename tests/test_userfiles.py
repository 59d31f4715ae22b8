"""Components from files of the user's own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kit.commands import Answer
from levels import level_classifier

from bench import BenchError, DefendedClassifier
from bench.grids.grid import AttackSection, read_grid
from bench.plan.components import make_component
from bench.registry import ATTACKS, DEFENSES, MODELS, Spec
from bench.run.alone import Alone, Suspect, defended_weights

Bench = Callable[..., Answer]
Write = Callable[..., Path]

WHITE = '''
import torch
from bench import Purifier

class White(Purifier):
    """Shows a level of gray."""
    def __init__(self, level: float = 0.7) -> None:
        super().__init__()
        self.level = level

    def purify(self, clips, rng):
        return torch.full_like(clips, self.level)
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my (new) folder+" / "own file.py"
    path.parent.mkdir()
    path.write_text(WHITE)
    return path


def shade(made: Any) -> float:
    return float(made.purify(torch.zeros(1, 3, 2, 2, 2), None).mean())


@pytest.mark.parametrize(
    ("written", "level"), [("{}", 0.7), ("{}:White", 0.7), ("{}:White(level=0.2)", 0.2), (" {} (level=0.2) ", 0.2)]
)
def test_a_component_is_made_from_a_file(file: Path, written: str, level: float) -> None:
    assert shade(DEFENSES.create(written.format(file))) == pytest.approx(level)
    assert shade(DEFENSES.create({"name": f"{file}:White", "level": 0.4})) == pytest.approx(0.4)


def test_a_relative_path_means_the_same_in_another_folder(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = Spec.parse(f"./{file.parent.name}/{file.name}:White(level=0.2)")
    monkeypatch.chdir(file.parent)
    assert shade(DEFENSES.create(spec)) == pytest.approx(0.2)
    assert str(spec) == "own file.py:White(level=0.2)"


def test_identity_follows_what_the_file_says_and_not_where_it_lies(file: Path) -> None:
    first = make_component(Spec.parse(f"{file}:White"), DEFENSES).identity
    assert make_component(Spec.parse(str(file)), DEFENSES).identity == first
    moved = file.parent.parent / file.name
    os.rename(file, moved)
    assert make_component(Spec.parse(str(moved)), DEFENSES).identity == first
    moved.write_text(WHITE + "\n# A remark.\n")
    assert make_component(Spec.parse(str(moved)), DEFENSES).identity == first
    # Of the same length and perhaps of the same second: what runs has to be the new text, too.
    moved.write_text(WHITE.replace("self.level)", "self.level )").replace("full_like", "full_like"))
    moved.write_text(WHITE.replace("0.7", "0.6"))
    edited = make_component(Spec.parse(str(moved)), DEFENSES)
    assert edited.identity.code != first.code
    assert shade(edited.instance) == pytest.approx(0.6)


def test_what_lies_beside_the_file_counts(file: Path) -> None:
    helper = file.parent / "beside.py"
    helper.write_text("LEVEL = 0.3\n")
    file.write_text("from .beside import LEVEL\n" + WHITE.replace("self.level)", "LEVEL)"))
    first = make_component(Spec.parse(str(file)), DEFENSES)
    assert shade(first.instance) == pytest.approx(0.3)
    helper.write_text("LEVEL = 0.4\n")
    assert make_component(Spec.parse(str(file)), DEFENSES).identity.code != first.identity.code


def test_two_files_of_one_name_are_two(tmp_path: Path) -> None:
    for folder, level in (("a", "0.1"), ("b", "0.9")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.py").write_text(WHITE.replace("0.7", level))
    assert [shade(DEFENSES.create(f"{tmp_path / f}/same.py")) for f in "ab"] == pytest.approx([0.1, 0.9])


def test_a_file_that_is_imported_already_is_not_loaded_again() -> None:
    import bench.defenses.jpeg as jpeg

    assert DEFENSES.get(str(jpeg.__file__)).factory is DEFENSES.get("jpeg").factory


def test_registered_names_work_behind_the_colon(file: Path) -> None:
    file.write_text(
        WHITE.replace("class", "from bench import register\n@register('own-white', source='A book')\nclass")
    )
    assert DEFENSES.get(f"{file}:own-white").source == "A book"
    assert DEFENSES.get(str(file)).name == "own file.py:White"
    del DEFENSES._entries["own-white"]


def test_models_are_networks_and_functions(file: Path) -> None:
    file.write_text("from levels import level_classifier\ndef make():\n    return level_classifier()\n")
    assert len(list(MODELS.create(str(file)).parameters())) == len(list(level_classifier().parameters()))
    file.write_text("import torch\nclass _Part(torch.nn.Module): ...\nclass Net(torch.nn.Identity): ...\n")
    assert isinstance(MODELS.create(str(file)), torch.nn.Identity)
    with pytest.raises(BenchError, match=r"own file\.py holds no attack; name the one that is meant"):
        ATTACKS.get(str(file))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (WHITE + "class Black(White): ...\n", r"holds several defenses: White, Black; name .* own file\.py:NAME\.$"),
        ("x = 1\n", "holds no defense; name the one that is meant"),
        ("x = = 1\n", r"is no Python that this version reads: invalid syntax \(line 1\)\.$"),
        ("raise RuntimeError('not today')\n", "cannot be loaded: RuntimeError: not today"),
        ("raise SystemExit(3)\n", "cannot be loaded: SystemExit: 3"),
        ("import kept_beside\n", r"imports 'kept_beside', which lies beside it: write 'from \.kept_beside import"),
        ("import nowhere_at_all\n", "cannot be loaded: ModuleNotFoundError: No module named 'nowhere_at_all'"),
    ],
)
def test_files_that_cannot_be_used_say_why(file: Path, text: str, sentence: str) -> None:
    (file.parent / "kept_beside.py").touch()
    file.write_text(text)
    with pytest.raises(BenchError, match=sentence):
        DEFENSES.get(str(file))


def test_a_file_that_is_none_says_so(file: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"Cannot read .*gone\.py: No such file or directory; give the path"):
        DEFENSES.get(str(tmp_path / "gone.py"))
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(BenchError, match=r"folder\.py is a folder: give a \.py file in it"):
        DEFENSES.get(str(tmp_path / "folder.py"))
    with pytest.raises(BenchError, match=r"own file\.py has no class or function 'Black'"):
        DEFENSES.get(f"{file}:Black")


def test_attacks_of_files_have_gradients_and_short_labels(file: Path) -> None:
    section = AttackSection.read(f"{file}:Mine(loss='a+b')+bpda")
    assert section.attack == Spec(f"{file}:Mine", {"loss": "a+b"})
    assert (section.label, section.gradient) == ("own file.py:Mine(loss='a+b')+bpda", "bpda")
    assert AttackSection.read(str(file)).label == "own file.py"


def test_grids_find_files_beside_themselves(file: Path, gray_grid: Write) -> None:
    grid = read_grid(gray_grid(("kit.gray:Identity", f"{file.parent.name.replace(' (new)', '')}/{file.name}:White")))
    assert not grid.defense_specs[1].name.startswith(str(file.parent))  # there is none: left to the working folder
    file.parent.rename(file.parent.parent / "plain")
    found = read_grid(gray_grid(("kit.gray:Identity", f"plain/{file.name}:White"))).defense_specs
    assert str(file.parent.parent / "plain" / file.name) + ":White" in [s.name for s in found]


def test_a_process_of_its_own_makes_it_again(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "net.py"
    model.write_text("from levels import level_classifier as make\nNet = make\n")
    monkeypatch.chdir(tmp_path)
    defense, classifier = Spec.parse(f"{file.parent.name}/{file.name}"), MODELS.create("net.py:Net")
    defended = DefendedClassifier(classifier, DEFENSES.create(defense))
    who = Suspect(
        model=Spec.parse("./net.py:Net"),
        defense=defense,
        dataset="kit.gray:GrayClips",
        classifier=classifier,
        defended=defended_weights(defended),
    )
    with Alone(who, torch.device("cpu"), 3, "salt") as alone:
        assert [a.prediction for a in alone.ask(torch.full((1, 3, 4, 8, 8), 0.3))] == [2]


def test_a_run_with_a_file_and_a_label(bench: Bench, gray_grid: Write, file: Path, tmp_path: Path) -> None:
    arguments = ("run", "--grid", gray_grid(), "--attack", "noise", "--results", tmp_path / "r", "--defense", file)
    first = bench(*arguments, "--label", "Whitener")
    assert first.code == 0, first.err
    assert "Whitener" in first.out
    assert "own file.py" not in first.out
    file.rename(tmp_path / file.name)
    again = bench(*arguments[:-1], tmp_path / file.name, "--label", "Whitener")
    assert "nothing was left to do" in again.out
    several = bench(*arguments[:-1], "jpeg", "--defense", "wavelet", "--label", "Whitener")
    assert (several.code, "--label names the row of one --defense or one --model, and 2 are given" in several.err) == (
        2,
        True,
    )
