"""Defences whose weights were trained: where their weights are, and how they get into the network."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

from torch import Tensor, nn

from bench.defense.base import RobustModel
from bench.errors import BenchError
from bench.models.robust import entry_name
from bench.weights.files import load_checkpoint, load_strictly
from bench.weights.zoo import zoo_file


def know_origin(classifier: nn.Module, model: str, dataset: str) -> None:
    """Notes on a classifier by which registered names it goes: shipped robust weights are found by them."""
    classifier.__dict__["origin"] = (model, dataset)


class TrainedDefense(RobustModel):
    """A robust network whose weights are shipped for some classifiers, or given as a file.

    Args:
        recipe: by which it was trained; names the shipped weights.
        weights: a file of ``bench train``, or of another training with the same parameters; shipped ones if not given.
    """

    def __init__(self, recipe: str, weights: str = "") -> None:
        self.recipe, self.weights = recipe, weights

    @abstractmethod
    def network(self, classifier: nn.Module) -> nn.Module:
        """The robust network, with whatever weights; ``classifier`` may be changed in place."""

    def wrap(self, classifier: nn.Module) -> nn.Module:
        """Builds the robust network and loads its weights.

        Raises:
            BenchError: no weights are known, or they do not fit.
        """
        file = Path(self.weights) if self.weights else self._shipped(classifier)
        network = self.network(classifier)
        load_strictly(network, self.translated(load_checkpoint(file)), file)
        return network

    def translated(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of another layout in that of :meth:`network`; as it is by default."""
        return state

    def _shipped(self, classifier: nn.Module) -> Path:
        origin = classifier.__dict__.get("origin")
        if origin is None:
            raise BenchError(
                f"Weights of recipe {self.recipe!r} are shipped for registered classifiers, and this "
                f"{type(classifier).__name__} is none: give a file with weights=."
            )
        model, dataset = origin
        file = zoo_file(entry_name(model, self.recipe), dataset)
        if file is None:
            raise BenchError(
                f"No weights of {model} on {dataset} by recipe {self.recipe!r} are shipped: train them with "
                f"bench train --model {model} --dataset {dataset} --recipe {self.recipe}, "
                "and give the file with weights=."
            )
        return file
