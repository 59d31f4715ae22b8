"""A step of every training on a GPU is what it is on the CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kit.pretend import DEVICE, PretendDevice, assert_same
from torch import Tensor

from bench.models.base import build_seeded
from bench.training import loop
from bench.training.data import split_of
from bench.training.recipes import OBJECTIVES, RECIPES, Recipe, objective_of

# What a recipe of an objective trains, where it is not the small residual network.
MODELS = {
    "flow stream": "flow_stream_tiny",
    "flow": "flow_tiny",
    "reconstruction": "autoencoder_tiny",
    "denoising": "pixel_tiny",
    "latent denoising": "latent_tiny",
}
# One of each objective, the shortest that there is.
SHORT = {r.objective: r for r in sorted(RECIPES.values(), key=lambda r: -r.steps)}


def test_every_objective_has_a_recipe() -> None:
    assert set(SHORT) == set(OBJECTIVES)


def quick(recipe: Recipe) -> Recipe:
    """One inner step in place of several."""
    options = dict(recipe.options)
    if "steps" in options:
        options["steps"] = 1
    return replace(recipe, options=options)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_loss_and_its_gradient_are_those_of_the_cpu(name: str) -> None:
    data = split_of("actions12", "train", length=1 if name in MODELS else 2)

    def run(device: torch.device) -> list[Tensor]:
        objective = objective_of(quick(SHORT[name]))
        model = MODELS.get(name, "resnet3d_tiny")
        network = build_seeded(lambda: objective.build(model, "actions12", 0), 0).to(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            batch = tuple(part.to(device) for part in objective.batch(data, data.refs()))
            loss, figures = objective.loss(network, batch, torch.Generator().manual_seed(1))
        loss.backward()
        assert all(isinstance(value, float) for value in figures.values())
        return [loss.detach(), *(p.grad for p in network.parameters() if p.grad is not None)]

    assert_same(run)


def test_a_training_is_saved_resumed_and_averaged_there(tmp_path: Path) -> None:
    recipe = Recipe("r", steps=2, batch=2, warmup=1, ema=0.9, clips=4, mixed=False)

    def trained(folder: Path, device: torch.device) -> dict[str, Tensor]:
        network = loop.train(
            "resnet3d_tiny",
            "actions12",
            recipe,
            seed=0,
            work=folder,
            device=device,
            report=lambda state: None,
            save_every=1,
        )
        return {name: value.cpu() for name, value in network.state_dict().items()}

    plain = trained(tmp_path / "cpu", torch.device("cpu"))
    with PretendDevice():
        found = trained(tmp_path / "cuda", DEVICE)
        again = trained(tmp_path / "cuda", DEVICE)  # resumed from what was saved
    for name, value in plain.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(again[name], value, rtol=1e-4, atol=1e-5)
