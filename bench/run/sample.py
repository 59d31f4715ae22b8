"""A sample of the adversarial clips of a run, to lie beside its results: whoever doubts a row judges them again.

A file holds one clip, as :mod:`bench.run.coding` codes it, so it comes back bit for bit where the clean clip is the one
that was attacked, and not at all elsewhere. It is called ``UNIT/NUMBER.advclip`` by the unit that made it and the place
of its clip in the data set.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from bench.data.base import ClipRef
from bench.errors import BenchError
from bench.files import replacing
from bench.plan.cells import ClipsUnit
from bench.run.coding import Unreadable, decode
from bench.run.store import LostClips, Store

FOLDER = "_clips"
_ENDING = ".advclip"
# Of the clips of one grid: a repository is no place for more.
_MOST_BYTES = 16_000_000


def write_sample(
    store: Store, units: Sequence[ClipsUnit], refs: Sequence[ClipRef], folder: Path, clips: int, salt: str
) -> int:
    """Writes clips of every unit below ``folder``; what lay there before is removed.

    Args:
        refs: all clips of the plan.
        clips: of each unit, at most; fewer where they would take too much room, but one.
        salt: by which they are drawn, the same for every unit.

    Returns:
        How many bytes they take.

    Raises:
        BenchError: a clip is not kept any more, or the folder cannot be written.
    """
    place = folder / FOLDER
    drawn = list(enumerate(refs))
    random.Random(salt).shuffle(drawn)
    written: dict[Path, int] = {}
    try:
        files = [_files_of(store, unit, drawn, place, clips) for unit in units]
        for turn in range(clips):
            contents = dict(of_unit[turn] for of_unit in files if turn < len(of_unit))
            size = sum(map(len, contents.values()))
            if turn and sum(written.values()) + size > _MOST_BYTES:
                break
            for path, content in contents.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                with replacing(path) as partial:
                    partial.write_bytes(content)
                written[path] = len(content)
        for path in sorted(place.rglob(f"*{_ENDING}")):
            if path not in written:
                path.unlink()
    except LostClips as error:
        raise BenchError(
            "Adversarial clips of this run are not kept any more: remove its store, or run it with --keep all."
        ) from error
    except OSError as error:
        raise BenchError(f"Cannot write clips to {place}: {error}; mend that and repeat the command.") from error
    return sum(written.values())


def _files_of(
    store: Store, unit: ClipsUnit, drawn: Sequence[tuple[int, ClipRef]], place: Path, most: int
) -> list[tuple[Path, bytes]]:
    """Of the first clips of a unit that were attacked, in drawn order: where its file goes, and what that holds."""
    there = store.clips_done(unit.id) - store.clip_errors(unit.id).keys()
    chosen = [(number, ref) for number, ref in drawn if ref.id in there][:most]
    coded = store.coded_clips(unit.id, [ref.id for _, ref in chosen])
    return [
        (place / unit.id / f"{number}{_ENDING}", content)
        for (number, _), content in zip(chosen, coded.contents, strict=True)
        if isinstance(content, bytes)  # older versions kept whole batches, not coded
    ]


class Sample:
    """Adversarial clips that were kept: in a submission's folder, or in the store of a run.

    Args:
        folder: where :func:`write_sample` wrote.
        store: where to look for the others, if there is one.
    """

    def __init__(self, folder: Path, store: Store | None = None) -> None:
        self._folder, self._store = folder / FOLDER, store

    def numbers(self, unit: ClipsUnit, refs: Sequence[ClipRef]) -> list[int]:
        """Places in ``refs``, all clips of the plan, of the clips of a unit that are kept."""
        files = {path.stem for path in (self._folder / unit.id).glob(f"*{_ENDING}")}
        there = {i for i in range(len(refs)) if str(i) in files}
        if self._store is not None:
            kept = self._store.clips_done(unit.id) - self._store.clip_errors(unit.id).keys()
            there |= {i for i, ref in enumerate(refs) if ref.id in kept}
        return sorted(there)

    def load(self, unit: ClipsUnit, number: int, ref: ClipRef, clean: Tensor) -> Tensor | None:
        """One kept clip, ``(3, T, H, W)``; nothing if its file is torn or of another clean clip.

        Args:
            number: its place.
            clean: ``(3, T, H, W)``.
        """
        path = self._folder / unit.id / f"{number}{_ENDING}"
        try:
            if path.is_file():
                return decode(path.read_bytes(), clean)
            return self._store.load_clips(unit.id, [ref.id], clean[None]).clips[0] if self._store is not None else None
        except (Unreadable, LostClips, OSError):
            return None
