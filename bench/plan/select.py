"""The clips of a grid: all of its data set, or those that some classifiers get right, as papers select them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from bench import code
from bench.data.base import ClipRef, Dataset, MissingClip
from bench.defense.defended import usable
from bench.errors import BenchError
from bench.faults import charge_no_machine
from bench.files import write_whole
from bench.grids.grid import Grid
from bench.plan.cells import Component
from bench.plan.probe import ask
from bench.records.identity import digest
from bench.seeds import seed_of

# Answers that a run which is killed may have to ask for again.
_SAVE_EVERY = 16

Watch = Callable[[int, int], None]
"""Is told how many of how many classes of clips have been looked at."""


@dataclass(frozen=True)
class Asking:
    """Where and for whom the clips of a selection are looked at.

    Attributes:
        device: where the classifiers go.
        folder: where answers are kept, so that no clip is asked twice; they are forgotten if it is not given.
        keep: whether new answers are written there.
        watch: is told how far it is.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    folder: Path | None = None
    watch: Watch | None = None
    keep: bool = True


@dataclass(frozen=True)
class Chosen:
    """The clips of a plan.

    Attributes:
        dataset: its label and identity say how they were selected.
        refs: in the order of the data set.
        note: what came of the selection, one sentence; empty if there is none.
    """

    dataset: Component[Dataset]
    refs: list[ClipRef]
    note: str = ""


def choose_clips(
    grid: Grid, dataset: Component[Dataset], judges: Mapping[str, Component[nn.Module]], asking: Asking
) -> Chosen:
    """The clips of a grid; with ``select``, only those that every named classifier gets right.

    Each clip is shown to the bare classifiers alone, so that neither batches nor the other clips matter. With
    ``per-class``, the clips of a class are tried in an order drawn by the grid's seed until enough are right, and the
    others are not looked at. A clip that cannot be read is right for nobody.

    Args:
        judges: the classifiers that ``select`` names, by label.

    Raises:
        BenchError: the data set holds no clip, no clip is left, or a classifier cannot take them.
    """
    refs, most = dataset.instance.refs(), grid.dataset.clips
    if not refs:
        raise BenchError(f"Data set {grid.dataset.name!r} holds no clip for this grid.")
    select = grid.dataset.select
    if select is None:
        return Chosen(dataset, refs[:most])
    identities = [judge.identity for judge in judges.values()]
    names = " and ".join(judges)
    key = digest({"dataset": dataset.identity.model_dump(), "classifiers": [i.model_dump() for i in identities]})
    asked = _Asked(dataset.instance, judges, asking, f"{key}.json")
    kept: set[str] = set()
    groups = _groups(refs, select.per_class, grid.seed)
    for done, group in enumerate(groups):
        if most is not None and len(kept) >= most:
            break
        if asking.watch is not None:
            asking.watch(done, len(groups))
        wanted = min((n for n in (select.per_class, most and most - len(kept)) if n is not None), default=len(group))
        kept.update(_first(asked, group, wanted))
        asked.save(_SAVE_EVERY)
    asked.save()
    if asking.watch is not None:
        asking.watch(len(groups), len(groups))
    unread = f"; {len(asked.unread)} could not be read" if asked.unread else ""
    if not kept:
        raise BenchError(
            f"Grid {grid.name!r} keeps the clips that {names} get right, but of the {len(asked.looked_at)} looked at "
            f"none is{unread}: check the weights and the labels, or leave 'select' out."
        )
    identity = dataset.identity.model_copy(
        update={
            "params": {**dataset.identity.params, "select": select.model_dump(by_alias=True, exclude_none=True)},
            "files": {**dataset.identity.files, "selection": code.digest(choose_clips)},
            "parts": tuple(identities),
        }
    )
    return Chosen(
        replace(dataset, label=f"{dataset.label}, clips that {names} get right", identity=identity),
        [ref for ref in refs if ref.id in kept],
        f"{len(kept)} of the {len(asked.looked_at)} clips looked at are right by {names}{unread}.",
    )


def _groups(refs: Sequence[ClipRef], per_class: int | None, seed: int) -> list[list[ClipRef]]:
    """The clips class by class, those of a class in drawn order; one by one as they are if classes do not matter."""
    if per_class is None:
        return [[ref] for ref in refs]
    classes: dict[int, list[ClipRef]] = {}
    for ref in refs:
        classes.setdefault(ref.label, []).append(ref)
    return [sorted(group, key=lambda ref: seed_of("select", seed, ref.id)) for group in classes.values()]


def _first(asked: _Asked, group: Sequence[ClipRef], wanted: int) -> Iterator[str]:
    """Ids of the first so many clips that are right."""
    found = 0
    for ref in group:
        if found == wanted:
            return
        if asked.right(ref):
            found += 1
            yield ref.id


def _answers(file: Path) -> dict[str, bool]:
    """Answers that were kept; none where the file is torn, and all clips are asked again.

    Raises:
        BenchError: it holds something else.
    """
    try:
        read = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise BenchError(f"Cannot read the selection of clips {file}: {error}.") from error
    except ValueError:
        return {}
    if not isinstance(read, dict) or not all(isinstance(right, bool) for right in read.values()):
        raise BenchError(f"{file} is no selection of clips: remove that file.")
    return read


class _Asked:
    """What the classifiers said of clips, kept in a file if there is one."""

    def __init__(self, dataset: Dataset, judges: Mapping[str, Component[nn.Module]], asking: Asking, name: str) -> None:
        self._dataset, self._judges, self._device = dataset, judges, asking.device
        file = asking.folder / "selected" / name if asking.folder is not None else None
        self._file = file if asking.keep else None
        self._known: dict[str, bool] = {}
        self._saved = 0
        self.looked_at: set[str] = set()
        self.unread: set[str] = set()
        if file is not None and file.is_file():
            self._known = _answers(file)
            self._saved = len(self._known)

    def right(self, ref: ClipRef) -> bool:
        """Whether every classifier gets the clip right."""
        self.looked_at.add(ref.id)
        if ref.id not in self._known:
            try:
                clip = self._dataset.load(ref)
            except (MissingClip, BenchError, OSError, RuntimeError, ValueError) as error:
                charge_no_machine(error, f"Clip {ref.id}, which is to be selected or not, cannot be loaded")
                self.unread.add(ref.id)  # counted and said; asked again next time, when the file may be there
                return False
            self._known[ref.id] = all(self._says(judge, clip) == ref.label for judge in self._judges.values())
        return self._known[ref.id]

    def _says(self, judge: Component[nn.Module], clip: Tensor) -> int:
        """The class that one classifier sees in a clip ``(3, T, H, W)``; -1 if it answers nonsense."""
        try:
            logits: Tensor = ask(judge.instance, clip[None], self._device)
        except Exception as error:
            raise BenchError(
                f"Classifier {judge.label}, which is to select the clips, cannot take clips of shape "
                f"{(1, *clip.shape)}: {type(error).__name__}: {error}"
            ) from error
        return int(logits.argmax()) if bool(usable(logits).all()) else -1

    def save(self, least: int = 1) -> None:
        """Writes what is new, whole or not at all, once there are ``least`` answers."""
        if self._file is None or len(self._known) - self._saved < least:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._file, json.dumps(self._known, sort_keys=True))
        except OSError as error:
            raise BenchError(f"Cannot keep the selection of clips in {self._file}: {error}.") from error
        self._saved = len(self._known)
