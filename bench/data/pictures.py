"""Pictures of clips."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from bench.data.base import Dataset, listing
from bench.errors import BenchError

_GAP = 4
_LABEL = 14
_MILLISECONDS = 80


def _bytes(clip: np.ndarray) -> np.ndarray:
    """``(3, T, H, W)`` in ``[0, 1]`` to ``uint8 (T, H, W, 3)``."""
    return np.clip(clip.transpose(1, 2, 3, 0) * 255 + 0.5, 0, 255).astype(np.uint8)


def contact_sheet(clips: list[np.ndarray], names: list[str], frames: int = 8) -> Image.Image:
    """One row per clip, ``frames`` evenly spaced frames to the right, the class name in front."""
    height, width = clips[0].shape[2:]
    left = 80
    sheet = Image.new("RGB", (left + frames * (width + _GAP), len(clips) * (height + _GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (clip, name) in enumerate(zip(clips, names, strict=True)):
        top = row * (height + _GAP)
        draw.text((4, top + height // 2 - 6), name, fill="black")
        shown = np.linspace(0, clip.shape[1] - 1, frames).round().astype(int)
        for column, frame in enumerate(_bytes(clip)[shown]):
            sheet.paste(Image.fromarray(frame), (left + column * (width + _GAP), top))
    return sheet


def animation(clips: list[np.ndarray], names: list[str]) -> list[Image.Image]:
    """All clips side by side in a grid, one picture per frame."""
    height, width = clips[0].shape[2:]
    columns = min(6, len(clips))
    rows = math.ceil(len(clips) / columns)
    length = max(c.shape[1] for c in clips)
    cell = (width + _GAP, height + _GAP + _LABEL)
    pictures = []
    moving = [_bytes(c) for c in clips]
    for t in range(length):
        picture = Image.new("RGB", (columns * cell[0], rows * cell[1]), "white")
        draw = ImageDraw.Draw(picture)
        for i, (frames, name) in enumerate(zip(moving, names, strict=True)):
            x, y = (i % columns) * cell[0], (i // columns) * cell[1]
            draw.text((x + 2, y), name, fill="black")
            picture.paste(Image.fromarray(frames[t % len(frames)]), (x, y + _LABEL))
        pictures.append(picture)
    return pictures


def write_sheets(dataset: Dataset, count: int, sheet: Path | None, animate: Path | None) -> list[Path]:
    """Draws the first clips of a data set as a contact sheet, an animation, or both.

    Returns:
        The files written.

    Raises:
        BenchError: files of the data set are missing, or the count or a suffix makes no sense.
    """
    missing = dataset.missing()
    if missing:
        raise BenchError(f"The data set needs files that are not here:\n{listing(missing)}")
    if count < 1:
        raise BenchError(f"--count must be at least 1, not {count}.")
    if sheet is not None and sheet.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise BenchError(f"A contact sheet is a .png or .jpg file, not {sheet.name}.")
    if animate is not None and animate.suffix.lower() not in (".gif", ".webp"):
        raise BenchError(f"An animation is a .gif or .webp file, not {animate.name}.")
    refs = dataset.refs()[:count]
    clips = [dataset.load(ref).numpy() for ref in refs]
    names = [dataset.classes[ref.label] for ref in refs]
    written = []
    if sheet is not None:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(clips, names).save(sheet)
        written.append(sheet)
    if animate is not None:
        animate.parent.mkdir(parents=True, exist_ok=True)
        first, *rest = animation(clips, names)
        first.save(animate, save_all=True, append_images=rest, duration=_MILLISECONDS, loop=0)
        written.append(animate)
    return written
