"""What a network is trained for: the part of a recipe that differs between classifiers, flow nets and diffusion."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bench.data.base import ClipRef, Dataset
from bench.weights.files import load_checkpoint, load_strictly


class Objective(ABC):
    """One purpose of training. The loop calls :meth:`build` once, then :meth:`batch` and :meth:`loss` each step,
    and :meth:`measure` on the exported weights.

    Attributes:
        kind: what the exported weights are, for the manifest: ``classifier``, ``flow``, ``diffusion``, ...
    """

    kind: ClassVar[str]

    @abstractmethod
    def build(self, model: str, dataset: str, seed: int = 0) -> nn.Module:
        """Makes the network, in training mode and with gradients; parameters without gradients stay as they are.

        Args:
            model: registered name, or ``package.module:factory``.
            dataset: registered name of the data set.
            seed: of the initial weights. The loop also seeds the global generator with it.

        Raises:
            BenchError: a name is unknown or the network is not of this kind.
        """

    def read(self, path: Path, model: str) -> Mapping[str, Tensor]:
        """Weights to start from, by the names that ``model`` gives them.

        Raises:
            BenchError: the file cannot be read, or is for another network.
        """
        return load_checkpoint(path)

    def adopt(self, network: nn.Module, state: Mapping[str, Tensor], path: Path, model: str, dataset: str) -> None:
        """Puts weights that the training starts from into the network that :meth:`build` made.

        Args:
            state, path: the weights, and the file they are from.

        Raises:
            BenchError: they do not fit.
        """
        load_strictly(network, state, path)

    def inspect(self, data: Dataset) -> None:  # noqa: B027 - most have nothing to ask for
        """Looks at the training split before the first step.

        Raises:
            BenchError: it cannot be trained on.
        """

    def entry(self, model: str, recipe: str) -> dict[str, Any]:
        """What the manifest says of the exported network besides its file: at least ``model``, its registered name."""
        return {"model": model}

    def validate(self, network: nn.Module, dataset: str, device: torch.device) -> dict[str, float]:
        """Figures on clips of the split ``val``, for the learning curve; by ``val_union``, if it is there, the best
        weights are kept. The network is to be left as it was."""
        return {}

    @abstractmethod
    def batch(self, data: Dataset, refs: Sequence[ClipRef]) -> tuple[Tensor, ...]:
        """Loads the clips of one step, on the CPU. Runs in the prefetching thread, beside the training."""

    @abstractmethod
    def loss(
        self, network: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, float]]:
        """Scalar loss of one batch, and figures for the progress bar and the learning curve.

        Args:
            batch: what :meth:`batch` returned, on the device of the network.
            generator: a CPU generator, seeded by the training's seed and the step: all randomness of a step
                comes from here, so that a resumed training repeats it.

        Returns:
            The loss, and ``{name: value}``, the same names at every step (``accuracy`` in ``[0, 1]``, ...).
        """

    @abstractmethod
    def measure(self, network: nn.Module, dataset: str, device: torch.device) -> dict[str, Any]:
        """Figures for the manifest, measured on *test* clips.

        Args:
            network: the exported weights, loaded again; evaluation mode, no weight gradients.
            dataset: registered name of the data set, whose split ``test`` is taken.
            device: where the network is.

        Returns:
            Plain values for JSON by name, ``figures`` of the manifest entry: accuracies in per cent with their interval
            and number of clips, end-point errors in pixels, ... ``bench train --measure-only`` asks for them again.
        """
