"""Clean clips and what attacks made of them, as the store of a results folder keeps them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Self

import torch
from torch import Tensor

from bench.data.base import ClipRef, Dataset, MissingClip, listing
from bench.errors import BenchError
from bench.records.results import CellResult
from bench.run.kept import dataset_of
from bench.run.store import LostClips, Store


class Pair(NamedTuple):
    """A clip of a cell, each ``float32 (3, T, H, W)`` with values in [0, 1].

    Attributes:
        clean: as the data set has it.
        adversarial: what the attack made of it, bit for bit what was judged.
    """

    clean: Tensor
    adversarial: Tensor


def difference(pair: Pair, times: float) -> Tensor:
    """What the attack changed, enlarged and put around middle gray: ``0.5 + times (adversarial - clean)``, clamped to
    [0, 1]; ``(3, T, H, W)``."""
    return (0.5 + times * (pair.adversarial - pair.clean)).clamp(0, 1)


class KeptPairs:
    """Reads pairs from the store of a results folder; data sets and what is there are looked up once.

    Args:
        results: folder of results, whether it has a store or not; nothing is written there.
        data_root: folder of the data sets' files.
    """

    def __init__(self, results: Path, data_root: Path | None = None) -> None:
        self._data_root = data_root
        self._store = Store(results / ".store", writable=False)
        self._uses = {use.cell: use for use in self._store.uses()}
        self._datasets: dict[str, tuple[Dataset, dict[str, ClipRef]]] = {}
        self._there: dict[str, set[str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._store.close()

    def has(self, cell: CellResult, clip: str) -> bool:
        """Whether the adversarial clip of a cell is kept; its data set may be missing for all that."""
        use = self._uses.get(cell.cell)
        if use is None:
            return False
        if use.unit not in self._there:
            self._there[use.unit] = self._store.clips_done(use.unit) - self._store.clip_errors(use.unit).keys()
        return clip in self._there[use.unit]

    def pair(self, cell: CellResult, clip: str) -> Pair:
        """One clip of a cell.

        Raises:
            BenchError: the adversarial clip is not kept, has another shape than the clean one, or the clean one is not
                here any more.
        """
        if not self.has(cell, clip):
            raise BenchError(
                f"No adversarial clip {clip!r} of {cell.defense} under {cell.attack} is kept here: run the grid with "
                "--keep all."
            )
        dataset, refs = self._dataset(self._uses[cell.cell].dataset)
        if clip not in refs:
            raise BenchError(f"Clip {clip!r} is not in {self._uses[cell.cell].dataset} any more.")
        try:
            clean = dataset.load(refs[clip])
            made = self._store.load_clips(self._uses[cell.cell].unit, [clip], clean[None]).clips[0]
        except MissingClip as error:
            raise BenchError(f"The clean clip {clip!r} has no file: {error}") from error
        except LostClips as error:
            raise BenchError(
                f"The file of the adversarial clip {clip!r} is gone or torn, or the clean clip is another one now: run "
                "the grid with --keep all, after 'bench bank prune' has removed what is left."
            ) from error
        if made.shape != clean.shape:
            raise BenchError(
                f"The attack made a clip of shape {tuple(made.shape)} of {clip!r}, which has {tuple(clean.shape)}: "
                "there is nothing to show side by side."
            )
        return Pair(clean, made.to(torch.float32))

    def classes(self, cell: CellResult) -> tuple[str, ...]:
        """Names of the classes by which a cell counts; none where they are not those of its data set, or not known."""
        use = self._uses.get(cell.cell)
        if use is None:
            return ()
        try:
            dataset, refs = self._dataset(use.dataset)
        except BenchError:
            return ()
        # Labels of a classifier's own, or in its order, are not those of the data set.
        same = all(o.clip in refs and refs[o.clip].label == o.label for o in cell.outcomes)
        return tuple(dataset.classes) if same else ()

    def _dataset(self, label: str) -> tuple[Dataset, dict[str, ClipRef]]:
        if label not in self._datasets:
            # Behind the comma stand words of how clips were selected or labelled.
            dataset = dataset_of(label.partition(", clips that ")[0].partition(", agreement with ")[0], self._data_root)
            if missing := dataset.missing():
                raise BenchError(f"The data set needs files that are not here:\n{listing(missing)}")
            self._datasets[label] = dataset, {ref.id: ref for ref in dataset.refs()}
        return self._datasets[label]
