"""Reading clips from videos and from folders of frames."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from bench.data.containers import inspect
from bench.data.damage import Beginnings
from bench.data.decoder import DECODER, MOST_PIXELS
from bench.errors import BenchError

Frame = NDArray[np.uint8]
"""``(H, W, 3)``, RGB."""

OnDamage = Literal["refuse", "pad"]
"""What becomes of a clip that is damaged: it is refused, or its last intact frame stands for those that are not."""

_IMAGES = (".png", ".jpg", ".jpeg")
_FRAME = re.compile(r"((?:image|img|frame)?[_-]?)([0-9]{1,18})", re.IGNORECASE)


def check_damage(on_damage: str) -> None:
    """Checks a parameter of that name.

    Raises:
        BenchError: it is no known word.
    """
    if on_damage not in get_args(OnDamage):
        raise BenchError(f"Unknown on_damage {on_damage!r}: choose refuse or pad.")


def number_of(name: str) -> int | None:
    """The number that a file or folder is called, or ``None`` if it is called something else."""
    return int(name) if name.isascii() and name.isdecimal() and len(name) <= 18 else None


def is_hidden(path: Path) -> bool:
    """Whether a file or folder is no data: ``.DS_Store``, or ``._x.mp4``, which macOS puts beside ``x.mp4``."""
    return path.name.startswith(".")


def find_file(places: Iterable[Path], name: str) -> Path | None:
    """The regular file of that name, in the first of some folders that has it; copies differ in upper and lower case.

    Args:
        name: of the file or, with slashes, its path below the folder.
    """
    places = list(places)
    exact = next((place / name for place in places if (place / name).is_file()), None)
    return exact or next((found for place in places for found in _spelled(place, name.split("/"))), None)


def _spelled(folder: Path, parts: Sequence[str]) -> list[Path]:
    """Regular files below a folder whose path is that one but for upper and lower case."""
    first, *others = parts
    try:
        entries = sorted(folder.iterdir())
    except OSError:  # no folder, or one that cannot be looked into: nothing is found there
        return []
    matching = [entry for entry in entries if entry.name.casefold() == first.casefold()]
    if not others:
        return [entry for entry in matching if entry.is_file()]
    return [found for entry in matching for found in _spelled(entry, others)]


def numbered(folder: Path) -> dict[int, Path]:
    """Images of a folder whose names are numbers, perhaps after ``image_``, ``img_`` or ``frame_``, in their order.

    Raises:
        BenchError: two have one number, or they are of two kinds.
    """
    files: dict[int, Path] = {}
    kinds: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        match = _FRAME.fullmatch(path.stem)
        if match is None or path.suffix.lower() not in _IMAGES or not path.is_file():
            continue
        number = int(match[2])
        if number in files:
            raise BenchError(f"{folder} holds frame {number} twice: {files[number].name} and {path.name}; remove one.")
        files[number] = path
        kinds.setdefault(match[1], path)
    if len(kinds) > 1:
        one, other, *_ = kinds.values()
        raise BenchError(f"{folder} holds frames of two kinds, such as {one.name} and {other.name}; remove one kind.")
    return dict(sorted(files.items()))


def read_frames(folder: Path, count: int, on_damage: OnDamage = "refuse") -> list[Frame]:
    """The first frames of a folder, from the first one again where there are fewer; none if it holds no frame.

    Raises:
        BenchError: frames are missing between others, or cannot be read, and that is to be refused, or there is no
            frame before them.
    """
    files = _without_gaps(folder, numbered(folder), count, on_damage)
    frames: list[Frame] = []
    for file in files[:count]:
        try:
            frames.append(frames[-1] if frames and file == files[len(frames) - 1] else read_image(file))
        except BenchError:
            if on_damage == "refuse" or not frames:
                raise
            frames.append(frames[-1])
    return [frames[i % len(frames)] for i in range(count)] if frames else []


def _without_gaps(folder: Path, files: dict[int, Path], count: int, on_damage: OnDamage) -> list[Path]:
    """The files in order; those before a gap again for each frame that is missing in it, if gaps are to be padded.

    Numbers may be some apart, as of every fifth frame, and then one more or less, as of frames that are evenly spread.
    """
    numbers = list(files)
    step = min((b - a for a, b in pairwise(numbers)), default=1)
    found: list[Path] = []
    for number, following in pairwise([*numbers, numbers[-1] + step] if numbers else []):
        found.append(files[number])
        if following - number <= step + (step > 1):
            continue
        if on_damage == "refuse":
            lost = f"frame {number + step}" + (" and others" if following - number >= 3 * step else "")
            raise BenchError(
                f"{folder} holds no {lost} between {files[number].name} and {files[following].name}: cut the clip into "
                "frames again, or say on_damage='pad' to repeat the frame before the gap."
            )
        found += [files[number]] * min(round((following - number) / step) - 1, count)
    return found


def read_image(path: Path) -> Frame:
    """One frame.

    Raises:
        BenchError: the file cannot be read, is damaged, or is too large for a frame.
    """
    if not path.is_file():
        raise BenchError(f"Cannot read the frame {path}: it is not a regular file.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the bound below is lower
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise _too_large(path, f"{image.width}x{image.height}")
                if image.format == "PNG":
                    image.verify()  # checksums, at which decoding does not look
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                return _eight_bits(image)
    except Image.DecompressionBombError as error:
        raise _too_large(path, "far too many") from error
    # Pillow raises SyntaxError, ValueError and others too, depending on which part of a file is broken.
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError) as error:
        # Pillow's own text names the object that it read, by its address.
        reason = re.sub(r"cannot identify image file.*", "it is neither PNG nor JPEG", str(error))
        raise BenchError(f"Cannot read the frame {path}: {reason or type(error).__name__}") from error


def _too_large(path: Path, pixels: str) -> BenchError:
    return BenchError(f"Cannot read the frame {path}: it has {pixels} pixels, and frames have {MOST_PIXELS} at most.")


def _eight_bits(image: Image.Image) -> Frame:
    """An image as RGB. Of 16 bits of gray the upper eight are kept, as Pillow does itself where there are colours."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        gray = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    return np.asarray(image.convert("RGB"))


def decode(
    path: Path,
    indices: Sequence[int] | Callable[[int], Sequence[int]],
    size: tuple[int, int] | None = None,
    on_damage: OnDamage = "refuse",
) -> list[Frame]:
    """Frames of a video.

    A video is damaged where its container is not complete or holds fewer frames than it says, or where the decoder
    complains or finds fewer frames than were coded, wherever that is. What follows the first damaged frame is not
    trusted: frames may be lost there, and later ones depend on them.

    Args:
        path: of the video.
        indices: of the frames, counted from 0; those beyond the end start again from the first frame. Or a function
            that chooses them by the number of frames there are.
        size: width and height to which the decoder scales, whatever the shape of the video; its own if not given.
        on_damage: of a damaged video: ``refuse`` it, or ``pad``: its last intact frame stands for all that follow, as
            many as its container says.

    Raises:
        BenchError: the video cannot be decoded, or is damaged and that is to be refused, or has no frame before the
            damage.
    """
    container = inspect(path)
    chosen: list[int] = []

    def choose(found: int) -> list[int]:
        chosen[:] = [i % found for i in (indices(found) if callable(indices) else indices)]
        return chosen

    if container.frames == 0 and not container.ends:
        raise BenchError(f"Cannot decode {path}: it holds no frame.")
    why, total = container.damage, container.frames or len(container.ends)
    if not why:
        shown = total - container.hidden if container.hidden else None
        decoded = DECODER.decode(path, size, choose, shown)
        if not decoded.why:
            return [decoded.frames[i] for i in chosen]
        why, total = decoded.why, decoded.length
    beginnings = Beginnings(path, container, size)
    sound = beginnings.sound()
    intact = beginnings.shown(sound) if sound and on_damage == "pad" else 0
    if not intact:
        raise _damaged(path, why, sound, total)
    choose(max(total, intact))
    held = [min(i, intact - 1) for i in chosen]
    frames = beginnings.decode(sound or 0, held).frames
    return [frames[i] for i in held]


def _damaged(path: Path, why: str, first: int | None, total: int) -> BenchError:
    """Says which frames are lost, as far as that is known."""
    if not total or first is None:
        return BenchError(f"Cannot decode {path}: it is damaged ({why}); copy the file again.")
    otherwise = ", or say on_damage='pad' to repeat the last frame before" if first else ""
    return BenchError(
        f"Cannot decode {path}: frame {first} of {max(total, first)} is damaged, and those after it cannot be trusted "
        f"({why}); copy the file again{otherwise}."
    )


def fit(frame: Frame, size: int) -> Frame:
    """Short side to ``size``, then the central square; rounding as in TT's ``Scale`` and ``CornerCrop``."""
    height, width = frame.shape[:2]
    if min(height, width) != size:
        if width < height:
            width, height = size, int(size * height / width)
        else:
            width, height = int(size * width / height), size
        frame = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR))
    left, top = round((width - size) / 2), round((height - size) / 2)
    return frame[top : top + size, left : left + size]


def squeeze(frame: Frame, width: int, height: int, size: int) -> Frame:
    """To ``width`` and ``height`` whatever the shape, then the central square."""
    resized = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR))
    top, left = (height - size) // 2, (width - size) // 2
    return resized[top : top + size, left : left + size]


def strided(length: int, frames: int) -> range:
    """So many frames of a video of ``length``, from the first on, as far apart as the video allows."""
    step = max(length // frames, 1)
    return range(0, step * frames, step)


def to_clip(frames: Sequence[Frame]) -> Tensor:
    """Frames of one size to a clip ``float32 (3, T, H, W)`` in ``[0, 1]``."""
    clip = torch.from_numpy(np.stack(frames))
    return clip.permute(3, 0, 1, 2).to(torch.float32, memory_format=torch.contiguous_format) / 255
