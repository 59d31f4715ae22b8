"""Components in files of the user's own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from kit.commands import Answer

from bench import BenchError, ClipRandom, own
from bench.grids.grid import override, read_grid
from bench.plan.components import make_component
from bench.registry import DEFENSES, MODELS, Spec
from bench.weights.zoo import build_classifier

TWO = '''
from torch import nn
from neighbour import SHIFT
from bench import Purifier, register


class Rolled(Purifier):
    """Shifts every frame in time."""

    differentiable = True

    def __init__(self, times: int = 1) -> None:
        super().__init__()
        self.times = times

    def purify(self, clips, rng):
        return clips.roll(SHIFT * self.times, dims=2)


class Net(nn.Module):
    def forward(self, clips):
        bright = clips.mean(dim=(1, 2, 3, 4))
        return bright[:, None] * 9 + bright.new_tensor([0.0, 1.0])
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "my own folder"
    folder.mkdir()
    (folder / "neighbour.py").write_text("SHIFT = 1\n")
    (folder / "two things.py").write_text(TWO)
    return folder / "two things.py"


@pytest.mark.parametrize("ending", ["", ":Rolled", "(times=1)", ":Rolled(times=1)"])
def test_a_file_is_a_component(file: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent.parent)
    spec = Spec.parse(f"./my own folder/two things.py{ending}")
    clips = torch.rand(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(DEFENSES.create(spec).purify(clips, ClipRandom([0, 1])), clips.roll(1, dims=2))
    assert str(spec) == f"two things.py{ending}"
    # It is the same from any other folder.
    monkeypatch.chdir("/")
    assert DEFENSES.get(spec.name).factory is DEFENSES.get(f"{file}").factory


def test_the_only_network_in_a_file_is_the_classifier(file: Path) -> None:
    network = build_classifier(Spec.parse(str(file)), None)
    assert network(torch.ones(1, 3, 1, 2, 2)).tolist() == [[9, 10]]
    assert not network.training


def test_identities_follow_what_the_file_says_and_what_it_imports_and_not_its_place(file: Path, tmp_path: Path) -> None:
    def identity(path: Path) -> object:
        return make_component(Spec.parse(f"{path}:Rolled"), DEFENSES).identity

    moved = tmp_path / "elsewhere"
    shutil.copytree(file.parent, moved)
    first = identity(file)
    assert identity(moved / file.name) == first
    assert str(tmp_path) not in str(first)
    edited = tmp_path / "edited"
    shutil.copytree(file.parent, edited)
    (edited / file.name).write_text(TWO.replace("SHIFT * self.times", "-SHIFT * self.times"))
    assert identity(edited / file.name) != first


def test_what_cannot_be_used_is_said_in_a_sentence(file: Path, tmp_path: Path) -> None:
    def refusal(content: str | None, name: str = "x.py", registry: object = DEFENSES) -> str:
        path = tmp_path / name
        if content is not None:
            path.write_text(content)
        with pytest.raises(BenchError) as refused:
            (MODELS if registry is MODELS else DEFENSES).get(str(path) if ":" not in name else name)
        return str(refused.value)

    assert "There is no file" in refusal(None, "absent.py")
    assert "cannot be imported: SyntaxError" in refusal("def", "broken.py")
    assert "cannot be imported: ZeroDivisionError" in refusal("1 / 0", "raising.py")
    assert "cannot be imported: SystemExit" in refusal("raise SystemExit(3)", "leaving.py")
    assert "defines no defense" in refusal("x = 1", "empty.py")
    several = TWO.replace("from neighbour import SHIFT", "SHIFT = 1") + "\n\nclass Other(Rolled):\n    pass\n"
    assert "several defenses, Rolled, Other" in refusal(several, "several.py")
    with pytest.raises(BenchError, match=r"has no class or function 'Absent'"):
        DEFENSES.get(f"{file}:Absent")
    (tmp_path / "folder.py").mkdir()
    assert "There is no file" in refusal(None, "folder.py")


def test_paths_in_a_grid_count_from_its_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = file.parent / "grid.yaml"
    grid.write_text(
        "dataset: {name: actions12, clips: 2}\nmodels: [nl_tiny]\n"
        "defenses: [none, 'two things.py:Rolled', {name: 'two things.py', times: 2, label: Twice}]\n"
        "budgets: [{norm: linf, size: 4/255, steps: 1}]\nattacks: [clean, PGD]\n"
    )
    monkeypatch.chdir("/")
    read = read_grid(grid)
    assert [str(spec) for spec in read.defense_specs] == ["none", "two things.py:Rolled", "Twice"]
    assert {own.parts(spec.name)[0] for spec in read.defense_specs[1:]} == {file}
    monkeypatch.chdir(file.parent)
    added = override(read, defenses=["./two things.py:Rolled(times=3)"])
    monkeypatch.chdir("/")
    assert added.defense_specs[1].name == f"{file}:Rolled"


def test_the_command_runs_and_audits_a_file_under_a_label(
    file: Path, tmp_path: Path, bench: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    how = ("--clips", 2, "--steps", 1, "--attack", "PGD", "--attack", "PGD+exact", "--results", tmp_path / "r")
    done = bench("run", "--defense", "two things.py:Rolled", "--label", "My defence", *how)
    assert done.code == 0, done.err
    results = [json.loads(path.read_text()) for path in (tmp_path / "r").glob("*/nl_tiny--My_defence--*.json")]
    assert len(results) == 3
    assert {result["settings"]["defense"]["name"] for result in results} == {"two things.py:Rolled"}
    assert "several" in bench("run", "--defense", "jpeg", "--defense", "wavelet", "--label", "x", *how).err
