"""In which order the rows of a table stand, and which have no place in it."""

from __future__ import annotations

from bench.report.tables import HEADINGS, Row, Table

UNRANKED = "Rows that claim nothing: no adaptive attack was made on them, or they are void or graded F."


def ranked(table: Table) -> list[Row]:
    """The rows that claim something, best first.

    Complete rows stand above incomplete ones (:func:`incomplete`), and those without a known fault above those that an
    audit graded C, or that were not audited where others were. Within, rows are sorted by the columns of the attack
    ``adaptive``, by the worst of them, or where a table has none by the union; then by grade and clean accuracy.
    """
    return sorted((row for row in table.rows if _claims(table, row)), key=lambda row: _order(table, row))


def unranked(table: Table) -> list[Row]:
    """The rows whose figures say nothing of robustness: void, graded F, or without an adaptive attack."""
    return sorted((row for row in table.rows if not _claims(table, row)), key=lambda row: _order(table, row))


def incomplete(table: Table, row: Row) -> bool:
    """Whether an adaptive attack that the table has is missing, or any that could be run: the union is then an upper
    bound.

    A gradient that a defence does not have counts as missing unless the attack ``adaptive``, which knows what to take
    in its place, was run. Before an undefended classifier there is nothing to differentiate.
    """
    if row.not_run:
        return True
    if row.undefended or (table.strongest and all(label in row.scores for label in table.strongest)):
        return False
    return any(table.columns.get(label) == HEADINGS["adaptive"] for label in row.absent)


def _claims(table: Table, row: Row) -> bool:
    if row.void or row.grade.startswith("F"):
        return False
    kinds = {table.columns[label] for label in row.scores if label in table.columns}
    attackers = set(table.columns.values()) - {HEADINGS["clean"]}
    # Whoever knows an undefended classifier knows all there is.
    enough = {HEADINGS["adaptive"]} | ({HEADINGS["gray-box"]} if row.undefended else set())
    return not attackers or bool(kinds & enough)


def _order(table: Table, row: Row) -> tuple[bool, bool, float, float, str, float, str]:
    standard = row.scores.get("clean")
    union = row.union.accuracy if row.union else -1.0
    strongest = [row.scores[label].accuracy for label in table.strongest if label in row.scores]
    doubtful = row.grade.startswith("C") or (table.audited and not row.grade)
    return (
        incomplete(table, row),
        doubtful,
        -min(strongest, default=union),
        -union,
        row.grade or "Z",
        -(standard.accuracy if standard else -1.0),
        row.defense,
    )
