"""Lists of videos and labels, as people and data sets write them."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError

_PATHS = ("path", "file", "filename", "file_name", "filepath", "video", "video_path", "clip", "name", "youtube_id")
_LABELS = ("label", "class", "category", "action", "target", "label_name", "class_name", "label_id", "class_id", "y")
_SPLITS = ("split", "subset", "set", "usage")


@dataclass(frozen=True)
class Row:
    """One line of a list.

    Attributes:
        line: its number in the file, counted from 1.
        path: of the video, as it is written; of Kinetics' lists ``<id>_<start>_<end>``, without an ending.
        label: number or name of its class.
    """

    line: int
    path: str
    label: str


@dataclass(frozen=True)
class Listed:
    """A list, read.

    Attributes:
        said: which columns were taken for what, in words.
        kinetics: whether paths are those of Kinetics' videos, which have no ending and no folder.
    """

    rows: list[Row]
    said: str
    kinetics: bool = False


def read_list(path: Path, split: str | None = None) -> Listed:
    """Reads a list of videos: comma, semicolon, tabulator or blanks between columns, a header or none.

    A header is one that has a name of a column of paths (``path``, ``file``, ``video``, ``clip``, ``youtube_id``, ...)
    and one of labels (``label``, ``class``, ``category``, ``action``, ``target``, ...). Without one, a line is a path
    and a label, or a path alone, whose folder is its class. With ``youtube_id``, ``time_start`` and ``time_end`` the
    path is Kinetics' ``<id>_<start>_<end>``, seconds in six digits.

    Args:
        split: takes only rows whose column ``split`` says so.

    Raises:
        BenchError: the file cannot be read, holds no row, or a row makes no sense.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"Cannot read the list {path}: {getattr(error, 'strerror', None) or error}.") from error
    cells = [(number, row) for number, row in enumerate(_split(lines, path), start=1) if any(row)]
    if not cells:
        raise BenchError(f"The list {path} holds no line.")
    names = [name.strip().casefold() for name in cells[0][1]]
    of_path, of_label = _first(names, _PATHS), _first(names, _LABELS)
    if of_path is None or of_label is None:
        if split is not None:
            raise BenchError(f"The list {path} has no header with a column 'split': leave out split={split!r}.")
        return _plain(path, cells)
    kinetics = {"youtube_id", "time_start", "time_end"} <= set(names)
    of_path = names.index("youtube_id") if kinetics else of_path
    of_split = _first(names, _SPLITS)
    if split is not None and of_split is None:
        raise BenchError(f"The list {path} has no column 'split', but {', '.join(names)}: leave out split={split!r}.")
    rows = []
    for number, row in cells[1:]:
        if len(row) < len(names):
            raise BenchError(f"{path}, line {number}: it has {len(row)} columns, and the header has {len(names)}.")
        if split is not None and of_split is not None and row[of_split].strip() != split:
            continue
        name = row[of_path].strip()
        if kinetics:
            times = (row[names.index(key)] for key in ("time_start", "time_end"))
            name = "_".join([name, *(_seconds(text, path, number) for text in times)])
        rows.append(_row(number, name, row[of_label].strip(), path))
    if not rows:
        of = f" with the split {split!r}" if split is not None else ""
        raise BenchError(f"The list {path} holds no row{of}.")
    columns = "youtube_id, time_start and time_end" if kinetics else repr(names[of_path])
    said = f"paths from {columns}, labels from {names[of_label]!r}"
    if of_split is not None and split is not None:
        said += f", rows whose {names[of_split]!r} is {split!r}"
    return Listed(rows, said, kinetics)


def _split(lines: Sequence[str], path: Path) -> list[list[str]]:
    """The columns of all lines, by the separator that the first one has."""
    first = next((line for line in lines if line.strip()), "")
    for separator in ("\t", ",", ";"):
        if separator in first:
            try:
                return list(csv.reader(lines, delimiter=separator, strict=True))
            except csv.Error as error:
                raise BenchError(f"The list {path} cannot be read as columns: {error}.") from error
    # Blanks may stand in a path; a label is one word.
    return [line.strip().rsplit(maxsplit=1) for line in lines]


def _plain(path: Path, cells: list[tuple[int, list[str]]]) -> Listed:
    """A list without a header."""
    alone = all(len(row) == 1 for _, row in cells)
    rows = []
    for number, row in cells:
        if alone and "/" not in row[0]:
            raise BenchError(f"{path}, line {number}: {row[0]!r} has neither a label nor a folder that is its class.")
        if not alone and len(row) != 2:
            raise BenchError(
                f"{path}, line {number}: it has {len(row)} columns; write a path and a label, or a header with names "
                "such as path and label."
            )
        label = row[0].strip().split("/")[-2] if alone else row[1].strip()
        rows.append(_row(number, row[0].strip(), label, path))
    said = "each line is a path, whose folder is its class" if alone else "each line is a path and a label"
    return Listed(rows, said)


def _row(line: int, name: str, label: str, path: Path) -> Row:
    if not name or not label:
        raise BenchError(f"{path}, line {line}: {'the path' if not name else 'the label'} is empty.")
    if not name.isprintable():
        raise BenchError(f"{path}, line {line}: {name!r} is no path.")
    return Row(line, name, label)


def _first(names: Sequence[str], known: Sequence[str]) -> int | None:
    return next((names.index(name) for name in known if name in names), None)


def _seconds(text: str, path: Path, line: int) -> str:
    try:
        value = float(text)
        if value != int(value) or value < 0:
            raise ValueError
    except (ValueError, OverflowError) as error:
        raise BenchError(f"{path}, line {line}: {text!r} is no whole number of seconds.") from error
    return f"{int(value):06d}"


def read_classes(path: Path) -> tuple[str, ...]:
    """Names of classes in order, a line each; with numbers before them, from 0 or from 1 on, as UCF-101's
    ``classInd.txt`` has them.

    Raises:
        BenchError: the file cannot be read, or a name or number is there twice, or one is missing.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"Cannot read the classes {path}: {getattr(error, 'strerror', None) or error}.") from error
    numbered = [re.fullmatch(r"(\d{1,9})[\s,;:]+(.+)", line) for line in lines]
    names = lines
    if lines and all(numbered):
        found = {int(match[1]): match[2].strip() for match in numbered if match}
        first = min(found)
        if len(found) < len(lines) or first > 1 or max(found) - first + 1 != len(found):
            raise BenchError(f"The classes {path} are not numbered one by one from 0 or 1.")
        names = [found[number] for number in sorted(found)]
    if not names or len(set(names)) < len(names):
        raise BenchError(f"The classes {path} {'hold a name twice' if names else 'hold no name'}.")
    return tuple(names)
