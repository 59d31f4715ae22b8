"""A defence is submitted: the required grids are run with it, its row is audited, and all is put into one folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import bench
from bench import code, userfiles
from bench.api import GridRun, run_plan
from bench.audit.contract import Inspection, inspect
from bench.audit.rows import audit
from bench.errors import BenchError
from bench.files import replacing
from bench.grids import required
from bench.grids.grid import Grid, find_grid, override
from bench.plan.cells import Plan
from bench.plan.components import is_file
from bench.plan.expand import make_plan
from bench.plan.select import Asking
from bench.records.audits import AuditedRow, write_audit
from bench.records.results import read_results
from bench.records.submissions import (
    CARD_FILE,
    FOLDER,
    VERIFIED_FILE,
    Card,
    Submitted,
    file_digest,
    folder_digest,
    read_card,
    read_verification,
    write_card,
)
from bench.registry import DEFENSES, Spec
from bench.run.runner import Progress
from bench.run.sample import write_sample
from bench.run.store import Store

# Larger files do not go into the folder, which is to go into a repository.
_MOST_BYTES = 20_000_000
# Adversarial clips of each unit that do.
_SAMPLE = 4
DRY_CLIPS = 2
"""Of a dry run of the contract."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """One grid of a submission, run and audited.

    Attributes:
        run: what it gave.
        audits: of the submitted row.
        sample: bytes of the adversarial clips that were put beside the results.
    """

    run: GridRun
    audits: list[AuditedRow]
    sample: int


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A submission that is being made.

    Attributes:
        card: as its authors filled it in.
        spec: the defence, where its authors have it.
        grids: to be run with it.
        results: folder of results: the submission goes to ``submissions/NAME`` in it, the store lies beside.
        sources: files of the defence's code, by their path in the folder.
        read: files that its parameters name, by parameter.
    """

    card: Card
    spec: Spec
    grids: Sequence[Grid]
    results: Path
    sources: Mapping[str, Path]
    read: Mapping[str, Path]
    data_root: Path | None = None
    checkpoint: Path | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def of(
        cls,
        text: str,
        card: Path,
        *,
        grids: Sequence[str] | None = None,
        weights: Path | None = None,
        results: Path = Path("results"),
        data_root: Path | None = None,
        checkpoint: Path | None = None,
        device: torch.device | None = None,
    ) -> Draft:
        """Checks all that can be checked before anything is run.

        Args:
            text: ``FILE.py:Class``, ``package.module:Class`` or a registered name, with parameters.
            card: file that was filled in, see :class:`bench.records.submissions.Card`.
            grids: names, or grid files; those that are required if not given.
            weights: file for the constructor's parameter ``weights``.

        Raises:
            BenchError: the card is not filled in, its name is taken, or the defence cannot be made.
        """
        filled = read_card(card).model_copy(update={"submission": None})
        spec = Spec.parse(text)
        entry = DEFENSES.get(spec.name)
        if weights is not None:
            if not any(p.name == "weights" for p in entry.parameters):
                raise BenchError(f"{spec} takes no parameter weights: leave --weights out, or add it to the class.")
            if not weights.is_file():
                raise BenchError(f"There is no file of weights {weights}.")
            spec = Spec(spec.name, {**spec.params, "weights": str(weights)})
        DEFENSES.create(spec)
        found = [find_grid(name) for name in (required.REQUIRED if grids is None else grids)]
        if not filled.folder:
            raise BenchError(f"The name {filled.name!r} makes no folder's name: use a letter or a digit in it.")
        if not found:
            raise BenchError("A submission needs a grid.")
        for grid in found:
            if filled.name.casefold() in {str(known).casefold() for known in (*grid.defense_specs, "none")}:
                raise BenchError(f"{filled.name!r} is the name of a row of {grid.name}: give the card another name.")
        return cls(
            card=filled,
            spec=spec,
            grids=found,
            results=results,
            sources=_sources(spec, entry.factory),
            read={key: Path(value) for key, value in spec.params.items() if is_file(value)},
            data_root=data_root,
            checkpoint=checkpoint,
            device=device or torch.device("cpu"),
        )

    @property
    def folder(self) -> Path:
        return self.results / FOLDER / self.card.folder

    @property
    def submitted(self) -> Submitted:
        """What the card will say of it."""
        parts = userfiles.split(self.spec.name)
        name = userfiles.shown(self.spec.name) if parts is not None else self.spec.name
        places = {key: self._place(key, path) for key, path in self.read.items()}
        files = {place: file_digest(path) for place, path in self.sources.items()}
        files |= {places[key]: file_digest(path) for key, path in self.read.items()}
        return Submitted(
            defense=name,
            params={**self.spec.params, **places},
            files=files,
            grids=[grid.name for grid in self.grids],
            bench=bench.__version__,
            command=f"bench submit {name} --card {CARD_FILE}",
        )

    def _place(self, key: str, path: Path) -> str:
        """Where a file that is read goes in the folder; its name alone where it is too large for that."""
        return path.name if path.stat().st_size > _MOST_BYTES else f"files/{key}-{path.name}"

    def inspect(self) -> Inspection:
        """A dry run of the contract, where the authors have the defence; nothing is written."""
        grid = self._row(self.grids[0], DRY_CLIPS)
        plan = make_plan(grid, data_root=self.data_root, checkpoint=self.checkpoint, asking=Asking(self.device))
        return inspect(plan, self.card.name, self.device)

    def place(self) -> None:
        """Puts the defence's files into the folder, from which everything is run.

        Raises:
            BenchError: the folder cannot be written, or what is too large for it cannot be had anywhere.
        """
        if any(path.stat().st_size > _MOST_BYTES for path in self.read.values()) and not self.card.weights:
            raise BenchError(
                f"A file of {_MOST_BYTES / 1e6:g} MB or more does not go into the folder: say in the card where others "
                "get it ('weights')."
            )
        inside = {self.folder / place: path for place, path in self.sources.items()}
        places = {self._place(key, path): path for key, path in self.read.items()}
        inside |= {self.folder / place: path for place, path in places.items() if "/" in place}
        try:
            for place, path in inside.items():
                place.parent.mkdir(parents=True, exist_ok=True)
                if place.exists() and place.samefile(path):
                    continue
                with replacing(place) as partial:
                    shutil.copyfile(path, partial)
        except OSError as error:
            raise BenchError(f"Cannot write {self.folder}: {error}; mend that and repeat the command.") from error

    def plans(self, *, placed: bool = True) -> Iterator[Plan]:
        """The plan of each grid with the submitted row.

        Args:
            placed: made of the files in the folder, and not where the authors have them.
        """
        outside = {path.name: path for path in self.read.values()}
        for grid in self.grids:
            yield make_plan(
                with_row(grid, self.card.name, self.submitted, self.folder, outside) if placed else self._row(grid),
                data_root=self.data_root,
                checkpoint=self.checkpoint,
                asking=Asking(self.device, self.results / ".store", keep=placed),
            )

    def _row(self, grid: Grid, clips: int | None = None) -> Grid:
        return override(grid, defenses=[as_text(self.spec)], label=self.card.name, clips=clips)

    def run(self, plan: Plan, *, minutes: float = 20.0, progress: Progress | None = None) -> Made:
        """Runs one plan, audits the row, and puts a sample of its adversarial clips beside the results. What is stored
        already is not computed again.

        Args:
            minutes: that the audit may take.
        """
        store = self.results / ".store"
        run = run_plan(plan, store, results_folder=self.folder, device=self.device, progress=progress)
        place = self.folder / plan.grid.name
        audits = audit(
            plan,
            read_results(place),
            device=self.device,
            minutes=minutes,
            salt=self.card.name,
            defenses={self.card.name},
            store=store,
            data_root=self.data_root,
            checkpoint=self.checkpoint,
        )
        write_audit(place, audits)
        units = {c.unit.id: c.unit for c in plan.cells if c.unit and c.defense.label == self.card.name}
        with Store(store, writable=False) as kept:
            size = write_sample(kept, list(units.values()), plan.refs, place, _SAMPLE, self.card.name)
        return Made(run=run, audits=audits, sample=size)

    def finish(self) -> Path:
        """Writes the card, last: a folder without one was not finished. A verdict on other files goes."""
        write_card(self.folder / CARD_FILE, self.card.model_copy(update={"submission": self.submitted}))
        verdict = read_verification(self.folder)
        if verdict is not None and verdict.digest != folder_digest(self.folder):
            (self.folder / VERIFIED_FILE).unlink()
        return self.folder


def _sources(spec: Spec, factory: Callable[..., Any]) -> dict[str, Path]:
    """Files of a defence's own code, by their path in a submission's folder: its file and what it imports beside it.
    Nothing of a package that is installed."""
    parts = userfiles.split(spec.name)
    if parts is None:
        return {}
    file = Path(parts[0])
    beside = [path for path in (code.sources(factory) or {}).values() if path.is_relative_to(file.parent)]
    if any(path.is_relative_to(Path(bench.__file__).parent) for path in beside):  # the file lies around the package
        beside = []
    return {path.relative_to(file.parent).as_posix(): path for path in dict.fromkeys([file, *beside])}


def as_text(spec: Spec) -> str:
    """A component as the command line takes it, with its whole path and without its label."""
    inner = ", ".join(f"{key}={value!r}" for key, value in spec.params.items())
    return f"{spec.name}({inner})" if inner else spec.name


def with_row(grid: Grid, name: str, submitted: Submitted, folder: Path, outside: Mapping[str, Path]) -> Grid:
    """A grid with the row of a submission, and the undefended one.

    Args:
        name: of the row.
        folder: of the submission.
        outside: files that are too large to lie there, by their names.

    Raises:
        BenchError: a file lies neither there nor outside.
    """
    defense = submitted.defense
    if userfiles.split(defense) is not None:
        defense = userfiles.absolute(defense, folder)
    params = dict(submitted.params)
    for key, value in params.items():
        if isinstance(value, str) and value in submitted.files:
            place = folder / value if (folder / value).is_file() else outside.get(Path(value).name)
            if place is None:
                raise BenchError(
                    f"The submission reads {value}, which is not in {folder} (sha256 {submitted.files[value]}): get "
                    "it, and give it with --weights."
                )
            params[key] = str(place.resolve())
    return override(grid, defenses=[as_text(Spec(defense, params))], label=name)
