"""A submission, or a grid's results, asked again: what anybody can do who doubts a row."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from bench.audit.asked import Setting
from bench.audit.contract import inspect
from bench.audit.rows import MINUTES, audit
from bench.audit.verify import ask_again, doubts, unlike_the_plan
from bench.errors import BenchError
from bench.grids import required as grids
from bench.grids.grid import Grid, find_grid, override
from bench.grids.tagged import run_of, untagged
from bench.plan.cells import Plan
from bench.plan.expand import make_plan
from bench.plan.select import Asking
from bench.ready.submission import DRY_CLIPS, with_row
from bench.records.audits import AuditedRow
from bench.records.results import CellResult, read_results
from bench.records.submissions import (
    CARD_FILE,
    Card,
    Submitted,
    Verification,
    VerifiedCell,
    file_digest,
    files_of,
    folder_digest,
    read_card,
)
from bench.run.engine import hardware
from bench.run.provenance import of_this_process
from bench.run.sample import FOLDER as CLIPS
from bench.run.sample import Sample
from bench.run.store import Store

# What the verifier's own audit finds that no honest row has; a weak defence is none of it, and shows in the grade.
_DISHONEST = ("alone", "audited", "fresh clips", "meddling", "control")

Watch = Callable[[str], None]


def verify(
    folder: Path,
    *,
    clips: int = 8,
    salt: str | None = None,
    device: torch.device | None = None,
    minutes: float = MINUTES,
    weights: Sequence[Path] = (),
    data_root: Path | None = None,
    checkpoint: Path | None = None,
    required: Sequence[str] | None = None,
    working_on: Watch = lambda what: None,
) -> Verification:
    """Asks a submission again. Nothing in its folder is believed but the defence's code.

    Args:
        clips: of each row that are judged, and attacked from the start, again.
        salt: by which they are drawn; drawn itself if not given, so that nobody can prepare for it.
        minutes: that the audit of a row may take.
        weights: files that are too large for the folder.
        required: grids that must be there; see :mod:`bench.grids.required` if not given.
        working_on: is told what is done.

    Raises:
        BenchError: there is no submission, a file that it needs is not here, or the data set's are not.
    """
    if not folder.is_dir():
        raise BenchError(f"There is no folder {folder}: give that of a submission, or the name of a grid.")
    card = read_card(folder / CARD_FILE)
    if card.submission is None:
        raise BenchError(f"The card in {folder} does not say what was run: bench submit writes a whole one.")
    asking = _Verifying(
        folder=folder,
        card=card,
        submitted=card.submission,
        clips=clips,
        salt=salt if salt is not None else secrets.token_hex(8),
        device=device or torch.device("cpu"),
        minutes=minutes,
        outside=_outside(card.submission, weights),
        data_root=data_root,
        checkpoint=checkpoint,
        working_on=working_on,
    )
    return asking.run(grids.REQUIRED if required is None else required)


def _outside(submitted: Submitted, weights: Sequence[Path]) -> dict[str, Path]:
    """Files by the names that the card gives them, told by their contents.

    Raises:
        BenchError: a file is none of the submission's.
    """
    names = {digest: place for place, digest in submitted.files.items()}
    found = {}
    for path in weights:
        digest = file_digest(path)
        if digest not in names:
            raise BenchError(f"{path} (sha256 {digest}) is no file of this submission.")
        found[Path(names[digest]).name] = path
    return found


class _Verifying:
    """Asks one submission again."""

    def __init__(
        self,
        *,
        folder: Path,
        card: Card,
        submitted: Submitted,
        clips: int,
        salt: str,
        device: torch.device,
        minutes: float,
        outside: Mapping[str, Path],
        data_root: Path | None,
        checkpoint: Path | None,
        working_on: Watch,
    ) -> None:
        self._folder, self._card, self._submitted = folder, card, submitted
        self._clips, self._salt, self._device, self._minutes = clips, salt, device, minutes
        self._outside, self._data_root, self._checkpoint = outside, data_root, checkpoint
        self._working_on = working_on
        self._reasons: list[str] = []
        self._cells: list[VerifiedCell] = []
        self._audits: dict[str, list[AuditedRow]] = {}

    def run(self, required: Sequence[str]) -> Verification:
        digest = folder_digest(self._folder)
        self._reasons += self._of_files(required)
        whole = [] if self._reasons else [found for name in self._submitted.grids if (found := self._whole(name))]
        if not self._reasons:  # what is not whole is not asked
            self._reasons += self._of_contract()
            for plan, results in whole:
                self._of_grid(plan, results)
        if folder_digest(self._folder) != digest:
            self._reasons.append("While it was asked, files in its folder changed.")
        return Verification(
            digest=digest,
            reasons=self._reasons,
            cells=self._cells,
            audits=self._audits,
            clips=self._clips,
            salt=self._salt,
            by=of_this_process(hardware(self._device)),
        )

    def _of_files(self, required: Sequence[str]) -> list[str]:
        """Whether all is there that the card names, and nothing else."""
        words = []
        for place, digest in self._submitted.files.items():
            path = self._folder / place
            if not path.is_file():
                path = self._outside.get(Path(place).name, path)
            if not path.is_file():
                raise BenchError(
                    f"The submission reads {place}, which is not in {self._folder} (sha256 {digest}): get it "
                    f"({self._card.weights or 'its card does not say where'}), and give it with --weights."
                )
            if file_digest(path) != digest:
                words.append(f"{place} is another file than the card says.")
        if lacking := [name for name in required if name not in self._submitted.grids]:
            words.append(f"It was not run on {', '.join(lacking)}: run bench submit again.")
        grids = self._submitted.grids
        known = {CARD_FILE, "README.md", *self._submitted.files}
        for path in files_of(self._folder):
            parts = path.relative_to(self._folder).parts
            of_grid = parts[0] in grids and (
                (len(parts) == 2 and path.suffix == ".json") or (parts[1] == CLIPS and path.suffix == ".advclip")
            )
            if not of_grid and "/".join(parts) not in known:
                words.append(f"{'/'.join(parts)} belongs neither to its card nor to its grids: remove it.")
        return words

    def _grid(self, name: str) -> Grid:
        return with_row(find_grid(name), self._card.name, self._submitted, self._folder, self._outside)

    def _plan(self, grid: Grid) -> Plan:
        asking = Asking(self._device)
        return make_plan(grid, data_root=self._data_root, checkpoint=self._checkpoint, asking=asking)

    def _of_contract(self) -> list[str]:
        self._working_on("the contract")
        plan = self._plan(override(self._grid(self._submitted.grids[0]), clips=DRY_CLIPS))
        found = inspect(plan, self._card.name, self._device, self._salt)
        return [f"{b.check}: {b.message}" for b in found.breaches if b.verdict == "refused"]

    def _whole(self, name: str) -> tuple[Plan, list[CellResult]] | None:
        """The plan and the results of a grid, if these are of that plan."""
        try:
            results = read_results(self._folder / name)
        except BenchError as error:  # what contradicts itself is no reason to stop, but one to refuse
            self._reasons.append(str(error))
            return None
        plan = self._plan(self._grid(name))
        self._reasons += unlike_the_plan(plan, results, self._card.name)
        return plan, results

    def _of_grid(self, plan: Plan, results: Sequence[CellResult]) -> None:
        name = plan.grid.name
        setting = _setting(plan, self._clips, self._salt, self._device, self._data_root, self._checkpoint)
        asked = ask_again(
            setting,
            results,
            Sample(self._folder / name),
            defense=self._card.name,
            working_on=lambda what: self._working_on(f"{name}: {what}"),
        )
        self._cells += asked
        for of_row in _by_row(asked).values():
            self._reasons += [f"{name}: {words}" for words in doubts(of_row)]
        self._audit(plan, results)

    def _audit(self, plan: Plan, results: Sequence[CellResult]) -> None:
        name = plan.grid.name
        self._working_on(f"{name}: audit")
        rows = audit(
            plan,
            results,
            clips=self._clips,
            device=self._device,
            minutes=self._minutes,
            salt=self._salt,
            defenses={self._card.name},
            data_root=self._data_root,
            checkpoint=self._checkpoint,
        )
        self._audits[name] = rows
        self._reasons += [
            f"{name}, audit: {finding.message}"
            for row in rows
            for finding in row.findings
            if finding.severity == "fault" and finding.check in _DISHONEST
        ]


def _setting(
    plan: Plan, clips: int, salt: str, device: torch.device, data_root: Path | None, checkpoint: Path | None
) -> Setting:
    return Setting(
        plan=plan,
        clips=clips,
        salt=salt,
        device=device,
        seconds=float("inf"),
        data_root=data_root,
        checkpoint=checkpoint,
    )


def _by_row(cells: Sequence[VerifiedCell]) -> dict[tuple[str, str], list[VerifiedCell]]:
    rows: dict[tuple[str, str], list[VerifiedCell]] = {}
    for cell in cells:
        rows.setdefault((cell.model, cell.defense), []).append(cell)
    return rows


def verify_grid(
    name: str,
    results: Path,
    *,
    run: str | None = None,
    clips: int = 8,
    salt: str | None = None,
    device: torch.device | None = None,
    defenses: Sequence[str] = (),
    data_root: Path | None = None,
    checkpoint: Path | None = None,
    working_on: Watch = lambda what: None,
) -> tuple[list[VerifiedCell], list[str]]:
    """Asks the rows of a grid's results again, with the adversarial clips that the store beside them has kept.

    Args:
        name, run: of the grid and of its results, as ``bench audit`` takes them.
        results: folder of results.
        defenses: labels of the rows; all that have results if none is given.

    Returns:
        What was asked, and what speaks against the rows, a sentence each.

    Raises:
        BenchError: there are no such results, or rows.
    """
    found, of_run = untagged(name)
    grid = run_of(find_grid(found), results, run or of_run)
    folder, pu = results / grid.name, device or torch.device("cpu")
    if not folder.is_dir():
        raise BenchError(f"There are no results of {grid.name!r} in {results}: run 'bench run --grid {name}' first.")
    cells = read_results(folder)
    plan = make_plan(
        grid, data_root=data_root, checkpoint=checkpoint, asking=Asking(pu, results / ".store", keep=False)
    )
    known = {cell.defense.label for cell in plan.cells} & {cell.defense for cell in cells}
    if unknown := [label for label in defenses if label not in known]:
        raise BenchError(f"There are no results of {unknown[0]!r} in {folder}; there are {', '.join(sorted(known))}.")
    setting = _setting(plan, clips, salt or secrets.token_hex(8), pu, data_root, checkpoint)
    asked: list[VerifiedCell] = []
    against: list[str] = []
    with Store(results / ".store", writable=False) as store:
        sample = Sample(folder, store)
        for label in dict.fromkeys(cell.defense.label for cell in plan.cells):
            if label not in known or (defenses and label not in defenses):
                continue
            otherwise = unlike_the_plan(plan, cells, label)
            against += otherwise
            if otherwise:
                continue
            row = ask_again(setting, cells, sample, defense=label, working_on=working_on)
            asked += row
            against += [f"{label}: {words}" for of_row in _by_row(row).values() for words in doubts(of_row)]
    return asked, against
