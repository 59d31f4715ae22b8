"""Clips of one's own: a folder of videos for each class, or a list of paths and labels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from copy import copy
from itertools import zip_longest
from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor

from bench import BenchError, ClipRef, Dataset, Missing, MissingClip, at_least, listing, register, seed_of
from bench.data.frames import (
    OnDamage,
    check_damage,
    decode,
    fit,
    is_hidden,
    number_of,
    numbered,
    read_frames,
    squeeze,
    strided,
    to_clip,
)
from bench.data.lists import Listed, read_classes, read_list

VIDEOS = (".avi", ".mp4", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ts")


@register(
    "folder",
    source="VideoRobustBench's own: the user's videos; a list of Kinetics' kind is read as in Kay et al., The Kinetics "
    "Human Action Video Dataset, arXiv 1705.06950, 2017",
)
class Folder(Dataset):
    """Videos of one's own, in any container that the decoders read, or folders of frames.

    Without a list, ``ROOT/<class>/`` holds the videos of a class, or folders of numbered frames; classes are counted
    from 0 in the order of their names, or as the classifier names them, and names that are numbers are their own. With
    one, it names paths below ROOT and labels: a CSV or TSV file, with or without a header, lines ``PATH LABEL`` or
    ``CLASS/PATH``, or Kinetics' ``label,youtube_id,time_start,time_end,split`` (:func:`bench.data.lists.read_list`).
    Listed files that are not there are missing clips, as long as any is there.

    Classes take turns, so that the first few clips show many. Every frame is resized (bilinear, antialiased) so that
    its short side is ``size``, or to ``width`` and ``height`` whatever its shape, and cropped at the centre.

    Args:
        root: folder of the files; never part of a result's identity.
        list: path of the list, from the working folder or below ``root``.
        split: rows of the list whose column ``split`` says so, or the folder below ``root`` that holds the classes; all
            if not given.
        classes: path of a file that names the classes of the classifier in the order of its outputs, a line each, with
            their numbers before them or not; needed where it has another order than the names.
        frames: clip length.
        size: side of the square frames in pixels.
        start: ``strided``: from the first frame, as many apart as the whole video allows; or so many in a row, from the
            ``first``, the ``second`` or a ``random`` one, drawn by ``seed`` and the clip's path. A video that is too
            short starts again from its first frame.
        clips_per_class: how many clips of each class, drawn by ``seed``, or None for all.
        seed: of both draws.
        width, height: to which frames are resized before their centre is cropped; 0 to keep their shape.
        on_damage: of a video or folder whose frames are not all intact: ``refuse`` it, or ``pad``: the last intact
            frame stands for those that are not.
        labelled: ``False``: every video or folder of frames anywhere below ``root`` is a clip without a label,
            for grids that say ``labels: own``.
    """

    unseeded: ClassVar[frozenset[str]] = frozenset({"on_damage"})
    published = False

    def __init__(
        self,
        root: Path | str | None = None,
        list: str | None = None,
        split: str | None = None,
        classes: str | None = None,
        frames: int = 32,
        size: int = 224,
        start: Literal["strided", "first", "second", "random"] = "strided",
        clips_per_class: int | None = None,
        seed: int = 0,
        width: int = 0,
        height: int = 0,
        on_damage: OnDamage = "refuse",
        labelled: bool = True,
    ) -> None:
        at_least("frames", frames, 1)
        at_least("size", size, 16)
        if clips_per_class is not None:
            at_least("clips_per_class", clips_per_class, 1, " or None for all")
        if start not in ("strided", "first", "second", "random"):
            raise BenchError(f"Unknown start {start!r}: choose strided, first, second or random.")
        if width or height:
            for name, side in (("width", width), ("height", height)):
                at_least(name, side, size, ", the size of the crop, or 0 for both")
        check_damage(on_damage)
        if not labelled and (list is not None or classes is not None or clips_per_class is not None):
            raise BenchError("Clips without labels are of no class: leave out list, classes and clips_per_class.")
        self.unlabelled = not labelled
        self.root = None if root is None else Path(root).expanduser()
        self.list, self.split = list, split
        self.frames, self.size, self.start, self.seed = frames, size, start, seed
        self.clips_per_class, self.width, self.height, self.on_damage = clips_per_class, width, height, on_damage
        self._order = read_classes(self._place(classes)) if classes is not None else None
        self.classes = self._order or ()
        self.note = ""
        self._refs = self._read(self.root) if not self.missing() else []

    def missing(self) -> list[Missing]:
        if self.root is None:
            return [_missing("no folder is given: use --data-root DIR or root=...", Path("DATA_ROOT"))]
        if not self.root.is_dir():
            return [_missing(f"{self.root} is not a folder" if self.root.exists() else "it does not exist", self.root)]
        return []

    def refs(self) -> list[ClipRef]:
        """All clips, classes in turn, without reading any.

        Raises:
            BenchError: there is no folder, no clip in it, or a list makes no sense.
        """
        missing = self.missing()
        if missing:
            raise BenchError(f"The data set folder needs files that are not here:\n{listing(missing)}")
        return self._refs

    def load(self, ref: ClipRef) -> Tensor:
        """One clip, ``float32 (3, frames, size, size)`` in ``[0, 1]``, RGB.

        Raises:
            MissingClip: the file does not exist.
            BenchError: it exists and cannot be decoded, or is damaged.
        """
        if self.root is None:
            raise BenchError("The data set folder has no root: use --data-root, or root=... in Python.")
        path = self.root / ref.id
        if path.is_dir():
            frames = read_frames(path, max(numbered(path), default=0) + 1, self.on_damage)
            if not frames:
                raise MissingClip(f"The folder {path} holds no <number>.png or .jpg.")
            count = len(numbered(path)) if self.on_damage == "refuse" else len(frames)
            frames = [frames[i % count] for i in self._chosen(ref.id, count)]
        elif path.is_file():
            frames = decode(path, lambda length: self._chosen(ref.id, length), on_damage=self.on_damage)
        else:
            raise MissingClip(f"The video {path} is not there.")
        if self.width:
            return to_clip([squeeze(frame, self.width, self.height, self.size) for frame in frames])
        return to_clip([fit(frame, self.size) for frame in frames])

    def in_order_of(self, names: Sequence[str]) -> Folder | None:
        """The same clips, each labelled with the place of its class among the names of a classifier's outputs; nothing
        if the numbers are given, by ``classes`` or as labels.

        Raises:
            BenchError: a class is none of the names.
        """
        if self._order is not None or not self.classes or self.root is None:
            return None
        ordered = copy(self)
        ordered._order = ordered.classes = tuple(names)
        ordered._refs = ordered._read(self.root)
        return ordered

    def fingerprint(self) -> str:
        """Names, sizes and times of the files, and their labels."""
        if self.missing():
            return ""
        labels = "".join(f"{ref.id} {ref.label}\n" for ref in self.refs())
        content = f"{super().fingerprint()}\n{labels}"
        return hashlib.sha256(content.encode(errors="surrogateescape")).hexdigest()[:16]

    def _chosen(self, name: str, length: int) -> range:
        if self.start == "strided":
            return strided(length, self.frames)
        room = max(length - self.frames + 1, 1)
        first = {"first": 0, "second": 1, "random": seed_of("folder start", self.seed, name) % room}[self.start]
        return range(first, first + self.frames)

    def _place(self, given: str) -> Path:
        """A file that is given from the working folder, or below the root."""
        path = Path(given).expanduser()
        return path if path.is_file() or self.root is None else self.root / path

    def _read(self, root: Path | None) -> list[ClipRef]:
        """All clips; says in ``note`` how the list was read, and sets ``classes``."""
        assert root is not None
        if self.unlabelled:
            return [ClipRef(name, 0) for name in self._anywhere(root)]
        found = self._listed(root) if self.list is not None else self._in_folders(root)
        labels = self._labels(sorted({label for _, label in found}, key=_by_number))
        by_class: dict[int, list[ClipRef]] = {}
        for name, label in sorted(found):
            by_class.setdefault(labels[label], []).append(ClipRef(name, labels[label]))
        chosen = []
        for number in sorted(by_class):
            drawn = sorted(by_class[number], key=lambda ref: seed_of("folder", self.seed, ref.id))
            chosen.append(sorted(drawn[: self.clips_per_class], key=lambda ref: ref.id))
        return [ref for turn in zip_longest(*chosen) for ref in turn if ref is not None]

    def _labels(self, names: list[str]) -> dict[str, int]:
        """Numbers of the classes that there are."""
        if self._order is not None:
            known = {name.casefold(): number for number, name in enumerate(self._order)}
            numbers = {name: known.get(name.casefold(), number_of(name)) for name in names}
            odd = [name for name, number in numbers.items() if number is None or number >= len(self._order)]
            if odd:
                raise BenchError(
                    f"{odd[0]!r} is a class of the clips and none of the {len(self._order)} that are named."
                )
            return {name: number for name, number in numbers.items() if number is not None}
        if all(number_of(name) is not None for name in names):  # numbers of outputs, whose names nobody knows
            return {name: int(name) for name in names}
        self.classes = tuple(names)
        return {name: number for number, name in enumerate(names)}

    def _base(self, root: Path) -> Path:
        """The folder that the split names, or the root."""
        base = root / self.split if self.split is not None else root
        if not base.is_dir():
            raise BenchError(
                f"There is no folder {base}: without a list, split={self.split!r} names one below the root."
            )
        return base

    def _anywhere(self, root: Path) -> list[str]:
        """Paths below the root of all videos and folders of frames, numbers in the order of numbers."""
        base = self._base(root)
        seen = [p for p in base.rglob("*") if not any(part.startswith(".") for part in p.relative_to(base).parts)]
        clips = [p for p in seen if (p.is_file() and p.suffix.lower() in VIDEOS) or (p.is_dir() and numbered(p))]
        if not clips:
            raise BenchError(f"{base} holds neither videos nor folders of numbered frames: give another folder.")
        names = [p.relative_to(root) for p in clips]
        return [p.as_posix() for p in sorted(names, key=lambda p: [_by_number(part) for part in p.parts])]

    def _in_folders(self, root: Path) -> list[tuple[str, str]]:
        """Paths below the root and classes, from a folder for each class."""
        base = self._base(root)
        found = []
        for folder in sorted(p for p in base.iterdir() if p.is_dir() and not is_hidden(p)):
            for path in sorted(p for p in folder.iterdir() if not is_hidden(p)):
                if (path.is_file() and path.suffix.lower() in VIDEOS) or (path.is_dir() and numbered(path)):
                    found.append((path.relative_to(root).as_posix(), folder.name))
        if not found:
            raise BenchError(
                f"{base} holds no videos in folders of classes, <class>/<video>{VIDEOS[1]}: give the folder around the "
                "classes, or a list=FILE of paths and labels."
            )
        return found

    def _listed(self, root: Path) -> list[tuple[str, str]]:
        """Paths below the root and classes, from the list."""
        assert self.list is not None
        file = self._place(self.list)
        if not file.is_file():
            raise BenchError(f"There is no list {self.list}, neither in this folder nor in {root}.")
        listed = read_list(file, self.split)
        places = _stems(root) if listed.kinetics else {}
        found: dict[str, tuple[int, str]] = {}
        for row in listed.rows:
            name = places.get(row.path, f"{row.path}.mp4")
            if not listed.kinetics:
                name = _below(root, row.path, file, row.line)
            line, _ = found.setdefault(name, (row.line, row.label))
            if line != row.line:
                raise BenchError(f"{file}, line {row.line}: {name} stands in line {line} already; remove one.")
        self.note = self._say(file, listed, [name for name in found if not (root / name).exists()])
        return [(name, label) for name, (_, label) in found.items()]

    def _say(self, file: Path, listed: Listed, absent: Sequence[str]) -> str:
        count = len(absent)
        if count == len(listed.rows):
            raise BenchError(
                f"None of the {count} clips of {file} is below {self.root}, such as {listed.rows[0].path}: paths "
                "count from the root."
            )
        named = ", ".join(absent[:_NAMED]) + (f" and {count - _NAMED} more" if count > _NAMED else "")
        gone = f"; {count} of {len(listed.rows)} clips are not there, and count as missing: {named}" if absent else ""
        return f"{file.name}: {listed.said}{gone}."


_NAMED = 5  # of the files that are not there


def _by_number(name: str) -> tuple[int, int, str]:
    """Numbers as numbers, before names."""
    number = number_of(name)
    return (0, number, "") if number is not None else (1, 0, name)


def _stems(root: Path) -> dict[str, str]:
    """Videos anywhere below the root, by their names without endings."""
    files = (p for p in sorted(root.rglob("*")) if p.suffix.lower() in VIDEOS and not is_hidden(p))
    return {p.stem: p.relative_to(root).as_posix() for p in files}


def _below(root: Path, name: str, file: Path, line: int) -> str:
    """A path of the list as one below the root."""
    path = Path(name)
    if path.is_absolute():
        if not path.is_relative_to(root.absolute()):
            raise BenchError(f"{file}, line {line}: {name} lies outside {root}; write paths below it.")
        path = path.relative_to(root.absolute())
    if ".." in path.parts:
        raise BenchError(f"{file}, line {line}: {name} leads out of {root}; write paths below it.")
    return path.as_posix()


def _missing(why: str, put: Path) -> Missing:
    return Missing(
        f"a folder of videos, a folder for each class or with a list ({why})",
        "your own",
        "your own",
        put / "<class>" / "<video>.mp4",
    )
