"""Defences whose weights were trained: where their weights are, and how they get into the network."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.data.base import Missing, listing
from bench.defense.base import Purifier, RobustModel
from bench.errors import BenchError
from bench.models.robust import entry_name
from bench.registry import DEFENSES
from bench.seeds import ClipRandom
from bench.weights.files import load_checkpoint, load_strictly
from bench.weights.zoo import zoo_file


def know_origin(classifier: nn.Module, model: str, dataset: str, data_root: Path | None = None) -> None:
    """Notes on a classifier its registered names and where files lie: robust weights are found by them."""
    classifier.__dict__["origin"] = (model, dataset, data_root)


class Behind(nn.Module):
    """A network that sees every clip through a transform that draws no random numbers, for training and defences.

    Backward, autograd passes through the transform where it can; elsewhere its stand-in is differentiated
    (:meth:`~bench.defense.base.Purifier.bpda`), so that no gradient is masked.
    """

    def __init__(self, transform: Purifier, network: nn.Module) -> None:
        super().__init__()
        self.transform, self.network = transform, network

    def forward(self, clips: Tensor) -> Tensor:
        """Clips ``(B, 3, T, H, W)`` to logits ``(B, K)``."""
        rng = ClipRandom(range(len(clips)))
        if self.transform.differentiable:
            shown = self.transform.purify(clips, rng)
        else:
            with torch.no_grad():
                shown = self.transform.purify(clips.clone(), rng)
            if torch.is_grad_enabled() and clips.requires_grad:
                stand_in = self.transform.bpda(clips, rng)
                shown = shown + (stand_in - stand_in.detach())
        logits: Tensor = self.network(shown)
        return logits


def transform_of(text: str) -> Purifier:
    """Makes the transform of :class:`Behind` from its name and parameters, such as ``jpeg(quality=50)``.

    Raises:
        BenchError: there is none, it changes the network and not the clip, or it draws random numbers.
    """
    made = DEFENSES.create(text)
    if not isinstance(made, Purifier):
        raise BenchError(f"{text} is no transform of clips: name a defence that is.")
    if made.stochastic:
        raise BenchError(f"{text} draws random numbers, of which a network has none: name a defence that does not.")
    return made.eval()


class TrainedDefense(RobustModel):
    """A robust network whose weights are shipped for some classifiers, or are a file on this machine.

    Args:
        recipe: by which it was trained; names the weights, see :meth:`find`.
        weights: a file of ``bench train``, or of another training with the same parameters, in place of those.
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
        file = self._file(classifier)
        network = self.network(classifier)
        load_strictly(network, self.translated(load_checkpoint(file)), file)
        return network

    def translated(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of another layout in that of :meth:`network`; as it is by default."""
        return state

    def find(self, model: str, dataset: str, data_root: Path | None = None) -> Path | Missing:
        """Where the weights are: the file given, the shipped ones, or what ``bench train`` wrote below ``data_root``.

        A relative file that is not in the present folder is looked for under ``data_root``.
        """
        root = data_root or Path("DATA_ROOT")
        name = entry_name(model, self.recipe)
        shipped = None if self.weights else zoo_file(name, dataset)
        if shipped is not None:
            return shipped
        given = Path(self.weights or f"checkpoints/{name}-{dataset}.safetensors")
        place = given if given.is_file() else root / given  # as it is where it is absolute
        if place.is_file():
            return place
        licence = "of whoever trained it; derived from weights of the classifier"
        if self.weights:
            return Missing(f"weights {self.weights!r}", "where the name in weights= comes from", licence, place)
        train = f"bench train --model {model} --dataset {dataset} --recipe {self.recipe}"
        return Missing(
            f"weights of {model} on {dataset} by recipe {self.recipe!r}, which are not shipped",
            f"nowhere: train them with {train} --out {place.parent} (docs/training.md)",
            licence,
            f"{place}, or anywhere and give it with weights=",
        )

    def _file(self, classifier: nn.Module) -> Path:
        model, dataset, data_root = classifier.__dict__.get("origin", ("", "", None))
        if not model and not self.weights:
            raise BenchError(
                f"Weights of recipe {self.recipe!r} are found for registered classifiers, and this "
                f"{type(classifier).__name__} is none: give a file with weights=."
            )
        file = self.find(model, dataset, data_root)
        if isinstance(file, Missing):
            raise BenchError(f"A file is not here:\n{listing([file])}")
        return file
