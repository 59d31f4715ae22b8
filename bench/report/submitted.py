"""Submissions on the leaderboard: none but those that somebody has verified."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.records.audits import AuditedRow
from bench.records.results import CellResult, difference, meanings, read_results
from bench.records.submissions import (
    CARD_FILE,
    Card,
    Submitted,
    Verification,
    read_card,
    read_verification,
    refusal,
    submissions,
)
from bench.report.tables import as_text, markdown_table


@dataclass(frozen=True)
class Accepted:
    """A verified submission.

    Attributes:
        folder: where it lies.
        card, submitted, verdict: what its files say.
    """

    folder: Path
    card: Card
    submitted: Submitted
    verdict: Verification

    def audits(self, grid: str) -> list[AuditedRow]:
        """The verifier's own."""
        return self.verdict.audits.get(grid, [])

    def row(self, grid: str) -> list[CellResult]:
        """The submitted row, without the undefended one that was run beside it."""
        return [cell for cell in read_results(self.folder / grid) if cell.defense == self.card.name]


def sorted_out(results: Path) -> tuple[list[Accepted], dict[str, str]]:
    """The submissions in a folder of results that are accepted, and why the others are not, by the names of their
    folders.

    Raises:
        BenchError: a card or a verdict is damaged.
    """
    accepted, refused = [], {}
    for folder in submissions(results):
        why = refusal(folder)
        if why is not None:
            refused[folder.name] = why
            continue
        card, verdict = read_card(folder / CARD_FILE), read_verification(folder)
        assert card.submission is not None
        assert verdict is not None
        accepted.append(Accepted(folder, card, card.submission, verdict))
    return accepted, refused


def belongs(row: Sequence[CellResult], cells: Iterable[CellResult]) -> bool:
    """Whether a submitted row may stand in the table of other cells: every label that both have means the same, as of
    one engine, the same clips, and the same attacks."""
    known: dict[tuple[str, ...], Any] = {}
    for cell in cells:
        known |= {} if cell.stale else meanings(cell)
    return bool(known) and not any(difference(known, meanings(cell)) for cell in row)


def cards(accepted: Sequence[Accepted]) -> list[str]:
    """Who submitted what, as Markdown; nothing if nobody did."""
    if not accepted:
        return []
    rows = [
        [
            as_text(words) if words else "-"
            for words in (
                one.card.name,
                ", ".join(one.card.authors),
                one.card.summary,
                one.card.paper,
                one.card.code,
                one.card.licence,
                f"{one.verdict.by.date}, {one.verdict.clips} clips of each column",
            )
        ]
        for one in accepted
    ]
    header = ["Defence", "Authors", "What it does", "Paper", "Code", "Licence", "Verified"]
    words = (
        "Rows marked *submitted* were run by their authors, and asked again by somebody else: kept adversarial clips "
        "were judged, and drawn ones attacked, in a process that knows no label (`bench verify`)."
    )
    return ["## Submitted", "", words, "", *markdown_table(header, rows), ""]
