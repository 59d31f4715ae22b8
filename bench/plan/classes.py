"""Whether the classes of the clips are those of a classifier's outputs, where both have names: another order would make
every figure wrong, and none look so."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from torch import nn

from bench.data.base import Dataset
from bench.errors import BenchError
from bench.plan.cells import Component


@runtime_checkable
class Relabelled(Protocol):
    """A data set whose labels follow from names."""

    def in_order_of(self, names: Sequence[str]) -> Dataset | None:
        """The same clips, a class of which is labelled with its place among the names; nothing if its numbers are
        given. Every class is one of the names."""


def class_names(network: nn.Module) -> tuple[str, ...]:
    """Names of a network's outputs, in their order; empty if nobody knows them.

    They are its attribute ``class_names``, or that of the network that it wraps, or the ``id2label`` of a configuration
    of transformers, unless that says ``LABEL_0`` and so on, as it does by default.
    """
    for one in (network, getattr(network, "wrapped_network", None)):
        names = getattr(one, "class_names", None)
        if isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names):
            return tuple(names)
        named = getattr(getattr(one, "config", None), "id2label", None)
        if isinstance(named, Mapping) and sorted(named) == list(range(len(named))):
            listed = tuple(str(named[number]) for number in range(len(named)))
            if not all(re.fullmatch(r"LABEL_\d+", name) for name in listed):
                return listed
    return ()


def in_common_order(dataset: Component[Dataset], models: Iterable[Component[nn.Module]]) -> Component[Dataset]:
    """A data set with the labels that its classes have among the outputs of the classifiers, as far as both have names.

    Case, blanks and signs make no difference between names. Names that a classifier does not have are left to
    :func:`strangers`, as long as none of the others stands elsewhere.

    Raises:
        BenchError: classes are in another order than outputs, and cannot be labelled by their names.
    """
    for model in models:
        names, classes = class_names(model.instance), tuple(dataset.instance.classes)
        places = _places(names)
        found = [places.get(_key(name), []) for name in classes]
        elsewhere = [i for i, there in enumerate(found) if there and i not in there]
        if not elsewhere:
            continue
        ordered = None
        if all(len(there) == 1 for there in found) and isinstance(dataset.instance, Relabelled):
            spelt = dict(zip((there[0] for there in found), classes, strict=True))
            ordered = dataset.instance.in_order_of([spelt.get(i, name) for i, name in enumerate(names)])
        if ordered is None:
            raise BenchError(_refusal(dataset, model, elsewhere[0], found))
        said = f"Labels are the outputs of {model.label}, by their names."
        ordered.note = f"{ordered.note} {said}".strip()
        files = {**dataset.identity.files, "content": ordered.fingerprint()}
        dataset = replace(dataset, instance=ordered, identity=dataset.identity.model_copy(update={"files": files}))
    return dataset


def _refusal(
    dataset: Component[Dataset], model: Component[nn.Module], first: int, found: Sequence[Sequence[int]]
) -> str:
    """What is wrong with the order of classes, and what to do."""
    classes = dataset.instance.classes
    unknown = [name for name, there in zip(classes, found, strict=True) if not there]
    also = f", which has no {unknown[0]!r}" if unknown else ""
    return (
        f"The classes of {dataset.label} are in another order than the outputs of {model.label}{also}: "
        f"{classes[first]!r} is class {first} of the clips and output {found[first][0]} of the classifier. Name the "
        "classes in the order of its outputs, as classes=FILE of the data set folder does, or take a classifier of "
        "this data set."
    )


def strangers(dataset: Dataset, models: Mapping[str, nn.Module]) -> list[str]:
    """A sentence on every classifier, by its label, that names its outputs and has no name of a class of the clips."""
    said = []
    for label, network in models.items():
        names = class_names(network)
        known = _places(names)
        unknown = [name for name in dataset.classes if _key(name) not in known]
        if names and unknown:
            said.append(
                f"{len(unknown)} of the {len(dataset.classes)} classes of the clips, such as {unknown[0]!r}, are none "
                f"that {label} has by name, such as {names[0]!r}: they are taken for the outputs of their numbers."
            )
    return said


def _places(names: Sequence[str]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        places.setdefault(_key(name), []).append(number)
    return places


def _key(name: str) -> str:
    """A name without case, blanks and signs; of one that has nothing else, itself."""
    return "".join(c for c in name.casefold() if c.isalnum()) or name
