"""Data sets as users write them: files in a folder, and nothing said of what identifies them."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from bench import ClipRef, Dataset

LEVELS = {"dark": 77, "medium": 128, "bright": 179}


class Stills(Dataset):
    """Gray clips, one PNG each, called ``<class>.png``.

    Args:
        root: folder of the files.
        frames: clip length.
        reading: how, which changes hardly any clip.
    """

    classes = tuple(LEVELS)
    unseeded = frozenset({"reading"})

    def __init__(self, root: Path | str, frames: int = 4, reading: str = "strict") -> None:
        self.root, self.frames, self.reading = Path(root), frames, reading

    def refs(self) -> list[ClipRef]:
        return [ClipRef(f"{name}.png", label) for label, name in enumerate(self.classes)]

    def load(self, ref: ClipRef) -> Tensor:
        with Image.open(self.root / ref.id) as image:
            level = image.getpixel((0, 0))
        return torch.full((3, self.frames, 16, 16), level / 255)


class Numbered(Stills):
    """The same, with ids that are no names of files."""

    def refs(self) -> list[ClipRef]:
        return [ClipRef(str(label), label) for label in range(3)]

    def load(self, ref: ClipRef) -> Tensor:
        return super().load(super().refs()[int(ref.id)])


class Listed(Stills):
    """The same, from a file that is a parameter too.

    Args:
        root: folder of the files.
        list: a text file.
    """

    def __init__(self, root: Path | str, list: str) -> None:
        super().__init__(root)


def write_stills(folder: Path, levels: dict[str, int] = LEVELS) -> Path:
    """Fills a folder for :class:`Stills`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, level in levels.items():
        Image.new("L", (16, 16), level).save(folder / f"{name}.png")
    return folder
