"""Which weights are found, and classifiers that are built with them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bench import BenchError
from bench.data.base import Missing
from bench.registry import Spec
from bench.weights import zoo
from bench.weights.files import sha256_of
from bench.weights.zoo import build_classifier, find_weights, zoo_file


def shipped(monkeypatch: pytest.MonkeyPatch, name: str, checksum: str) -> None:
    entry = {"model": "some_net", "dataset": "some_data", "sha256": checksum}
    monkeypatch.setattr(zoo, "manifest", lambda: {name: entry})


def test_shipped_file_with_its_checksum_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    file = Path(zoo.__file__).parents[1] / "zoo" / "__init__.py"  # any file of that folder will do
    shipped(monkeypatch, "__init__.py", hashlib.sha256(file.read_bytes()).hexdigest())
    assert zoo_file("some_net", "some_data") == file
    assert zoo_file("some_net", "other_data") is None


@pytest.mark.parametrize("name", ["__init__.py", "absent.safetensors"])
def test_shipped_file_without_its_checksum_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    shipped(monkeypatch, name, "0" * 64)
    with pytest.raises(BenchError, match=rf"{name} are absent or do not match their checksum.*install the package"):
        zoo_file("some_net", "some_data")


def test_weights_are_looked_for_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shipped(monkeypatch, "__init__.py", sha256_of(Path(zoo.__file__).parents[1] / "zoo" / "__init__.py"))
    assert find_weights(Spec("some_net"), "some_data", Path("mine.pth"), None) == Path("mine.pth")
    found = find_weights(Spec("some_net"), "some_data", None, None)
    assert isinstance(found, Path)
    assert found.name == "__init__.py"
    missing = find_weights(Spec("nl_r50"), "ucf101", None, tmp_path)
    assert isinstance(missing, Missing)
    assert "https://github.com/zhipeng-wei/TT" in str(missing)
    assert str(tmp_path / "checkpoints" / "NL_res50.pth") in str(missing)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "NL_res50.pth").touch()
    assert find_weights(Spec("nl_r50"), "ucf101", None, tmp_path) == tmp_path / "checkpoints" / "NL_res50.pth"
    assert find_weights(Spec("my.module:make"), "anything", None, None) is None
    with pytest.raises(BenchError, match=r"No weights are known for model 'nl_tiny' on data set 'ucf101'.*some_net on"):
        find_weights(Spec("nl_tiny"), "ucf101", None, None)


def small(width: int = 3) -> nn.Module:
    return nn.Linear(width, 2)


def no_module() -> str:
    return "not a network"


def test_classifier_is_built_with_its_weights(tmp_path: Path) -> None:
    state = {"weight": torch.ones(2, 5), "bias": torch.zeros(2)}
    save_file(state, tmp_path / "a.safetensors")
    model = build_classifier(Spec(f"{__name__}:small", {"width": 5}), tmp_path / "a.safetensors")
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_factory_must_return_a_module() -> None:
    with pytest.raises(BenchError, match=r"returned a str, not a torch\.nn\.Module"):
        build_classifier(Spec(f"{__name__}:no_module"), None)
