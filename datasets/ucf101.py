"""UCF-101: 13,320 YouTube videos of 101 human actions, read from a copy on this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

from torch import Tensor

from bench import BenchError, ClipRef, Dataset, Missing, MissingClip, at_least, listing, register, seed_of
from bench.data.frames import (
    Frame,
    OnDamage,
    check_damage,
    decode,
    find_file,
    fit,
    is_hidden,
    number_of,
    numbered,
    read_frames,
    squeeze,
    strided,
    to_clip,
)

# Order of the official classInd.txt, from 0. It is alphabetical without regard to case: Python's sorted()
# would put HammerThrow before Hammering and JumpRope before JumpingJack.
# fmt: off
CLASSES = (
    "ApplyEyeMakeup", "ApplyLipstick", "Archery", "BabyCrawling", "BalanceBeam", "BandMarching",
    "BaseballPitch", "Basketball", "BasketballDunk", "BenchPress", "Biking", "Billiards", "BlowDryHair",
    "BlowingCandles", "BodyWeightSquats", "Bowling", "BoxingPunchingBag", "BoxingSpeedBag",
    "BreastStroke", "BrushingTeeth", "CleanAndJerk", "CliffDiving", "CricketBowling", "CricketShot",
    "CuttingInKitchen", "Diving", "Drumming", "Fencing", "FieldHockeyPenalty", "FloorGymnastics",
    "FrisbeeCatch", "FrontCrawl", "GolfSwing", "Haircut", "Hammering", "HammerThrow", "HandstandPushups",
    "HandstandWalking", "HeadMassage", "HighJump", "HorseRace", "HorseRiding", "HulaHoop", "IceDancing",
    "JavelinThrow", "JugglingBalls", "JumpingJack", "JumpRope", "Kayaking", "Knitting", "LongJump",
    "Lunges", "MilitaryParade", "Mixing", "MoppingFloor", "Nunchucks", "ParallelBars", "PizzaTossing",
    "PlayingCello", "PlayingDaf", "PlayingDhol", "PlayingFlute", "PlayingGuitar", "PlayingPiano",
    "PlayingSitar", "PlayingTabla", "PlayingViolin", "PoleVault", "PommelHorse", "PullUps", "Punch",
    "PushUps", "Rafting", "RockClimbingIndoor", "RopeClimbing", "Rowing", "SalsaSpin", "ShavingBeard",
    "Shotput", "SkateBoarding", "Skiing", "Skijet", "SkyDiving", "SoccerJuggling", "SoccerPenalty",
    "StillRings", "SumoWrestling", "Surfing", "Swing", "TableTennisShot", "TaiChi", "TennisSwing",
    "ThrowDiscus", "TrampolineJumping", "Typing", "UnevenBars", "VolleyballSpiking", "WalkingWithDog",
    "WallPushups", "WritingOnBoard", "YoYo",
)
# fmt: on

# Copies of the lists differ in case (HandstandPushups, HandStandPushups), never in more.
_LABELS = {name.lower(): label for label, name in enumerate(CLASSES)}
_LISTS = "ucfTrainTestlist"
_VIDEOS = "UCF-101"
_PAGE = "https://www.crcv.ucf.edu/data/UCF101.php"
_LICENCE = "none stated; for research, cite Soomro, Zamir and Shah, CRCV-TR-12-01, 2012"


@register(
    "ucf101",
    source="Soomro, Zamir and Shah, UCF101: A Dataset of 101 Human Actions Classes From Videos in the Wild, technical "
    "report CRCV-TR-12-01, 2012; clip rules: Wei et al., Boosting the Transferability of Video Adversarial Examples "
    "via Temporal Translation, AAAI 2022",
)
class UCF101(Dataset):
    """UCF-101: one clip of each video, read from the official videos or from folders of frames.

    Two layouts are known. With both under one root, the videos are used.

    Videos, as published: ``ROOT/UCF-101/<Class>/v_*.avi`` (or ``ROOT/<Class>/v_*.avi``), chosen by
    ``ROOT/ucfTrainTestlist/testlist01.txt``. A clip is frames 2 to ``frames + 1`` of the video, counted from
    1, at the native rate; a shorter video starts again from its first frame.

    Frame folders, one per clip: ``ROOT/<class index>/<n>.png`` or ``ROOT/<class index>/<clip name>/<n>.png``
    (or ``.jpg``, or ``image_<n>``, ``img_<n>``, ``frame_<n>``), class indices from 0 in the order of ``classInd.txt``.
    Frames are taken in the order of their numbers, from the first one, since they are cut out already; a shorter folder
    is looped, and a number that is missing between others is damage. All clips are used: ``split``, ``fold``,
    ``clips_per_class`` and ``seed`` do not apply.

    Every frame is resized (bilinear, antialiased) so that its short side is ``size``, or to ``width`` and
    ``height`` whatever its shape, and cropped at the centre. The clips of Zhang, Mao, Yang and Vondrick
    (arXiv 2212.07815) are ``frames=64, width=400, height=300, start='random'``.

    Args:
        root: folder of the files; never part of a result's identity.
        split: ``test``, ``train`` or ``val`` (videos only). The last two share the official training list: about a
            tenth of its groups of videos, each of one scene, is held out for ``val``.
        fold: which of the three official splits, 1 to 3 (videos only).
        frames: clip length.
        size: side of the square frames in pixels.
        clips_per_class: how many videos of each class of the list, or None for all (videos only). The
            choice for a class depends on ``seed`` and on that class's videos, not on other classes.
        seed: seed of that choice, and of the start (videos only).
        width, height: to which frames are resized before their centre is cropped; 0 to keep their shape.
        start: first frame of the clip: the ``second``, or a ``random`` one, drawn by ``seed`` and the video's name
            (videos only; a video that is too short starts with its first then). Or ``strided``: from the first, as many
            frames apart as the whole video allows (Lo and Patel: 40 frames, size 112).
        on_damage: of a video or folder whose frames are not all intact: ``refuse`` it, or ``pad``: the last intact
            frame stands for those that are not.
    """

    classes = CLASSES
    unseeded: ClassVar[frozenset[str]] = frozenset({"on_damage"})

    def __init__(
        self,
        root: Path | str | None = None,
        split: Literal["test", "train", "val"] = "test",
        fold: int = 1,
        frames: int = 32,
        size: int = 224,
        clips_per_class: int | None = 1,
        seed: int = 0,
        width: int = 0,
        height: int = 0,
        start: Literal["second", "random", "strided"] = "second",
        on_damage: OnDamage = "refuse",
    ) -> None:
        if split not in ("test", "train", "val"):
            raise BenchError(f"Unknown split {split!r}: choose test, train or val.")
        if fold not in (1, 2, 3):
            raise BenchError(f"Unknown fold {fold!r}: UCF-101 has the folds 1, 2 and 3.")
        at_least("frames", frames, 1)
        at_least("size", size, 16)
        if clips_per_class is not None:
            at_least("clips_per_class", clips_per_class, 1, " or None for all")
        if start not in ("second", "random", "strided"):
            raise BenchError(f"Unknown start {start!r}: choose second, random or strided.")
        if width or height:
            for name, side in (("width", width), ("height", height)):
                at_least(name, side, size, ", the size of the crop, or 0 for both")
        check_damage(on_damage)
        self.width, self.height, self.start, self.on_damage = width, height, start, on_damage
        self.root = None if root is None else Path(root).expanduser()
        self.split, self.fold, self.frames, self.size = split, fold, frames, size
        self.clips_per_class, self.seed = clips_per_class, seed

    def missing(self) -> list[Missing]:
        return self._scan()[1]

    def refs(self) -> list[ClipRef]:
        """All clips, in the order of the list or of the class indices, without reading any.

        Raises:
            BenchError: there is neither a list nor a frame folder, or one of them makes no sense.
        """
        refs, missing = self._scan()
        if not refs:
            raise BenchError(f"UCF-101 needs files that are not here:\n{listing(missing)}")
        return refs

    def load(self, ref: ClipRef) -> Tensor:
        """One clip, ``float32 (3, frames, size, size)`` in ``[0, 1]``, RGB.

        Raises:
            MissingClip: the video or frame folder does not exist.
            BenchError: it exists and cannot be decoded, or is damaged.
        """
        if self.root is None:
            raise BenchError("UCF-101 has no data root: use --data-root, or root=... in Python.")
        # The ids of the two layouts cannot be confused: no class name is a number.
        if number_of(ref.id.partition("/")[0]) is None:
            path = self._video(ref.id)
            if path is None:
                tried = " or ".join(str(p) for p in self._places(ref.id))
                raise MissingClip(f"The video {ref.id} is not there; it was looked for at {tried}.")
            # TT starts a short video again from its second frame, this from its first. Only 2 of the 3783
            # videos of testlist01 are that short for 32 frames, and none of TT's 101 clips.
            frames = decode(path, lambda length: self._frames(ref.id, length), on_damage=self.on_damage)
        else:
            folder = self.root / ref.id
            frames = read_frames(folder, self.frames, self.on_damage) if folder.is_dir() else []
            if not frames:
                raise MissingClip(f"The frame folder {folder} does not exist or holds no <number>.png or .jpg.")
        return to_clip([self._fit(frame) for frame in frames])

    def _frames(self, name: str, length: int) -> range:
        if self.start == "strided":
            return strided(length, self.frames)
        first = 1
        if self.start == "random":
            first = seed_of("ucf101 start", self.seed, name) % max(length - self.frames + 1, 1)
        return range(first, first + self.frames)

    def _fit(self, frame: Frame) -> Frame:
        """The centre of the frame, resized."""
        if not self.width:
            return fit(frame, self.size)
        return squeeze(frame, self.width, self.height, self.size)

    def fingerprint(self) -> str:
        """Names and sizes of all frames of a folder of frames, whose ids (``17``) say nothing of the clip; empty
        for the official videos, which have one content per name."""
        if self.root is None or any(number_of(ref.id.partition("/")[0]) is None for ref in self._scan()[0]):
            return ""
        digest = hashlib.sha256()
        for ref in self._scan()[0]:
            for file in numbered(self.root / ref.id).values():
                digest.update(f"{ref.id}/{file.name} {file.stat().st_size}\n".encode())
        return digest.hexdigest()[:16]

    def _scan(self) -> tuple[list[ClipRef], list[Missing]]:
        """The clips, and the files without which none of them can be loaded."""
        if self.root is None:
            return [], [self._videos("no data root is given: use --data-root DATA_ROOT"), self._the_list()]
        if not self.root.is_dir():
            why = "is not a folder" if self.root.exists() else "does not exist"
            return [], [self._videos(f"the data root {self.root} {why}"), self._the_list()]
        listed = self._list.is_file()
        chosen = self._chosen() if listed else []
        if any(self._video(ref.id) is not None for ref in chosen):
            return chosen, []
        if frames := self._frame_folders():
            return frames, []
        if listed:
            why = f"none of the {len(chosen)} clips of {self._list.name} is there, such as {chosen[0].id}"
            return chosen, [self._videos(why)]
        folders = (folder for name in CLASSES for folder in self._places(name))
        if any(not is_hidden(path) for folder in folders for path in folder.glob("*.avi")):
            return [], [self._the_list()]
        return [], [self._videos(f"the data root {self.root} holds neither"), self._the_list()]

    def _videos(self, why: str) -> Missing:
        frames = f"{self._base}/<class index>/<clip name>/<n>.png"
        return Missing(
            f"the UCF-101 videos, or a folder of frames per clip, {frames}, which needs no list ({why})",
            f"UCF101.rar from {_PAGE}",
            _LICENCE,
            self._base / _VIDEOS / "<Class>" / "v_*.avi",
        )

    def _the_list(self) -> Missing:
        return Missing(
            f"the official list of the videos, {self._list.name}",
            f"UCF101TrainTestSplits-RecognitionTask.zip from {_PAGE}",
            _LICENCE,
            self._list,
        )

    @property
    def _base(self) -> Path:
        return Path("DATA_ROOT") if self.root is None else self.root

    @property
    def _list(self) -> Path:
        official = "test" if self.split == "test" else "train"
        return self._base / _LISTS / f"{official}list{self.fold:02d}.txt"

    def _places(self, name: str) -> tuple[Path, Path]:
        return self._base / _VIDEOS / name, self._base / name

    def _video(self, name: str) -> Path | None:
        return find_file((self._base / _VIDEOS, self._base), name)

    def _chosen(self) -> list[ClipRef]:
        _check_classes(self._base / _LISTS / "classInd.txt")
        refs = _read_list(self._list)
        if self.split != "test":
            held = _held_out(refs)
            refs = [ref for ref in refs if (_group(ref.id) in held) == (self.split == "val")]
        if self.clips_per_class is None:
            return refs
        videos: dict[int, list[str]] = {}
        for ref in refs:
            videos.setdefault(ref.label, []).append(ref.id)
        kept: set[str] = set()
        for names in videos.values():
            # Ranking by a hash of the name makes the choice blind to other classes and to the list's order.
            ranked = sorted(names, key=lambda name: seed_of("ucf101", self.seed, name))
            kept.update(ranked[: self.clips_per_class])
        return [ref for ref in refs if ref.id in kept]

    def _frame_folders(self) -> list[ClipRef]:
        refs: list[ClipRef] = []
        for folder in self._base.iterdir():
            label = number_of(folder.name)
            if label is None or not folder.is_dir():
                continue
            clips = [folder, *(inner for inner in folder.iterdir() if inner.is_dir() and not is_hidden(inner))]
            names = [clip.relative_to(self._base).as_posix() for clip in clips if numbered(clip)]
            if names and label >= len(CLASSES):
                last = len(CLASSES) - 1
                raise BenchError(f"The frame folder {folder} is no class of UCF-101: use an index from 0 to {last}.")
            refs += [ClipRef(name, label) for name in names]
        return sorted(refs, key=lambda ref: (ref.label, ref.id))


def _lines(path: Path) -> list[tuple[str, list[str]]]:
    """Words of the non-blank lines, each with ``file, line n`` for messages."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"Cannot read {path}: {error}; get it again from {_PAGE}.") from error
    lines = enumerate(text.splitlines(), start=1)
    return [(f"{path}, line {n}", line.split()) for n, line in lines if line.strip()]


def _check_classes(path: Path) -> None:
    """Compares an optional ``classInd.txt``: with another order every label would be wrong."""
    if not path.is_file():
        return
    listed = [(where, " ".join(words)) for where, words in _lines(path)]
    expected = [f"{number} {name}" for number, name in enumerate(CLASSES, start=1)]
    for (where, line), right in zip(listed, expected, strict=False):
        if line.lower() != right.lower():
            raise BenchError(f"{where}: {line!r} should be {right!r}; use the official classInd.txt, or none.")
    if len(listed) != len(expected):
        raise BenchError(
            f"{path} lists {len(listed)} classes, not {len(expected)}; use the official classInd.txt, or none."
        )


def _group(name: str) -> str:
    """Class and group of a video: ``<Class>/v_<Class>_g01``, one scene."""
    return name.rpartition("_c")[0]


def _held_out(refs: Sequence[ClipRef]) -> set[str]:
    """The groups of training videos that make ``val``: a tenth of each class, chosen by name."""
    groups: dict[int, set[str]] = {}
    for ref in refs:
        groups.setdefault(ref.label, set()).add(_group(ref.id))
    ranked = (sorted(of_class, key=lambda group: seed_of("ucf101 val", group)) for of_class in groups.values())
    return {group for names in ranked for group in names[: round(len(names) / 10)]}


def _read_list(path: Path) -> list[ClipRef]:
    """Reads ``Class/video.avi`` lines; the label that train lists add (from 1) must be that of the class."""
    refs: dict[str, ClipRef] = {}
    for where, (name, *rest) in _lines(path):
        parts = PurePosixPath(name).parts
        if len(parts) != 2 or not name.lower().endswith(".avi") or len(rest) > 1:
            raise BenchError(f"{where}: expected '<Class>/<video>.avi' and perhaps a label; use the official list.")
        label = _LABELS.get(parts[0].lower())
        if label is None:
            raise BenchError(f"{where}: {parts[0]!r} is not a class of UCF-101; use the official list.")
        # A list that spells a class in another way draws the same clips.
        name = f"{CLASSES[label]}/{parts[1]}"
        if not name.isprintable():
            raise BenchError(f"{where}: {name!r} is no name of a file; use the official list.")
        if rest and rest[0] != str(label + 1):
            raise BenchError(
                f"{where}: the label of {parts[0]} is {label + 1}, not {rest[0]!r}; use the official list."
            )
        if name in refs:
            raise BenchError(f"{where}: {name} is listed twice; use the official list.")
        refs[name] = ClipRef(name, label)
    if not refs:
        raise BenchError(f"{path} lists no video; get it again from {_PAGE}.")
    return list(refs.values())
