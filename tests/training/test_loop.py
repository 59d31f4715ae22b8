"""The training loop: resumable to the bit, averaged weights, a learning curve without holes or doubles."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench import BenchError, ClipRef, Dataset
from bench.training import loop, recipes
from bench.training.curve import Curve
from bench.training.objective import Objective
from bench.training.objectives.classifier import LooksClassification
from bench.training.recipes import Recipe
from bench.weights.files import sha256_of


class Ramp(Dataset):
    """Clip ``i`` is gray of level ``i / 12``; its label is ``i``."""

    classes = tuple(str(i) for i in range(12))

    def __init__(self, split: str = "test", length: int = 12) -> None:
        self.split, self.length = split, length

    def refs(self) -> list[ClipRef]:
        return [ClipRef(str(i), i % 12) for i in range(self.length)]

    def load(self, ref: ClipRef) -> Tensor:
        return torch.full((3, 2, 4, 4), ref.label / 12)


class Fit(Objective):
    """Regression of the label from noisy gray, through dropout and batch norm; one layer is frozen."""

    kind = "regressor"

    def build(self, model: str, dataset: str, seed: int = 0) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))
        network[0].requires_grad_(False)
        return network.train()

    def batch(self, data: Dataset, refs: Sequence[ClipRef]) -> tuple[Tensor, ...]:
        return torch.stack([data.load(r) for r in refs]), torch.tensor([r.label / 12 for r in refs])

    def loss(
        self, network: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, float]]:
        clips, levels = batch
        gray = clips.mean(dim=(1, 2, 3, 4))[:, None]
        gray = gray + 0.1 * torch.randn(gray.shape, generator=generator)
        error = network(gray)[:, 0] - levels
        return error.square().mean(), {"error": float(error.detach().abs().mean())}

    def measure(self, network: nn.Module, dataset: str, device: torch.device) -> dict[str, Any]:
        assert not network.training
        return {"weight": float(network.get_parameter("3.bias"))}


CPU = torch.device("cpu")
RAMP = f"{__name__}:Ramp"


@pytest.fixture(autouse=True)
def fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(recipes.OBJECTIVES, "fit", f"{__name__}:Fit")


class Stop(Exception):
    pass


def train(work: Path, recipe: Recipe, stop: int | None = None, seed: int = 0) -> nn.Module:
    """Trains, interrupted right after step ``stop``; the state is saved every two steps."""

    def report(state: loop.TrainingState) -> None:
        assert state.steps == recipe.steps
        if state.step == stop:
            raise Stop

    return loop.train("net", RAMP, recipe, seed=seed, work=work, device=CPU, report=report, save_every=2)


def table(work: Path) -> list[dict[str, str]]:
    with (work / "curve.csv").open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize("clips", [None, 8])
def test_a_resumed_training_ends_like_an_uninterrupted_one(
    tmp_path: Path, ema: float | None, clips: int | None
) -> None:
    recipe = Recipe("r", "fit", steps=9, batch=4, warmup=2, ema=ema, clips=clips)
    before = torch.get_rng_state()
    whole = train(tmp_path / "whole", recipe).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    for stop in (3, 4, 7):  # some steps after a saved state, and before one is saved
        with pytest.raises(Stop):
            train(tmp_path / "parts", recipe, stop=stop)
    parts = train(tmp_path / "parts", recipe).state_dict()
    assert all(torch.equal(whole[k], parts[k]) for k in whole)
    ours, theirs = table(tmp_path / "parts"), table(tmp_path / "whole")
    assert [r["step"] for r in ours] == [str(i) for i in range(1, 10)]
    for a, b in zip(ours, theirs, strict=True):
        assert list(a) == ["step", "loss", "error", "lr", "seconds"]
        assert {**a, "seconds": ""} == {**b, "seconds": ""}
    seconds = [float(r["seconds"]) for r in ours]
    assert seconds == sorted(seconds)
    again = train(tmp_path / "parts", recipe).state_dict()  # nothing left to do
    assert all(torch.equal(whole[k], again[k]) for k in whole)
    other = train(tmp_path / "other", recipe, seed=1).state_dict()
    assert not torch.equal(other["3.weight"], whole["3.weight"])
    assert torch.equal(other["0.weight"], Fit().build("", "").get_parameter("0.weight"))


def test_a_training_starts_from_the_weights_its_recipe_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = train(tmp_path / "begun", Recipe("r", "fit", steps=3, batch=4, warmup=1, clips=8)).state_dict()
    file = tmp_path / "net-ramps.safetensors"
    save_file(begun, file)
    monkeypatch.setattr(loop, "zoo_file", lambda model, dataset: file if (model, dataset) == ("net", "ramps") else None)
    # A rate of zero keeps what it starts from.
    still = Recipe("s", "fit", steps=2, batch=4, lr=0.0, weight_decay=0.0, clips=8, start="ramps")
    kept = train(tmp_path / "kept", still)
    assert all(torch.equal(begun[name], value) for name, value in kept.named_parameters())
    entry = loop.export(
        kept, "net", "ramp", still, seed=0, seconds=1.0, out=tmp_path / "zoo", device=CPU, work=tmp_path / "kept"
    )
    assert entry["started_from"] == sha256_of(file)
    save_file({k: v + 1 if v.is_floating_point() else v for k, v in begun.items()}, file)
    with pytest.raises(BenchError, match="a training with other settings"):  # other weights under the same name
        train(tmp_path / "kept", still)
    with pytest.raises(BenchError, match="starts from weights of 'net' trained on hills, and none are shipped"):
        train(tmp_path / "other", replace(still, start="hills"))


def test_averaged_weights_are_the_moving_average_of_the_raw_ones(tmp_path: Path) -> None:
    raw = []
    for steps in range(1, 5):  # a constant rate makes a shorter training the beginning of a longer one
        recipe = Recipe("r", "fit", steps=steps, batch=4, warmup=1, decay="none", clips=8)
        raw.append(train(tmp_path / str(steps), recipe).state_dict())
    expected = {k: v.double().numpy() for k, v in Fit().build("", "").state_dict().items()}
    for n, state in enumerate(raw, start=1):
        keep = min(0.25, (1 + n) / (10 + n))
        expected = {k: keep * v + (1 - keep) * state[k].double().numpy() for k, v in expected.items()}
    found = train(tmp_path / "ema", Recipe("r", "fit", steps=4, batch=4, warmup=1, decay="none", clips=8, ema=0.25))
    for name, value in found.state_dict().items():
        if value.is_floating_point():
            np.testing.assert_allclose(value.numpy(), expected[name], rtol=1e-4, atol=1e-6, err_msg=name)
    assert not torch.allclose(found.get_parameter("3.weight"), raw[-1]["3.weight"])


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("linear", [0.5, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]),
        ("none", [0.5, 1, 1, 1]),
    ],
)
def test_learning_rate(tmp_path: Path, decay: Any, expected: list[float]) -> None:
    train(tmp_path, Recipe("r", "fit", steps=4, batch=4, lr=1.0, warmup=2, decay=decay))
    assert [float(r["lr"]) for r in table(tmp_path)] == pytest.approx(expected, rel=1e-5)


def test_curve_is_drawn_and_exported_with_the_weights(tmp_path: Path) -> None:
    recipe = Recipe("r", "fit", steps=4, batch=4)
    network = train(tmp_path / "work", recipe)
    entry = loop.export(
        network,
        "net",
        "ramp",
        recipe,
        seed=0,
        seconds=90,
        out=tmp_path / "zoo",
        device=CPU,
        work=tmp_path / "work",
        curves=tmp_path / "curves",
    )
    with Image.open(tmp_path / "curves" / "net-ramp.png") as picture:
        assert min(picture.size) > 200
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20
    weights = load_file(tmp_path / "zoo" / "net-ramp.safetensors")
    assert weights["0.weight"].dtype == torch.float16
    stored = json.loads((tmp_path / "zoo" / "manifest.json").read_text(encoding="utf-8"))
    assert stored == {"net-ramp.safetensors": entry}
    assert entry["kind"] == "regressor"
    assert entry["recipe"] == asdict(recipe)
    assert entry["minutes"] == 1.5
    # Measured on the half-precision weights as they are in the file, not on those in memory before.
    assert entry["figures"] == {"weight": float(weights["3.bias"])}


def test_weights_are_measured_again_only_if_they_are_those_of_the_manifest(tmp_path: Path) -> None:
    recipe = Recipe("r", "fit", steps=1, batch=4)
    network = train(tmp_path / "work", recipe)
    out = tmp_path / "zoo"
    entry = loop.export(network, "net", "ramp", recipe, seed=0, seconds=1, out=out, device=CPU)
    file = out / "manifest.json"
    file.write_text(file.read_text(encoding="utf-8").replace('"weight"', '"outdated"'), encoding="utf-8")
    assert loop.remeasure("net", "ramp", out=out, device=CPU) == entry
    assert json.loads(file.read_text(encoding="utf-8")) == {"net-ramp.safetensors": entry}
    with pytest.raises(BenchError, match=r"no entry other-ramp\.safetensors"):
        loop.remeasure("other", "ramp", out=out, device=CPU)
    weights = out / "net-ramp.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(BenchError, match="does not match its checksum"):
        loop.remeasure("net", "ramp", out=out, device=CPU)


def test_table_of_the_curve(tmp_path: Path) -> None:
    curve = Curve(tmp_path / "curve.csv")
    for step in range(1, 4):
        curve.add(step, 1 / step, {"error": 0.5}, 1e-3, step)
    curve.save()
    assert (tmp_path / "curve.csv").read_text(encoding="utf-8") == (
        "step,loss,error,lr,seconds\n1,1,0.5,0.001,1\n2,0.5,0.5,0.001,2\n3,0.333333,0.5,0.001,3\n"
    )
    assert [r["step"] for r in Curve(tmp_path / "curve.csv", 2).rows] == [1, 2]
    assert Curve(tmp_path / "curve.csv").rows == []


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    for recipe, message in (
        (Recipe("r", "fitt"), "unknown objective 'fitt' .did you mean 'fit'"),
        (Recipe("r", "fit", batch=4, clips=3), "holds 3 clips, fewer than one batch of 4"),
    ):
        with pytest.raises(BenchError, match=message):
            train(tmp_path, recipe)
    with pytest.raises(BenchError, match=r"Unknown recipe 'standart' .did you mean 'standard'"):
        recipes.recipe_of("standart")
    with pytest.raises(BenchError, match="at least one step"):
        recipes.recipe_of("standard", 0)
    train(tmp_path, Recipe("r", "fit", steps=2, batch=4))
    with pytest.raises(BenchError, match="other settings"):
        train(tmp_path, Recipe("r", "fit", steps=2, batch=4, lr=1.0))
    (tmp_path / "state.pt").write_bytes(b"PK not a state")
    with pytest.raises(BenchError, match=r"state\.pt is damaged: delete it"):
        train(tmp_path, Recipe("r", "fit", steps=2, batch=4))


def test_options_of_a_recipe_go_to_its_objective() -> None:
    made = recipes.objective_of(Recipe("r", "looks classifier", {"mixed": 0.5, "gray": 0.0}))
    assert isinstance(made, LooksClassification)
    assert (made.mixed, made.gray, made.step) == (0.5, 0.0, 0.0)


def test_a_damaged_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(BenchError, match=r"manifest\.json is no manifest of weights"):
        loop.remeasure("net", "ramp", out=tmp_path, device=CPU)
