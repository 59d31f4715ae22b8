"""Kinetics-400: ten-second YouTube clips of 400 human actions, read from a copy on this machine."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
from torch import Tensor

from bench import BenchError, ClipRef, Dataset, Missing, MissingClip, at_least, listing, register, seed_of
from bench.data.frames import Frame, OnDamage, check_damage, decode, is_hidden, to_clip

_VIDEOS = (".mp4", ".mkv", ".webm", ".avi", ".mov")
_GET = "https://github.com/cvdfoundation/kinetics-dataset (archives of the validation split, and annotations/val.csv)"
_LICENCE = "annotations CC BY 4.0; the videos belong to their uploaders"
_SPAN = 64
_WIDTH, _HEIGHT = 340, 256


def class_names() -> tuple[str, ...]:
    """The 400 classes in alphabetical order, which is the order of all published classifiers' outputs."""
    from torchvision.models.video import R3D_18_Weights  # takes a second to import

    return tuple(R3D_18_Weights.KINETICS400_V1.meta["categories"])


def last_frames(length: int, count: int) -> list[int]:
    """TT's choice of frames: evenly spaced over the last 64; of shorter videos every second one, then the last."""
    if length > _SPAN:
        return [int(i) for i in np.linspace(length - _SPAN, length - 1, count)]
    return [min(2 * i, length - 1) for i in range(count)]


@register(
    "kinetics400",
    source="Kay et al., The Kinetics Human Action Video Dataset, arXiv 1705.06950, 2017; clip rules: Wei et al., "
    "Boosting the Transferability of Video Adversarial Examples via Temporal Translation, AAAI 2022; choice of "
    "classes: Jiang et al., VideoPure: Diffusion-based Adversarial Purification for Video Recognition, IEEE TCSVT 2025",
)
class Kinetics400(Dataset):
    """Validation clips of Kinetics-400.

    Two layouts are known: a folder per class, ``ROOT/val/<class>/*.mp4`` (spaces or underscores), or all videos in
    one, ``ROOT/val/<id>_<start>_<end>.mp4``, with the official ``ROOT/annotations/val.csv``. Where the list is there,
    clips are drawn from all that it names, whatever the layout: those that are gone, as most copies lack some, are
    missing clips, and no other is drawn in their place. Without it, they are drawn from the videos in the folders.

    A video is decoded at 340x256 whatever its shape; 32 frames evenly spaced over its last 64 are taken, and their
    centre cropped. A video of at most 64 frames gives every second one, its last one repeated.

    Args:
        root: folder of the files; never part of a result's identity.
        frames: clip length.
        size: side of the square frames in pixels, at most 256.
        class_count: how many classes, drawn by ``seed``, or None for all. VideoPure takes 100, unnamed ones.
        clips_per_class: how many videos of each of them, drawn by ``seed``, or None for all.
        seed: of both choices, which depend on names alone.
        on_damage: of a video whose frames are not all intact: ``refuse`` it, or ``pad``: the last intact frame stands
            for those that are not.
    """

    unseeded: ClassVar[frozenset[str]] = frozenset({"on_damage"})

    def __init__(
        self,
        root: Path | str | None = None,
        frames: int = 32,
        size: int = 224,
        class_count: int | None = 100,
        clips_per_class: int | None = 1,
        seed: int = 0,
        on_damage: OnDamage = "refuse",
    ) -> None:
        at_least("frames", frames, 1)
        at_least("size", size, 16)
        if size > _HEIGHT:
            raise BenchError(f"size must be at most {_HEIGHT}, the height at which videos are decoded, not {size}.")
        for name, value in (("class_count", class_count), ("clips_per_class", clips_per_class)):
            if value is not None:
                at_least(name, value, 1, " or None for all")
        check_damage(on_damage)
        self.on_damage = on_damage
        self.root = None if root is None else Path(root).expanduser()
        self.frames, self.size, self.seed = frames, size, seed
        self.class_count, self.clips_per_class = class_count, clips_per_class
        self.classes = class_names()

    @property
    def _base(self) -> Path:
        return Path("DATA_ROOT") if self.root is None else self.root

    def missing(self) -> list[Missing]:
        chosen = self._chosen()
        if any(self._path(ref).is_file() for ref in chosen):
            return []
        why = f" ({len(chosen)} clips are drawn from the list, and none of them is there)" if chosen else ""
        return [
            Missing(
                f"validation videos of Kinetics-400, a folder per class, or all in one with annotations/val.csv{why}",
                _GET,
                _LICENCE,
                self._base / "val" / "<class>" / "*.mp4",
            )
        ]

    def refs(self) -> list[ClipRef]:
        """The chosen clips, class by class, without reading any; of the official list also those that are not there.

        Raises:
            BenchError: there are no videos, or the list makes no sense.
        """
        missing = self.missing()
        if missing:
            raise BenchError(f"Kinetics-400 needs files that are not here:\n{listing(missing)}")
        return self._chosen()

    def load(self, ref: ClipRef) -> Tensor:
        """One clip, ``float32 (3, frames, size, size)`` in ``[0, 1]``, RGB.

        Raises:
            MissingClip: the video does not exist.
            BenchError: it exists and cannot be decoded, or is damaged.
        """
        path = self._path(ref)
        if not path.is_file():
            raise MissingClip(f"The video {path} is not there.")
        frames = decode(path, lambda length: last_frames(length, self.frames), (_WIDTH, _HEIGHT), self.on_damage)
        return to_clip([_centre(frame, self.size) for frame in frames])

    def fingerprint(self) -> str:
        """Names and sizes of the chosen videos that are there: copies differ, under the same names."""
        there = [(ref.id, path) for ref in self._chosen() if (path := self._path(ref)).is_file()]
        lines = "".join(f"{name} {path.stat().st_size}\n" for name, path in there)
        return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()[:16] if there else ""

    def _path(self, ref: ClipRef) -> Path:
        return self._base / "val" / ref.id

    def _chosen(self) -> list[ClipRef]:
        videos = self._videos()
        labels = sorted(videos, key=lambda label: seed_of("kinetics400", self.seed, self.classes[label]))
        refs = []
        for label in sorted(labels[: self.class_count]):
            ranked = sorted(videos[label], key=lambda name: seed_of("kinetics400", self.seed, Path(name).name))
            refs += [ClipRef(name, label) for name in sorted(ranked[: self.clips_per_class])]
        return refs

    def _videos(self) -> dict[int, list[str]]:
        """Paths below ``val`` by label: those of the official list if it is there, or of the files in the folders."""
        folder = self._base / "val"
        if not folder.is_dir():
            return {}
        known = {name.replace("_", " ").casefold(): label for label, name in enumerate(self.classes)}
        folders: dict[int, str] = {}
        videos: dict[int, list[str]] = {}
        for inner in sorted(p for p in folder.iterdir() if p.is_dir() and not is_hidden(p)):
            label = known.get(inner.name.replace("_", " ").casefold())
            if label is None:
                raise BenchError(f"The folder {inner} is no class of Kinetics-400: rename or remove it.")
            names = [f"{inner.name}/{p.name}" for p in _listed(inner)]
            if names:
                folders[label] = inner.name
                videos.setdefault(label, []).extend(names)
        annotations = self._base / "annotations" / "val.csv"
        if not annotations.is_file():
            return videos
        here = {Path(name).stem: name for names in videos.values() for name in names}
        if not videos:
            here = {p.stem: p.name for p in _listed(folder)}
        listed: dict[int, list[str]] = {}
        for stem, label in _read_list(annotations, known).items():
            # Where one is gone, the place at which it would lie.
            place = f"{folders.get(label, self.classes[label])}/" if videos else ""
            listed.setdefault(label, []).append(here.get(stem, f"{place}{stem}.mp4"))
        return listed


def _listed(folder: Path) -> Iterator[Path]:
    """The videos in a folder."""
    return (p for p in folder.iterdir() if p.suffix.lower() in _VIDEOS and not is_hidden(p) and p.is_file())


def _centre(frame: Frame, size: int) -> Frame:
    top, left = round((frame.shape[0] - size) / 2), round((frame.shape[1] - size) / 2)
    return frame[top : top + size, left : left + size]


def _read_list(path: Path, known: dict[str, int]) -> dict[str, int]:
    """Labels by ``<id>_<start>_<end>`` from the official list.

    Raises:
        BenchError: it cannot be read, or is another list.
    """
    labels: dict[str, int] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, line in enumerate(csv.DictReader(file), start=2):
                label = known.get(line["label"].replace("_", " ").casefold())
                if label is None:
                    raise BenchError(f"{path}, line {number}: {line['label']!r} is no class; use the official list.")
                stem = f"{line['youtube_id']}_{_seconds(line['time_start']):06d}_{_seconds(line['time_end']):06d}"
                if not stem.isprintable() or "/" in stem or stem.startswith("."):
                    raise BenchError(f"{path}, line {number}: {stem!r} is no name of a video; use the official list.")
                if labels.setdefault(stem, label) != label:
                    raise BenchError(f"{path}, line {number}: {stem} is listed in two classes; use the official list.")
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, OSError, csv.Error) as error:
        raise BenchError(
            f"{path} is not the official list of label, youtube_id, time_start, time_end ({error!r}); get it again "
            f"from {_GET}."
        ) from error
    return labels


def _seconds(text: str) -> int:
    """A time of the list, which spreadsheets write ``10.0``."""
    value = float(text)
    if value != int(value) or value < 0:
        raise ValueError(f"{text} is no number of seconds")
    return int(value)
