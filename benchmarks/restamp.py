"""Gives stored results the identities of the present code, after an edit that changed identities and no number.

    python benchmarks/restamp.py --note before.json    # at the commit before the edit
    python benchmarks/restamp.py --from before.json    # at the commit after it

    python benchmarks/restamp.py --stale               # after an edit that did change numbers

A result is re-stamped only if its identity was current at the commit before; any other says from then on that it is
stale. That the edit changed no number is for whoever runs this to show: by tests/test_golden.py, and by running some
clips of a grid again and comparing them with what is stored. ``--stale`` changes no identity: it marks the results that
the present code would measure again, as their tables then say, and takes the mark from those that it would not.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bench.errors import BenchError
from bench.files import write_whole
from bench.grids.grid import find_grid
from bench.plan.cells import Cell
from bench.plan.expand import make_plan
from bench.records.audits import read_audit, write_audit
from bench.records.results import CellResult, read_grid_file, read_result, result_files

STALE = "Measured with other code than that before identities were given anew."
OLD = "Measured with other code, weights or settings than the present ones."

Labels = tuple[str, str, str, str]


def labels_of(cell: Cell | CellResult) -> Labels:
    """What stands for a cell in its grid: classifier, defence, attack and budget."""
    if isinstance(cell, CellResult):
        return cell.model, cell.defense, cell.attack, cell.budget
    return cell.model.label, cell.defense.label, cell.attack_label, cell.threat


def cells_of(grid: str) -> dict[Labels, Cell]:
    """The cells of a grid as the present code plans them."""
    return {labels_of(cell): cell for cell in make_plan(find_grid(grid)).cells}


def folders(results: Path) -> list[Path]:
    """Folders of grids that can be planned here."""
    found = []
    for folder in sorted(p for p in results.iterdir() if p.is_dir()):
        if read_grid_file(folder) is None:
            continue
        try:
            find_grid(folder.name)
        except BenchError as error:
            print(f"{folder.name} is left alone: {error}")
            continue
        found.append(folder)
    return found


def note(results: Path, file: Path) -> None:
    """Writes the identities of all cells as the present code has them."""
    noted = {f.name: [[*labels, c.id] for labels, c in cells_of(f.name).items()] for f in folders(results)}
    file.write_text(json.dumps(noted, indent=1) + "\n", encoding="utf-8")


def restamp(results: Path, file: Path) -> tuple[int, int]:
    """Gives every result that was current its present identity; returns how many were, and how many were not."""
    before: dict[str, list[list[str]]] = json.loads(file.read_text(encoding="utf-8"))
    current = stale = 0
    for folder in folders(results):
        old = {(model, defense, attack, budget): id for model, defense, attack, budget, id in before[folder.name]}
        now = cells_of(folder.name)
        renamed: dict[str, str] = {}
        for path in result_files(folder):
            result = read_result(path)
            labels = labels_of(result)
            if labels in now and old.get(labels) == result.cell:
                renamed[result.cell] = now[labels].id
                result.cell, result.settings, result.stale = now[labels].id, now[labels].identity, ""
                current += 1
            else:
                result.stale = result.stale or STALE
                stale += 1
            write_whole(path, result.to_text())
        audits = read_audit(folder) if renamed else []
        for row in audits:
            row.measured = sorted(renamed.get(cell, cell) for cell in row.measured)
        if audits:
            write_audit(folder, audits)
        print(f"{folder.name}: {len(renamed)} results have a new identity")
    return current, stale


def mark(results: Path) -> tuple[int, int]:
    """Marks every result that is not of the present code; returns how many are, and how many are not."""
    current = stale = 0
    for folder in folders(results):
        now = cells_of(folder.name)
        for path in result_files(folder):
            result = read_result(path)
            cell = now.get(labels_of(result))
            is_current = cell is not None and cell.id == result.cell
            current, stale = current + is_current, stale + (not is_current)
            reason = "" if is_current else result.stale or OLD
            if reason != result.stale:
                result.stale = reason
                write_whole(path, result.to_text())
    return current, stale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"))
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--note", type=Path, metavar="FILE", help="write the present identities")
    what.add_argument("--from", type=Path, dest="before", metavar="FILE", help="re-stamp what was current by FILE")
    what.add_argument("--stale", action="store_true", help="mark what the present code would measure again")
    given = parser.parse_args()
    if given.stale:
        current, stale = mark(given.results)
        print(f"{current} results are current, {stale} stale")
        return
    if given.note:
        note(given.results, given.note)
        return
    current, stale = restamp(given.results, given.before)
    print(f"{current} results re-stamped, {stale} stale")


if __name__ == "__main__":
    main()
