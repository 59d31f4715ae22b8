"""Where published weights and data can be had, by name. What nobody states is ``None`` here, and never guessed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.data.base import Missing
from bench.registry import DATASETS
from bench.weights.places import (
    GUIDED,
    PIPELINES,
    pipeline_place,
    torchvision_file,
    weights_folder,
)
from bench.weights.zoo import PUBLISHED

HUBS = {
    "modelscope": "damo-vilab/text-to-video-ms-1.7b",
    "stable_diffusion": "stable-diffusion-v1-5/stable-diffusion-v1-5",
}
"""Names on the Hugging Face hub, as of :data:`bench.diffusion.backbones.PUBLISHED`."""

_GUIDED_URL = f"https://openaipublic.blob.core.windows.net/diffusion/jul-2021/{GUIDED}"
_RAFT = ("raft_large", "raft_small")


@dataclass(frozen=True)
class Source:
    """Something that a grid may need.

    Attributes:
        name: what users type.
        what: it is, in words.
        licence: under which terms.
        place: where it lies on this machine, or that it is missing, with where to put it.
        url: of one file that a program may download; empty if there is none.
        hub: name on the Hugging Face hub; empty if it is not there.
        size: in bytes, if it is stated.
        sha256: digest of the file, or the first digits of it, if stated: torchvision and PyTorch's hub put eight into
            the names of their files.
    """

    name: str
    what: str
    licence: str
    place: Path | Missing
    url: str = ""
    hub: str = ""
    size: int | None = None
    sha256: str | None = None

    @property
    def by_hand(self) -> bool:
        """Whether no program may get it."""
        return not (self.url or self.hub)


def sources(data_root: Path | None = None) -> dict[str, Source]:
    """All that is known, by name: RAFT's weights, diffusion models, classifiers, data sets."""
    found = [*_rafts(), *_diffusion(), *_classifiers(data_root), *_data(data_root)]
    return {source.name: source for source in found}


def _rafts() -> list[Source]:
    from torchvision.models import get_model_weights

    found = []
    for model in _RAFT:
        for member in get_model_weights(model):
            place = torchvision_file(model, member.name)
            digits = member.url.rpartition("-")[2].removesuffix(".pth")
            what, licence = f"RAFT, torchvision's {member.name} of {model}", "BSD-3-Clause (torchvision, RAFT)"
            found.append(Source(f"{model}-{member.name}", what, licence, place, url=str(member.url), sha256=digits))
    return found


def _diffusion() -> list[Source]:
    found = [
        Source(name, PIPELINES[name][0], PIPELINES[name][1], pipeline_place(name, hub), hub=hub)
        for name, hub in HUBS.items()
    ]
    folder = weights_folder()
    place = pipeline_place("guided_diffusion", str(folder / GUIDED) if folder is not None else GUIDED)
    what = f"Guided Diffusion of OpenAI, {GUIDED}"
    return [*found, Source("guided_diffusion", what, "MIT", place, url=_GUIDED_URL)]


def _classifiers(data_root: Path | None) -> list[Source]:
    root, folder = data_root or Path("DATA_ROOT"), weights_folder()
    found = []
    for (model, dataset), missing in PUBLISHED.items():
        path = root / missing.put
        places = [path, *([folder / path.name] if folder is not None else [])]
        there = next((place for place in places if place.is_file()), None)
        lacking = Missing(missing.what, missing.get, missing.licence, path)
        found.append(Source(f"{model}-{dataset}", missing.what, missing.licence, there or lacking))
    return found


def _data(data_root: Path | None) -> list[Source]:
    found = []
    for entry in DATASETS:
        if not any(p.name == "root" for p in entry.parameters) or not entry.factory.__module__.startswith("bench."):
            continue
        if not getattr(entry.factory, "published", True):  # of one's own
            continue
        missing = entry.create({"root": data_root}).missing()
        what = f"the data set {entry.name}"
        if not missing:
            found.append(Source(entry.name, what, "", data_root or Path()))
            continue
        for number, one in enumerate(missing):
            name = entry.name if not number else f"{entry.name}-{number + 1}"
            found.append(Source(name, one.what, one.licence, one))
    return found
