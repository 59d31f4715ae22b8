"""Classes of clips and outputs of classifiers, by their names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from kit.commands import Answer
from PIL import Image
from torch import nn

from bench import BenchError
from bench.grids.grid import override, read_grid
from bench.models.adapters import torchvision as adapter
from bench.plan.cells import Plan
from bench.plan.classes import class_names
from bench.plan.expand import make_plan
from bench.records.results import read_results
from bench.registry import DATASETS, MODELS

Write = Callable[..., Path]

# Output 0 is for bright clips, output 2 for dark ones.
NETWORK = """
from torch import nn

class Net(nn.Module):
    class_names = {names}

    def forward(self, clips):
        bright = 9 * (clips.mean(dim=(1, 2, 3, 4)) - 0.5)
        return bright[:, None] * bright.new_tensor([1.0, 0.0, -1.0])
"""


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A dark clip that falls and a bright one that rises."""
    for name, level in (("falling", 40), ("rising_up", 210)):
        place = tmp_path / "clips" / name / "x" / "1.png"
        place.parent.mkdir(parents=True)
        Image.fromarray(np.full((16, 16, 3), level, np.uint8)).save(place)
    return tmp_path / "clips"


def network(folder: Path, *names: str, file: str = "net.py") -> str:
    (folder / file).write_text(NETWORK.format(names=names))
    return str(folder / file)


def data(clips: Path, more: str = "") -> str:
    return f"folder(root={str(clips)!r}, frames=2, size=16{more})"


def planned(gray_grid: Write, dataset: str, *models: str) -> Plan:
    return make_plan(override(read_grid(gray_grid()), models=models, dataset=dataset))


def test_labels_follow_the_names_of_the_outputs(
    clips: Path, tmp_path: Path, gray_grid: Write, bench: Callable[..., Answer]
) -> None:
    """The network is right about both clips; with labels in the order of the names it would be right about none."""
    model = network(tmp_path, "rising up", "standing", "Falling")
    how = ("--grid", gray_grid(), "--attack", "noise", "--results", tmp_path / "r")
    done = bench("run", "--model", model, "--dataset", data(clips), *how)
    assert done.code == 0, done.err
    assert "Labels are the outputs of net.py, by their names." in done.err
    (folder,) = [path for path in (tmp_path / "r").iterdir() if not path.name.startswith(".")]
    (clean,) = [r for r in read_results(folder) if r.knowledge == "clean" and r.defense == "none"]
    assert [(o.clip, o.label, o.correct) for o in clean.outcomes] == [("rising_up/x", 0, True), ("falling/x", 2, True)]


def test_other_labels_are_another_measurement_and_the_same_ones_are_not(
    clips: Path, tmp_path: Path, gray_grid: Write
) -> None:
    unnamed, same, other = (
        planned(gray_grid, data(clips), network(tmp_path, *names))
        for names in ((), ("falling", "rising-up", "standing"), ("standing", "rising up", "falling"))
    )
    first, second, third = (plan.cells[0].dataset.identity for plan in (unnamed, same, other))
    assert first == second
    assert first != third
    assert first.params == third.params  # on which random starts depend
    assert {ref.id: ref.label for ref in unnamed.refs} == {"falling/x": 0, "rising_up/x": 1}
    assert {ref.id: ref.label for ref in other.refs} == {"rising_up/x": 1, "falling/x": 2}


@pytest.mark.parametrize(
    ("names", "file", "says"),
    [
        # A file says another order than the network.
        (("falling", "rising up", "c"), "rising_up\nfalling\n", r"'rising_up' is class 0 of the clips and output 1 of"),
        # One name is known, in another place, and one is not.
        (("b", "Falling", "c"), "", r"net\.py, which has no 'rising_up': 'falling' is class 0 .* output 1 of"),
        # Two outputs have one name.
        (("rising up", "falling", "Rising Up"), "", r"'falling' is class 0 of the clips and output 1 of"),
    ],
)
def test_an_order_that_cannot_be_right_is_refused(
    clips: Path, tmp_path: Path, gray_grid: Write, names: tuple[str, ...], file: str, says: str
) -> None:
    (tmp_path / "names.txt").write_text(file)
    given = f", classes={str(tmp_path / 'names.txt')!r}" if file else ""
    with pytest.raises(BenchError, match=f"in another order than the outputs of .*{says}.*classes=FILE"):
        planned(gray_grid, data(clips, given), network(tmp_path, *names))


def test_two_classifiers_must_agree(clips: Path, tmp_path: Path, gray_grid: Write) -> None:
    one = network(tmp_path, "falling", "standing", "rising up")
    other = network(tmp_path, "standing", "falling", "rising up", file="other.py")
    alike = network(tmp_path, "FALLING", "Standing", "rising up", file="alike.py")
    assert [ref.label for ref in planned(gray_grid, data(clips), one, alike).refs] == [0, 2]
    with pytest.raises(BenchError, match=r"another order than the outputs of other\.py"):
        planned(gray_grid, data(clips), one, other)


def test_classes_of_which_a_classifier_knows_nothing_are_said(
    clips: Path, tmp_path: Path, gray_grid: Write, bench: Callable[..., Answer]
) -> None:
    how = ("--grid", gray_grid(), "--attack", "noise", "--results", tmp_path / "r", "--dataset", data(clips))
    done = bench("run", "--model", network(tmp_path, "falling", "b", "c"), *how)
    assert done.code == 0, done.err
    assert "1 of the 2 classes of the clips, such as 'rising_up', are none that net.py has by name" in done.err
    for names in (("falling", "Rising up", "c"), ()):
        quiet = bench("run", "--model", network(tmp_path, *names), *how)
        assert quiet.code == 0, quiet.err
        assert "by name" not in quiet.err


def test_names_of_outputs() -> None:
    import transformers

    settings = {"image_size": 32, "num_frames": 4, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    named = transformers.VideoMAEConfig(**settings, intermediate_size=32, id2label={0: "run", 1: "jump"})
    for config, names in ((named, ("run", "jump")), (transformers.VideoMAEConfig(**settings, num_labels=3), ())):
        network = transformers.VideoMAEForVideoClassification(config)
        assert class_names(network) == names
        around = nn.Sequential(network)
        assert class_names(around) == ()
        around.wrapped_network = network
        assert class_names(around) == names


def test_names_of_torchvisions_weights_are_those_of_kinetics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the official list, which is alphabetical; signs are written otherwise."""
    torch.save({"w": torch.zeros(1)}, tmp_path / "w.pth")
    monkeypatch.setattr(adapter, "torchvision_file", lambda name, weights: tmp_path / "w.pth")
    monkeypatch.setattr(adapter, "load_strictly", lambda network, state, path: None)  # 33 million numbers
    names = class_names(MODELS.create("torchvision:r3d_18(weights='KINETICS400_V1')"))
    official = DATASETS.create("kinetics400").classes
    assert [n for n, o in zip(names, official, strict=True) if set(n) - set("'()") != set(o) - set("'()")] == []
    assert class_names(MODELS.create("torchvision:r3d_18")) == ()
