"""The adversarial clips that runs have kept: which they are, what room they take, and how to have them back."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from bench.data.base import ClipRef, Dataset
from bench.errors import BenchError
from bench.faults import MachineFault
from bench.files import replacing, slug
from bench.plan.cells import Plan
from bench.records.results import read_result, result_files
from bench.records.submissions import submissions
from bench.registry import DATASETS, Spec
from bench.run.runner import Keep
from bench.run.store import Kept, LostClips, Store, Use

# Of a clip's bytes as float32, what is left of them in the bank, by norm: see docs/store.md. Linf lies between 1/30,
# where every value is at a corner, and 2/3, where a random start is left in most.
_LEFT = {"linf": 0.25, "one-frame": 0.01, "rectangle": 0.1, "border": 0.2, "framing": 1.0, "pixels": 0.1}
_LEFT_OF_OTHERS = 0.65
_DAY = 86400.0
# Seconds for which a file that nothing names is left alone: a run may be about to name it.
_YOUNG = 600.0


@dataclass(frozen=True)
class Holding:
    """The clips of one unit.

    Attributes:
        unit: its id.
        uses: the cells that judge them; none of clips that an older version made.
        clips: those that are stored.
        coded: bytes on the disk; what other units share is counted there, too.
        raw: bytes as ``float32``.
    """

    unit: str
    uses: list[Use]
    clips: list[Kept] = field(repr=False)
    coded: int
    raw: int

    @property
    def shared(self) -> bool:
        return any(use.shared for use in self.uses) or not self.uses

    def labels(self, name: str) -> list[str]:
        """What its uses say under that name, each once."""
        return list(dict.fromkeys(str(getattr(use, name)) for use in self.uses))

    def answers_to(self, words: Sequence[str]) -> bool:
        """Whether each word is the beginning of its id, of 4 letters or more, or a label of one of its uses."""
        left = [word.casefold() for word in words if len(word) < 4 or not self.unit.startswith(word)]
        labels = [{u.grid, u.dataset, u.model, u.defense, u.attack} for u in self.uses]
        return not left or any({*left} <= {label.casefold() for label in of_use} for of_use in labels)


def holdings(store: Store) -> list[Holding]:
    """What a store has kept, unit by unit, in the order in which grids name them."""
    uses: dict[str, list[Use]] = {}
    for use in store.uses():
        uses.setdefault(use.unit, []).append(use)
    kept = store.kept()
    ordered = [*(unit for unit in uses if unit in kept), *(unit for unit in kept if unit not in uses)]
    found = []
    for unit in ordered:
        sizes = {k.file: k.coded or _size(store.path_of(k.file)) for k in kept[unit]}
        raw = sum(k.raw for k in kept[unit])
        found.append(Holding(unit, uses.get(unit, []), kept[unit], sum(sizes.values()), raw or sum(sizes.values())))
    return found


def chosen(store: Store, words: Sequence[str]) -> list[Holding]:
    """The holdings that answer to all words.

    Raises:
        BenchError: none does.
    """
    found = [holding for holding in holdings(store) if holding.answers_to(words)]
    if not found:
        asked = " ".join(words)
        raise BenchError(
            f"No kept clips answer to {asked!r}: give the beginning of a unit's id or labels of its grid, classifier, "
            "defence or attack, as 'bench bank ls' shows them."
        )
    return found


def estimate(plan: Plan, keep: Keep, clip: Tensor | None) -> float:
    """Bytes that a plan's clips will take in the bank, about.

    Args:
        clip: any of its clean clips; nothing is estimated without one.
    """
    units = [unit for unit in plan.units if keep == "all" or (keep == "shared" and unit.shared)]
    raw = 0 if clip is None else clip.numel() * clip.element_size() * len(plan.refs)
    return sum(raw * _LEFT.get(unit.budget.norm, _LEFT_OF_OTHERS) for unit in units)


# --- having clips back ---


def dataset_of(label: str, data_root: Path | None = None) -> Dataset:
    """The data set of a use.

    Args:
        label: name and parameters, as :attr:`bench.run.store.Use.dataset` has them.
        data_root: folder of its files.
    """
    spec = Spec.parse(label)
    takes_root = any(p.name == "root" for p in DATASETS.get(spec.name).parameters)
    root = {"root": data_root} if takes_root and data_root is not None and "root" not in spec.params else {}
    dataset: Dataset = DATASETS.create(Spec(spec.name, {**spec.params, **root}))
    return dataset


def pair(store: Store, dataset: Dataset, cell: str, clip: str) -> tuple[Tensor, Tensor]:
    """A clean clip and what the attack of a cell made of it, each ``float32 (3, T, H, W)``; the second of another shape
    or type where the attack is at fault.

    Args:
        dataset: that of the cell, see :func:`dataset_of`.

    Raises:
        BenchError: it is not kept, or cannot be read any more.
    """
    unit = next((use.unit for use in store.uses() if use.cell == cell), None)
    ref = next((ref for ref in dataset.refs() if ref.id == clip), None)
    if unit is None or ref is None:
        raise BenchError(f"No adversarial clip {clip!r} of cell {cell} is kept: run its grid again with --keep all.")
    return _pair(store, dataset, unit, ref)


def _pair(store: Store, dataset: Dataset, unit: str, ref: ClipRef) -> tuple[Tensor, Tensor]:
    clean = dataset.load(ref)
    try:
        return clean, store.load_clips(unit, [ref.id], clean[None]).clips[0]
    except LostClips as error:
        raise BenchError(
            f"The adversarial clip {ref.id} of unit {unit} is not kept, or its file is gone or torn, or the clean clip "
            "is another one now: run the grid again with --keep all, after 'bench bank prune' has removed what is left."
        ) from error


def write_clips(
    store: Store,
    wanted: Sequence[Holding],
    folder: Path,
    *,
    clips: Collection[str] = (),
    pictures: bool = False,
    data_root: Path | None = None,
) -> Iterator[Path]:
    """Writes kept clips below a folder, ``UNIT/CLIP.safetensors`` with the tensors ``clean`` and ``adversarial``,
    ``float32 (3, T, H, W)``; or as PNG, ``UNIT/CLIP/clean/0.png`` and ``UNIT/CLIP/adversarial/0.png``.

    A PNG holds 8 bits a value: it is for looking, and what it rounds away may be all of an attack. Safetensors hold the
    clips that were judged, bit for bit.

    Args:
        clips: ids; all if none is given.
        data_root: folder of the data set's files.

    Returns:
        Each file or folder that was written, as it is written.

    Raises:
        BenchError: a clip is not kept, its data set's files are not here, or the folder cannot be written.
    """
    there = {kept.clip for holding in wanted for kept in holding.clips}
    unknown = [clip for clip in clips if clip not in there]
    if unknown:
        raise BenchError(f"No adversarial clip {unknown[0]!r} is kept in {', '.join(h.unit for h in wanted)}.")
    datasets: dict[str, tuple[Dataset, dict[str, ClipRef]]] = {}
    for holding in wanted:
        if not holding.uses:
            raise BenchError(
                f"Unit {holding.unit} was made by an older version, which did not say of which data set: run its grid "
                "again, and it is known."
            )
        label = holding.uses[0].dataset
        if label not in datasets:
            dataset = dataset_of(label, data_root)
            if dataset.missing():
                raise BenchError(f"The files of {label} are not here: {dataset.missing()[0]}")
            datasets[label] = dataset, {ref.id: ref for ref in dataset.refs()}
        dataset, refs = datasets[label]
        for kept in holding.clips:
            if clips and kept.clip not in clips:
                continue
            if kept.clip not in refs:
                raise BenchError(f"Clip {kept.clip!r} is not in {label} any more.")
            both = _pair(store, dataset, holding.unit, refs[kept.clip])
            place = folder / holding.unit / slug(kept.clip)
            try:
                yield _as_pictures(place, *both) if pictures else _as_tensors(place, *both)
            except OSError as error:
                raise MachineFault(f"Cannot write to {place} ({error}): free some space or choose another.") from error


def _as_tensors(place: Path, clean: Tensor, adversarial: Tensor) -> Path:
    path = place.with_name(f"{place.name}.safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        save_file({"clean": clean.contiguous(), "adversarial": adversarial.contiguous()}, partial)
    return path


def _as_pictures(place: Path, clean: Tensor, adversarial: Tensor) -> Path:
    for name, clip in (("clean", clean), ("adversarial", adversarial)):
        if clip.shape != clean.shape:
            raise BenchError(
                f"The adversarial clip {place.name} has the shape {tuple(clip.shape)}: export safetensors."
            )
        (place / name).mkdir(parents=True, exist_ok=True)
        frames = clip.nan_to_num().clamp(0, 1).mul(255).round().numpy().astype(np.uint8).transpose(1, 2, 3, 0)
        for number, frame in enumerate(frames):
            Image.fromarray(np.ascontiguousarray(frame)).save(place / name / f"{number}.png")
    return place


# --- making room ---


@dataclass(frozen=True)
class Waste:
    """What may go: a unit's clips, or a file that nothing names.

    Attributes:
        what: in words.
        bytes: what it frees, at most: files may be shared.
    """

    what: str
    bytes: int
    remove: Callable[[], int] = field(repr=False, compare=False)


def waste(
    store: Store,
    results: Path,
    *,
    words: Sequence[str] = (),
    older_than: float | None = None,
    keep_shared: bool = False,
    now: float | None = None,
) -> list[Waste]:
    """What a store keeps for nobody: clips of units that no cell in the result files judges, unless they are younger
    than those files, as of a run that has not come to its end; and files that nothing names.

    Args:
        results: folder of result files.
        words: to choose other units, whoever judges them, as :func:`chosen` does; files that nothing names stay then.
        older_than: days; only what was written before is named.
        keep_shared: leave clips alone that serve every defence, those not yet written too.
        now: seconds since the epoch.

    Raises:
        BenchError: the result files cannot be read, or nothing answers to the words.
    """
    now = time.time() if now is None else now
    limit = now - (older_than or 0.0) * _DAY
    judged = _judged(results)
    found = []
    for holding in chosen(store, words) if words else holdings(store):
        if (keep_shared and holding.shared) or not (words or _is_unjudged(store, holding, judged)):
            continue
        old = [kept for kept in holding.clips if older_than is None or _time(store.path_of(kept.file)) < limit]
        if old:
            found.append(_of_unit(store, holding, old))
    return found if words else [*found, *_orphans(store, min(limit, now - _YOUNG))]


def _of_unit(store: Store, holding: Holding, clips: Sequence[Kept]) -> Waste:
    sizes = {kept.file: _size(store.path_of(kept.file)) for kept in clips}
    names = [" / ".join(holding.labels(name)) for name in ("model", "defense", "attack") if holding.uses]
    what = f"{len(clips)} clips of unit {holding.unit}" + (f" ({', '.join(names)})" if names else "")
    ids = [kept.clip for kept in clips]
    return Waste(what, sum(sizes.values()), lambda: store.drop_clips(holding.unit, ids))


def _orphans(store: Store, limit: float) -> Iterator[Waste]:
    named = {kept.file for clips in store.kept().values() for kept in clips}
    loose = [store.path_of(name) for name in store.bank.names() if name not in named]
    for path in [*loose, *store.bank.remains(), *_old_batches(store, named)]:
        if _time(path) < limit:
            yield Waste(f"{path.relative_to(store.folder)}, which nothing names", _size(path), _remover(path))


def _old_batches(store: Store, named: Collection[str]) -> list[Path]:
    """Files in which older versions kept batches, and that nothing names any more."""
    folder = store.folder / "clips"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path for path in files if path.relative_to(folder).as_posix() not in named]


def _remover(path: Path) -> Callable[[], int]:
    def remove() -> int:
        size = _size(path)
        path.unlink(missing_ok=True)
        return size

    return remove


def _judged(results: Path) -> dict[str, float]:
    """Cells in result files, and when the newest file beside each was written."""
    cells: dict[str, float] = {}
    submitted = [p for one in submissions(results) for p in sorted(one.glob("[!.]*")) if p.is_dir()]
    for folder in [*sorted(p for p in results.glob("[!.]*") if p.is_dir()), *submitted]:
        files = result_files(folder)
        grid, newest = f"grid {folder.name}", max((_time(path) for path in files), default=0.0)
        cells |= {read_result(path).cell: newest for path in files}
        cells[grid] = max(newest, cells.get(grid, 0.0))
    return cells


def _is_unjudged(store: Store, holding: Holding, judged: dict[str, float]) -> bool:
    """Whether the result files know nothing of a unit, and were written after its clips."""
    if any(use.cell in judged for use in holding.uses):
        return False
    written = [judged[key] for use in holding.uses if (key := f"grid {use.grid}") in judged]
    if holding.uses and not written:  # of a grid without result files: its first run was stopped
        return False
    newest = max(_time(store.path_of(kept.file)) for kept in holding.clips)
    return not holding.uses or newest < max(written)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
