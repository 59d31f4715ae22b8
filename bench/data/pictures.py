"""Pictures of clips."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from bench.data.base import Dataset, listing
from bench.errors import BenchError

_GAP = 4
_LABEL = 14
_MILLISECONDS = 80
# Panels are at least as wide and high, and a letter of their words is about as wide, in pixels.
_LEAST_SIDE, _LETTER = 160, 6


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


class Panel(NamedTuple):
    """One of the clips that are shown side by side: words above it, and the clip ``(3, T, H, W)`` in ``[0, 1]``."""

    words: str
    clip: np.ndarray


def side_by_side(panels: Sequence[Panel], caption: str) -> list[Image.Image]:
    """Clips from left to right below a caption, one picture per frame; the shorter ones begin again. Small clips are
    enlarged by a whole number, pixel by pixel."""
    moving = _enlarged(panels)
    height = max(frames.shape[1] for frames in moving)
    widths = [frames.shape[2] for frames in moving]
    total = sum(widths) + _GAP * (len(panels) + 1)
    lines = wrap(caption, total // _LETTER)
    words = [wrap(panel.words, width // _LETTER) for panel, width in zip(panels, widths, strict=True)]
    head = _LABEL * len(lines)
    top = head + _LABEL * max(map(len, words))
    pictures = []
    for t in range(max(map(len, moving))):
        picture = Image.new("RGB", (total, top + height + _GAP), "white")
        draw = ImageDraw.Draw(picture)
        draw.text((_GAP, 0), "\n".join(lines), fill="black")
        left = _GAP
        for frames, width, said in zip(moving, widths, words, strict=True):
            draw.text((left, head), "\n".join(said), fill="black")
            picture.paste(Image.fromarray(frames[t % len(frames)]), (left, top))
            left += width + _GAP
        pictures.append(picture)
    return pictures


def strip(panels: Sequence[Panel], caption: str, frames: int = 8) -> Image.Image:
    """Evenly spaced frames of clips from left to right, the clips below one another, each below its words."""
    moving = [clip[np.linspace(0, len(clip) - 1, frames).round().astype(int)] for clip in _enlarged(panels)]
    width = _GAP + frames * (max(clip.shape[2] for clip in moving) + _GAP)
    lines = wrap(caption, width // _LETTER)
    head = _LABEL * len(lines)
    picture = Image.new("RGB", (width, head + sum(_LABEL + clip.shape[1] + _GAP for clip in moving)), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((_GAP, 0), "\n".join(lines), fill="black")
    top = head
    for panel, clip in zip(panels, moving, strict=True):
        draw.text((_GAP, top), panel.words, fill="black")
        for i, frame in enumerate(clip):
            picture.paste(Image.fromarray(frame), (_GAP + i * (clip.shape[2] + _GAP), top + _LABEL))
        top += _LABEL + clip.shape[1] + _GAP
    return picture


def _enlarged(panels: Sequence[Panel]) -> list[np.ndarray]:
    """Frames ``uint8 (T, H, W, 3)``; what is not finite is put to the end of the range."""
    times = max(1, -(-_LEAST_SIDE // min(min(panel.clip.shape[2:]) for panel in panels)))
    clips = [_bytes(np.nan_to_num(panel.clip)) for panel in panels]
    return [clip.repeat(times, axis=1).repeat(times, axis=2) for clip in clips]


def write_side_by_side(panels: Sequence[Panel], caption: str, file: Path) -> None:
    """Writes clips side by side: moving as ``.gif`` (256 colours a frame) or ``.webp`` (nothing is lost), or as a strip
    of frames, ``.png``.

    Raises:
        BenchError: the file has another suffix, or cannot be written.
    """
    suffix = file.suffix.lower()
    if suffix not in (".gif", ".webp", ".png"):
        raise BenchError(f"Cannot write {file}: name a file that ends in .gif, .webp or .png.")
    try:
        if suffix == ".png":
            strip(panels, caption).save(file)
            return
        first, *rest = side_by_side(panels, caption)
        whole: dict[str, Any] = {"lossless": True} if suffix == ".webp" else {}
        first.save(file, save_all=True, append_images=rest, duration=_MILLISECONDS, loop=0, **whole)
    except OSError as error:
        raise BenchError(f"Cannot write {file}: {error.strerror or error}.") from error


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
