"""Reading clips from videos and from folders of frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from bench.errors import BenchError

Frame = NDArray[np.uint8]
"""``(H, W, 3)``, RGB."""

_IMAGES = (".png", ".jpg", ".jpeg")


def number_of(name: str) -> int | None:
    """The number that a file or folder is called, or ``None`` if it is called something else."""
    return int(name) if name.isascii() and name.isdecimal() else None


def numbered(folder: Path) -> list[Path]:
    """Images of a folder whose names are numbers, in the order of the numbers."""
    files: dict[int, Path] = {}
    for path in folder.iterdir():
        number = number_of(path.stem)
        if number is None or path.suffix.lower() not in _IMAGES:
            continue
        if number in files:
            raise BenchError(f"{folder} holds frame {number} twice: {files[number].name} and {path.name}; remove one.")
        files[number] = path
    return [files[number] for number in sorted(files)]


def read_image(path: Path) -> Frame:
    """One frame.

    Raises:
        BenchError: the file cannot be read.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    # Pillow raises SyntaxError and ValueError too, depending on which part of a file is broken.
    except (OSError, SyntaxError, ValueError) as error:
        raise BenchError(f"Cannot read the frame {path}: {error}") from error


def decode(
    path: Path, indices: Sequence[int] | Callable[[int], Sequence[int]], size: tuple[int, int] | None = None
) -> list[Frame]:
    """Frames of a video.

    Args:
        path: of the video.
        indices: of the frames, counted from 0; those beyond the end start again from the first frame. Or a function
            that chooses them by the number of frames there are.
        size: width and height to which the decoder scales, whatever the shape of the video; its own if not given.

    Raises:
        BenchError: the video cannot be decoded, or is cut off.
    """
    try:
        import decord
    except ImportError as error:
        raise BenchError(f"Reading {path} needs decord ({error}); install it, or use folders of frames.") from error
    try:
        width, height = size or (-1, -1)
        reader: Any = decord.VideoReader(str(path), ctx=decord.cpu(0), width=width, height=height, num_threads=1)
        length = len(reader)
        if length < 1:
            raise BenchError(f"Cannot decode {path}: it holds no frame.")
        if callable(indices):
            indices = indices(length)
        if length <= max(indices) + 1 and _cut_off(path):
            raise BenchError(f"Cannot decode {path}: the file is cut off after about {length} frames; copy it again.")
        wanted = sorted({i % length for i in indices})
        batch: Frame = reader.get_batch(wanted).asnumpy()
    except (RuntimeError, IndexError, decord.DECORDError, decord.DECORDLimitReachedError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BenchError(f"Cannot decode {path}: {reason}") from error
    frames = dict(zip(wanted, batch, strict=True))
    return [frames[i % length] for i in indices]


def _cut_off(path: Path) -> bool:
    """Whether an AVI file is shorter than its header says: decord takes a torn file for a short one."""
    with path.open("rb") as file:
        head = file.read(8)
    # The size in the header leaves out these 8 bytes, but some writers count them; both count as whole.
    return head[:4] == b"RIFF" and int.from_bytes(head[4:], "little") > path.stat().st_size


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
