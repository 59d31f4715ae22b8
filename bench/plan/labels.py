"""A classifier's own answers in place of labels: for videos whose labels nobody knows, or for which it has no class."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from bench import code
from bench.data.base import ClipRef, Dataset, Missing, MissingClip
from bench.defense.defended import usable
from bench.errors import BenchError
from bench.faults import charge_no_machine
from bench.plan.cells import Component
from bench.plan.probe import ask


class OwnLabels(Dataset):
    """The clips of a data set, each labelled with what a network says of it.

    The network is asked about each clip alone, on the CPU, so that every machine finds the same labels. A clip that
    cannot be read, or gets no finite answer, has the label 0: its outcomes are missing or failed, whatever that is.

    Args:
        dataset: where the clips are.
        network: clips ``(1, 3, T, H, W)`` to logits ``(1, K)``.
        most: only the first so many clips; all if not given.
    """

    def __init__(self, dataset: Dataset, network: nn.Module, most: int | None = None) -> None:
        self._dataset, self._network, self._most = dataset, network, most
        self.classes = ()  # those of the network, whose names nobody knows
        self.note = dataset.note

    @cached_property
    def _labelled(self) -> list[ClipRef]:
        return [replace(ref, label=self._answer(ref)) for ref in self._dataset.refs()[: self._most]]

    def refs(self) -> list[ClipRef]:
        """All clips.

        Raises:
            BenchError: the network cannot take one.
        """
        return self._labelled

    def _answer(self, ref: ClipRef) -> int:
        try:
            clip = self._dataset.load(ref)
        except (MissingClip, BenchError, OSError, RuntimeError, ValueError) as error:
            charge_no_machine(error, f"Clip {ref.id}, which is to be labelled, cannot be loaded")
            return 0
        try:
            logits: Tensor = ask(self._network, clip[None], torch.device("cpu"))
        except Exception as error:
            raise BenchError(
                f"The classifier, whose answers are to be the labels, cannot take clips of shape {(1, *clip.shape)}: "
                f"{type(error).__name__}: {error}"
            ) from error
        return int(logits.argmax()) if bool(usable(logits).all()) else 0

    def load(self, ref: ClipRef) -> Tensor:
        """One clip, as the data set has it.

        Raises:
            MissingClip: its file does not exist.
        """
        return self._dataset.load(ref)

    def fingerprint(self) -> str:
        """The data set's."""
        return self._dataset.fingerprint()

    def files(self) -> Iterable[Path]:
        """The data set's."""
        return self._dataset.files()

    def missing(self) -> list[Missing]:
        """The data set's."""
        return self._dataset.missing()


def own_labels(dataset: Component[Dataset], model: Component[nn.Module], most: int | None) -> Component[Dataset]:
    """A data set with a classifier's own answers for labels; its identity names the classifier, and its label says so.

    Args:
        most: only the first so many clips; all if not given.
    """
    identity = dataset.identity.model_copy(
        update={
            "params": {**dataset.identity.params, "labels": "own"},
            "files": {**dataset.identity.files, "labels": code.digest(own_labels)},
            "parts": (*dataset.identity.parts, model.identity),
        }
    )
    label = f"{dataset.label}, agreement with {model.label}'s own answers to the clean clips, not accuracy"
    return Component(label, OwnLabels(dataset.instance, model.instance, most), identity)
