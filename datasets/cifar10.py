"""CIFAR-10: 60,000 photographs of 32x32 pixels in ten classes, as clips of one frame."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bench import BenchError, ClipRef, Dataset, Missing, MissingClip, at_least, listing, register, seed_of
from bench.data.frames import number_of, to_clip

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_TRAIN = tuple(f"data_batch_{n}" for n in range(1, 6))
_FILES = {"train": _TRAIN, "val": _TRAIN, "test": ("test_batch",)}
_FOLDER, _PICKLES = "cifar-10-batches-bin", "cifar-10-batches-py"
_SIDE = 32
_RECORD = 1 + 3 * _SIDE**2
_IMAGES = 10_000  # in each file
_HELD_OUT = 10  # one in so many of each class
_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
_LICENCE = "none stated; cite Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009"


@register(
    "cifar10",
    source="Krizhevsky, Learning Multiple Layers of Features from Tiny Images, University of Toronto, technical "
    "report, 2009",
)
class CIFAR10(Dataset):
    """CIFAR-10 for attacks and defences of video classifiers: every image is a clip of one frame.

    The files are those of the *binary version*: ``ROOT/cifar-10-batches-bin/*.bin`` (or ``ROOT/*.bin``). The Python
    version consists of pickles, which can run code when they are read, and is not used.

    Of each class a tenth of the training images is held out as ``val``, chosen by a hash of their places, always the
    same ones: 45,000, 5,000 and 10,000 images.

    Args:
        root: folder of the files; never part of a result's identity.
        split: ``test``, ``train`` or ``val``.
        clips_per_class: how many images of each class, or None for all. A smaller choice is part of a larger one.
        seed: of that choice.
    """

    classes = CLASSES

    def __init__(
        self,
        root: Path | str | None = None,
        split: Literal["test", "train", "val"] = "test",
        clips_per_class: int | None = None,
        seed: int = 0,
    ) -> None:
        if split not in _FILES:
            raise BenchError(f"Unknown split {split!r}: choose test, train or val.")
        if clips_per_class is not None:
            at_least("clips_per_class", clips_per_class, 1, " or None for all")
        self.root = None if root is None else Path(root).expanduser()
        self.split, self.clips_per_class, self.seed = split, clips_per_class, seed

    def missing(self) -> list[Missing]:
        absent = [name for name in _FILES[self.split] if self._file(name) is None]
        if not absent:
            return []
        why = f"absent: {', '.join(f'{name}.bin' for name in absent)}"
        if self.root is None:
            why = "no data root is given: use --data-root DATA_ROOT"
        elif not self.root.is_dir():
            why = f"the data root {self.root} {'is not a folder' if self.root.exists() else 'does not exist'}"
        elif (self.root / _PICKLES).is_dir():
            why += f"; the Python version in {_PICKLES} is not read, since pickles can run code"
        put = self._base / _FOLDER / "*.bin"
        return [
            Missing(
                f"the CIFAR-10 images, binary version ({why})", f"cifar-10-binary.tar.gz from {_PAGE}", _LICENCE, put
            )
        ]

    def refs(self) -> list[ClipRef]:
        """The chosen images in the order of the files; of their contents only the labels are read.

        Raises:
            BenchError: files are missing or damaged.
        """
        return [ref for ref in self._refs if self._kept is None or ref.id in self._kept]

    def load(self, ref: ClipRef) -> Tensor:
        """One image, ``float32 (3, 1, 32, 32)`` in ``[0, 1]``, RGB.

        Raises:
            MissingClip: its file does not exist.
            BenchError: the file is damaged, or there is no such image.
        """
        if self.root is None:
            raise BenchError("CIFAR-10 has no data root: use --data-root, or root=... in Python.")
        name, _, digits = ref.id.partition("/")
        number = number_of(digits)
        if name not in (*_TRAIN, "test_batch") or number is None or number >= _IMAGES:
            raise BenchError(f"CIFAR-10 has no image {ref.id!r}: its ids are like test_batch/0.")
        path = self._file(name)
        if path is None:
            raise MissingClip(f"The file {self._base / _FOLDER / name}.bin with image {number} does not exist.")
        planes = np.array(_records(path)[number, 1:]).reshape(3, _SIDE, _SIDE)
        return to_clip([planes.transpose(1, 2, 0)])

    def fingerprint(self) -> str:
        """Digest of the files: images of other versions (corrupted or collected anew) come under the same names."""
        if self.missing():
            return ""
        digest = hashlib.sha256()
        for name in _FILES[self.split]:
            digest.update(_records(self._file(name) or self._base / f"{name}.bin").tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def _refs(self) -> list[ClipRef]:
        missing = self.missing()
        if missing:
            raise BenchError(f"CIFAR-10 needs files that are not here:\n{listing(missing)}")
        refs = []
        for name in _FILES[self.split]:
            path = self._file(name) or self._base / f"{name}.bin"
            _check_classes(path.parent / "batches.meta.txt")
            labels = np.array(_records(path)[:, 0])
            if labels.max() >= len(CLASSES):
                bad = int((labels >= len(CLASSES)).argmax())
                raise BenchError(
                    f"{path}, image {bad}: the label {labels[bad]} is not one of 0 to {len(CLASSES) - 1}; get the file "
                    f"again from {_PAGE}."
                )
            refs += [ClipRef(f"{name}/{number}", int(label)) for number, label in enumerate(labels)]
        if self.split == "test":
            return refs
        held_out: set[str] = set()
        for ids in _by_class(refs):
            held_out.update(sorted(ids, key=lambda i: seed_of("cifar10 val", i))[: len(ids) // _HELD_OUT])
        return [ref for ref in refs if (ref.id in held_out) == (self.split == "val")]

    @cached_property
    def _kept(self) -> set[str] | None:
        if self.clips_per_class is None:
            return None
        ranked = (sorted(ids, key=lambda i: seed_of("cifar10", self.seed, i)) for ids in _by_class(self._refs))
        return {i for ids in ranked for i in ids[: self.clips_per_class]}

    @property
    def _base(self) -> Path:
        return Path("DATA_ROOT") if self.root is None else self.root

    def _file(self, name: str) -> Path | None:
        if self.root is None:
            return None
        places = (self.root / _FOLDER / f"{name}.bin", self.root / f"{name}.bin")
        return next((path for path in places if path.is_file()), None)


def _by_class(refs: list[ClipRef]) -> list[list[str]]:
    ids: list[list[str]] = [[] for _ in CLASSES]
    for ref in refs:
        ids[ref.label].append(ref.id)
    return ids


def _records(path: Path) -> NDArray[np.uint8]:
    """The images of a file, ``(10000, 3073)``: the label, then the red, the green and the blue plane, row by row.

    Raises:
        BenchError: the file has another size or cannot be read.
    """
    expected = _IMAGES * _RECORD
    try:
        size = path.stat().st_size
        if size == expected:
            return np.memmap(path, np.uint8, "r", shape=(_IMAGES, _RECORD))
    except OSError as error:
        raise BenchError(f"Cannot read {path}: {error}.") from error
    raise BenchError(f"{path} has {size} bytes, not {expected}; get it again from {_PAGE}.")


def _check_classes(path: Path) -> None:
    """Compares the optional list of class names: with another order every label would be wrong."""
    if not path.is_file():
        return
    try:
        names = tuple(path.read_text(encoding="utf-8-sig").split())
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"Cannot read {path}: {error}; get it again from {_PAGE}.") from error
    if names != CLASSES:
        raise BenchError(f"{path} does not list the ten classes of CIFAR-10; get it again from {_PAGE}, or remove it.")
