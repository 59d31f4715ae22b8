"""The clips of a training: which data set, which split of it."""

from __future__ import annotations

from typing import Any

from bench.data.base import ClipRef, Dataset, listing
from bench.data.procedural import ProceduralDataset
from bench.errors import BenchError
from bench.registry import DATASETS, Spec
from bench.seeds import seed_of


def split_of(dataset: str, split: str, **more: Any) -> Dataset:
    """One split of a data set.

    Args:
        dataset: as grids name it, with parameters if it needs some: ``ucf101(root='/data', frames=40, size=112)``.
        split: ``train``, ``val`` or ``test``.
        more: further parameters, where the name gives none.

    Raises:
        BenchError: there is no such data set, or its files are not here.
    """
    spec = Spec.parse(dataset)
    data: Dataset = DATASETS.create(Spec(spec.name, {**more, **spec.params, "split": split}))
    absent = data.missing()
    if absent:
        raise BenchError(f"Training on {spec.name} needs files that are not here:\n{listing(absent)}")
    return data


def some_of(data: Dataset, count: int) -> list[ClipRef]:
    """So many clips, of all classes alike, and so is any beginning of them: real data sets list their clips class by
    class, rendered ones in turn."""
    refs = data.refs()
    if isinstance(data, ProceduralDataset):
        return refs[:count]
    few = min(count, len(refs))
    chosen = [refs[i * len(refs) // few] for i in range(few)]
    return sorted(chosen, key=lambda ref: seed_of("some", ref.id))


def check_classes(data: Dataset) -> None:
    """Every class must have clips; what is rendered on demand has them.

    Raises:
        BenchError: names the first classes without a clip.
    """
    if isinstance(data, ProceduralDataset):
        return
    there = {ref.label for ref in data.refs()}
    absent = [name for label, name in enumerate(data.classes) if label not in there]
    if absent:
        few = ", ".join(absent[:3]) + (f" and {len(absent) - 3} more" if len(absent) > 3 else "")
        raise BenchError(
            f"The training split of {type(data).__name__} has no clip of {few}: a classifier would never learn "
            f"{'it' if len(absent) == 1 else 'them'}; add the files, or train on a data set without."
        )
