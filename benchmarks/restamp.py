"""Gives stored results the identities of the present code, after an edit that changed identities and no number.

    python benchmarks/restamp.py --note before.json    # at the commit before the edit
    python benchmarks/restamp.py --from before.json    # at the commit after it

A result is re-stamped only if its identity was current at the commit before; any other says from then on that it is
stale. That the edit changed no number is for whoever runs this to show: by tests/test_golden.py, and by running some
clips of a grid again and comparing them with what is stored.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bench.errors import BenchError
from bench.files import replacing
from bench.grids.grid import find_grid
from bench.plan.cells import Cell
from bench.plan.expand import make_plan
from bench.records.audits import read_audit, write_audit
from bench.records.results import CellResult, read_grid_file, read_result, result_files

STALE = "Measured with other code than that before identities were given anew."

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
                result.stale = STALE
                stale += 1
            with replacing(path) as partial:
                partial.write_text(result.to_text(), encoding="utf-8")
        audits = read_audit(folder)
        for row in audits:
            row.measured = sorted(renamed.get(cell, cell) for cell in row.measured)
        if audits:
            write_audit(folder, audits)
        print(f"{folder.name}: {len(renamed)} results have a new identity")
    return current, stale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"))
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--note", type=Path, metavar="FILE", help="write the present identities")
    what.add_argument("--from", type=Path, dest="before", metavar="FILE", help="re-stamp what was current by FILE")
    given = parser.parse_args()
    if given.note:
        note(given.results, given.note)
        return
    current, stale = restamp(given.results, given.before)
    print(f"{current} results re-stamped, {stale} stale")


if __name__ == "__main__":
    main()
