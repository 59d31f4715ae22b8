"""HMDB-51: 6,766 clips of 51 human actions from films and the web, read from a copy on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor

from bench import BenchError, ClipRef, Dataset, Missing, MissingClip, at_least, listing, register, seed_of
from bench.data.frames import OnDamage, check_damage, decode, find_file, squeeze, strided, to_clip

# Alphabetical order, which is that of everybody's labels.
# fmt: off
CLASSES = (
    "brush_hair", "cartwheel", "catch", "chew", "clap", "climb", "climb_stairs", "dive", "draw_sword", "dribble",
    "drink", "eat", "fall_floor", "fencing", "flic_flac", "golf", "handstand", "hit", "hug", "jump", "kick",
    "kick_ball", "kiss", "laugh", "pick", "pour", "pullup", "punch", "push", "pushup", "ride_bike", "ride_horse",
    "run", "shake_hands", "shoot_ball", "shoot_bow", "shoot_gun", "sit", "situp", "smile", "smoke", "somersault",
    "stand", "swing_baseball", "sword", "sword_exercise", "talk", "throw", "turn", "walk", "wave",
)
# fmt: on

_LISTS = "testTrainMulti_7030_splits"
_VIDEOS = "hmdb51_org"
_FLAGS = {"train": "1", "val": "1", "test": "2"}  # 0 stands for a video of neither part
_PAGE = "https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/"
_LICENCE = "CC BY 4.0, by that page; the videos belong to others"


@register(
    "hmdb51",
    source="Kuehne et al., HMDB: A Large Video Database for Human Motion Recognition, ICCV 2011; clip rules: Zhang, "
    "Mao, Yang and Vondrick, Adversarially Robust Video Perception by Seeing Motion, arXiv 2212.07815, 2022",
)
class HMDB51(Dataset):
    """HMDB-51: one clip of each video.

    The layout is the official one: ``ROOT/hmdb51_org/<class>/*.avi`` (or ``ROOT/<class>/*.avi``), chosen by the lists
    ``ROOT/testTrainMulti_7030_splits/<class>_test_split1.txt``, one for each class, of which all 51 must be there.

    Clips are those of Zhang, Mao, Yang and Vondrick (arXiv 2212.07815): every frame is resized to 400x300 whatever the
    shape of the video, and the centre is cropped, which removes black borders; ``frames`` consecutive ones are taken
    from a random one on, and from the first where the video is shorter, which then starts again. (The paper uses 64
    frames, 32 for the one-frame attack and 90 for the flickering one, of an unnamed subset of 1000 test videos.) What
    it leaves open is our choice (``docs/decisions.md``): the native frame rate, every frame, and the test list of the
    first fold. Frames are resized bilinearly, antialiased where they shrink.

    Args:
        root: folder of the files; never part of a result's identity.
        split: ``test`` (30 videos of each class), ``train`` or ``val``; the last two share the official training list
            (70 of each), of which about a tenth is held out for ``val``.
        fold: which of the three official splits, 1 to 3.
        frames: clip length.
        size: side of the square frames in pixels.
        width, height: to which frames are resized before their centre is cropped.
        clips_per_class: how many videos of each class of the list, or None for all. The choice for a class depends on
            ``seed`` and on that class's videos, and a smaller one is part of a larger one.
        start: first frame of the clip: ``random``, drawn by ``seed`` and the video's name, or ``first``; or
            ``strided``: from the first, as many frames apart as the whole video allows (Lo and Patel: 40 frames).
        seed: of both choices.
        on_damage: of a video whose frames are not all intact: ``refuse`` it, or ``pad``: the last intact frame stands
            for those that are not.
    """

    classes = CLASSES
    unseeded: ClassVar[frozenset[str]] = frozenset({"on_damage"})

    def __init__(
        self,
        root: Path | str | None = None,
        split: Literal["test", "train", "val"] = "test",
        fold: int = 1,
        frames: int = 64,
        size: int = 224,
        width: int = 400,
        height: int = 300,
        clips_per_class: int | None = 1,
        start: Literal["random", "first", "strided"] = "random",
        seed: int = 0,
        on_damage: OnDamage = "refuse",
    ) -> None:
        if split not in _FLAGS:
            raise BenchError(f"Unknown split {split!r}: choose test, train or val.")
        if fold not in (1, 2, 3):
            raise BenchError(f"Unknown fold {fold!r}: HMDB-51 has the folds 1, 2 and 3.")
        if start not in ("random", "first", "strided"):
            raise BenchError(f"Unknown start {start!r}: choose random, first or strided.")
        at_least("frames", frames, 1)
        at_least("size", size, 16)
        for name, side in (("width", width), ("height", height)):
            at_least(name, side, size, ", the size of the crop")
        if clips_per_class is not None:
            at_least("clips_per_class", clips_per_class, 1, " or None for all")
        self.root = None if root is None else Path(root).expanduser()
        self.split, self.fold, self.frames, self.size = split, fold, frames, size
        check_damage(on_damage)
        self.width, self.height, self.start, self.on_damage = width, height, start, on_damage
        self.clips_per_class, self.seed = clips_per_class, seed

    def missing(self) -> list[Missing]:
        absent = [name for name in CLASSES if not self._list(name).is_file()]
        if not absent:
            chosen = self._chosen()
            if any(self._video(ref.id) for ref in chosen):
                return []
            return [self._videos(f"none of the {len(chosen)} of the lists is there, such as {chosen[0].id}")]
        few = ", ".join(absent[:3]) + (f" and {len(absent) - 3} more" if len(absent) > 3 else "")
        lists = Missing(
            f"the official lists of the HMDB-51 videos (absent: {few})",
            f"test_train_splits.rar from {_PAGE}",
            _LICENCE,
            self._list("<class>"),
        )
        there = any(folder.is_dir() for name in CLASSES for folder in self._places(name))
        return [lists] if there else [self._videos("there is no folder of a class"), lists]

    def refs(self) -> list[ClipRef]:
        """The chosen clips, class by class in the order of the lists, without reading any.

        Raises:
            BenchError: files are missing, or a list makes no sense.
        """
        missing = self.missing()
        if missing:
            raise BenchError(f"HMDB-51 needs files that are not here:\n{listing(missing)}")
        return self._chosen()

    def load(self, ref: ClipRef) -> Tensor:
        """One clip, ``float32 (3, frames, size, size)`` in ``[0, 1]``, RGB.

        Raises:
            MissingClip: the video does not exist.
            BenchError: it exists and cannot be decoded, or is damaged.
        """
        path = self._video(ref.id)
        if path is None:
            tried = " or ".join(str(p) for p in self._places(ref.id))
            raise MissingClip(f"The video {ref.id} is not there; it was looked for at {tried}.")

        def chosen(length: int) -> range:
            if self.start == "strided":
                return strided(length, self.frames)
            first = 0
            if self.start == "random" and length > self.frames:
                first = seed_of("hmdb51 start", self.seed, ref.id) % (length - self.frames + 1)
            return range(first, first + self.frames)

        # Not scaled by the decoder, which makes grays one or two levels of 255 darker then.
        frames = decode(path, chosen, on_damage=self.on_damage)
        return to_clip([squeeze(frame, self.width, self.height, self.size) for frame in frames])

    def fingerprint(self) -> str:
        """Empty: the official videos have one content per name."""
        return ""

    @property
    def _base(self) -> Path:
        return Path("DATA_ROOT") if self.root is None else self.root

    def _list(self, name: str) -> Path:
        return self._base / _LISTS / f"{name}_test_split{self.fold}.txt"

    def _places(self, name: str) -> tuple[Path, Path]:
        return self._base / _VIDEOS / name, self._base / name

    def _video(self, name: str) -> Path | None:
        return find_file((self._base / _VIDEOS, self._base), name)

    def _videos(self, why: str) -> Missing:
        put = self._base / _VIDEOS / "<class>" / "*.avi"
        return Missing(f"the HMDB-51 videos ({why})", f"hmdb51_org.rar from {_PAGE}", _LICENCE, put)

    def _chosen(self) -> list[ClipRef]:
        refs = []
        for label, name in enumerate(CLASSES):
            videos = [f"{name}/{video}" for video in _read_list(self._list(name), _FLAGS[self.split])]
            if self.split != "test":
                by_hash = sorted(videos, key=lambda video: seed_of("hmdb51 val", video))
                held = set(by_hash[: round(len(videos) / 10)])
                videos = [video for video in videos if (video in held) == (self.split == "val")]
            # Ranking by a hash of the name makes the choice blind to the order of the list.
            ranked = sorted(videos, key=lambda video: seed_of("hmdb51", self.seed, video))
            kept = set(ranked[: self.clips_per_class])
            refs += [ClipRef(video, label) for video in videos if video in kept]
        return refs


def _read_list(path: Path, flag: str) -> list[str]:
    """Names of the videos that a class's list marks with ``flag``.

    Raises:
        BenchError: a line is no ``<video>.avi`` with a flag from 0 to 2, a video is listed twice, or none is marked.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"Cannot read {path}: {error}; get it again from {_PAGE}.") from error
    flags: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        words = line.rsplit(maxsplit=1)
        name = words[0].strip()
        if len(words) < 2 or words[1] not in ("0", "1", "2") or not name.lower().endswith(".avi") or "/" in name:
            raise BenchError(
                f"{path}, line {number}: expected '<video>.avi' and 0, 1 (train) or 2 (test); use the official list."
            )
        if not name.isprintable():
            raise BenchError(f"{path}, line {number}: {name!r} is no name of a file; use the official list.")
        if name in flags:
            raise BenchError(f"{path}, line {number}: {name} is listed twice; use the official list.")
        flags[name] = words[1]
    marked = [name for name, mark in flags.items() if mark == flag]
    if not marked:
        raise BenchError(f"{path} marks no video with {flag}; get it again from {_PAGE}.")
    return marked
