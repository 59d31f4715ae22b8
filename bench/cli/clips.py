"""How ``bench show CLIP --of ROW`` shows one clip of a row: clean, attacked, purified, and what the attack changed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli.app import err
from bench.errors import BenchError, nearest

if TYPE_CHECKING:
    from bench.records.outcome import Outcome
    from bench.records.results import CellResult
    from bench.report.rows import NamedRow
    from bench.run.pairs import KeptPairs

# By which differences are enlarged.
_TIMES = 10


def show_clip(
    clip: str, name: str, attack: str | None, output: Path | None, results: Path, data_root: Path | None
) -> None:
    """Writes a picture of a clip that a run has kept.

    Args:
        clip: its id.
        name: of the row, ``GRID:DEFENCE[@MODEL]``.
        attack: label of the attack that made it; if not given, the first whose clip is kept, those that break the
            defence before the others, and adaptive ones before the others among them.
        output: ``.gif``, ``.webp`` or ``.png``; ``CLIP.gif`` if not given.

    Raises:
        BenchError: there is no such row, clip or attack, no adversarial clip is kept, or nothing can be written.
    """
    from bench.files import slug
    from bench.report.clips import clips_of
    from bench.report.rows import find_row
    from bench.run.pairs import KeptPairs

    row = find_row(name, results)
    clips_of(row, clip)  # which refuses a clip that the row does not have
    file = output if output is not None else Path(f"{slug(clip)}.gif")
    with KeptPairs(row.folder.parent, data_root) as kept:
        cell = _chosen(row, clip, attack, kept)
        _write(cell, clip, kept, file, data_root)
    err.print(f"wrote {file}", soft_wrap=True)


def _chosen(row: NamedRow, clip: str, attack: str | None, kept: KeptPairs) -> CellResult:
    attacked = [cell for cell in row.cells if cell.knowledge != "clean"]
    labels = list(dict.fromkeys(cell.attack for cell in attacked))
    if attack is not None and attack.casefold() not in map(str.casefold, labels):
        raise BenchError(
            f"{row} has no attack {attack!r}{nearest(attack, labels)}; it has {', '.join(labels) or 'none'}."
        )
    wanted = [cell for cell in attacked if attack is None or cell.attack.casefold() == attack.casefold()]
    there = [cell for cell in wanted if kept.has(cell, clip)]
    if not there:
        raise BenchError(
            f"No adversarial clip {clip!r} of {row}{f' under {attack}' if attack else ''} is kept in the store of "
            f"{row.folder.parent}: run the grid again with --keep all."
        )
    return min(there, key=lambda c: (_outcome(c, clip).correct, c.knowledge == "noise", c.knowledge != "adaptive"))


def _outcome(cell: CellResult, clip: str) -> Outcome:
    return next(outcome for outcome in cell.outcomes if outcome.clip == clip)


def _write(cell: CellResult, clip: str, kept: KeptPairs, file: Path, data_root: Path | None) -> None:
    from bench.data.pictures import Panel, write_side_by_side
    from bench.run.pairs import difference
    from bench.run.remade import purified, remade

    pair, names, outcome = kept.pair(cell, clip), kept.classes(cell), _outcome(cell, clip)
    under = ", ".join(part for part in (cell.attack, cell.budget) if part)
    panels = [Panel("clean", pair.clean.numpy()), Panel(f"under {cell.attack}", pair.adversarial.numpy())]
    try:
        made = purified(remade(cell.settings, data_root), cell.settings, clip, pair.adversarial)
        if made.answers:  # of several the last, which VideoPure has denoised furthest
            which = f"{len(made.answers)} of {len(made.answers)}: " if len(made.answers) > 1 else ""
            words = f"purified, {which}{_called(made.answers[-1], names)}"
            panels.append(Panel(words, made.candidates[-1].float().numpy()))
        if made.remark:
            err.print(made.remark, soft_wrap=True)
    except BenchError as error:
        err.print(f"The purified clip is not shown: {error}", soft_wrap=True)
    panels.append(Panel(f"difference, {_TIMES} times", difference(pair, _TIMES).numpy()))
    before, after = _called(outcome.clean_prediction, names), _called(outcome.prediction, names)
    caption = (
        f"{clip}, {cell.defense}@{cell.model}, {under}. True class: {_called(outcome.label, names)}; answer before: "
        f"{before}; after: {after}."
    )
    write_side_by_side(panels, caption, file)


def _called(number: int | None, names: tuple[str, ...]) -> str:
    """A class in words."""
    if number is None:
        return "none"
    return names[number] if number < len(names) else f"class {number}"
