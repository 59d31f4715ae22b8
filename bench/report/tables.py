"""Standard / Robust* / Robust tables: views over outcomes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from bench.records.audits import AuditedRow, grades
from bench.records.description import Described, Skipped
from bench.records.metrics import mean, roc_area, union
from bench.records.results import CellResult, Score
from bench.report.reported import Reported

HEADINGS = {
    "clean": "Standard",
    "noise": "Noise",
    "universal": "Universal",
    "black-box": "Black-box",
    "gray-box": "Robust*",
    "adaptive": "Robust",
    "worst": "Worst",
}
# The attack that takes the strongest known moves against the kind of a defence: tables are sorted by its columns.
_STRONGEST = "adaptive"


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """What a grid says of its tables.

    Attributes:
        reported: published figures; they stand beside the classifier they belong to and no other.
        skipped: cells that do not exist.
        worst: columns that are the worst of others, per clip. A part that does not exist for a defence is left out.
        across: means over several grids, by label and defence, :func:`~bench.report.across.means_across`.
        oracles, counts_clean, averages: see :class:`~bench.grids.grid.Grid`.
        seconds: of a pass, :func:`~bench.records.results.pass_seconds`, where the tables are to show them.
        audits: of the grid's rows; those that looked at other cells than a table's say nothing about it.
    """

    reported: Reported | None = None
    skipped: Sequence[Skipped] = ()
    worst: Mapping[str, Sequence[str]] = field(default_factory=dict)
    oracles: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    counts_clean: bool = False
    seconds: Mapping[tuple[str, str], float] = field(default_factory=dict)
    averages: Mapping[str, Sequence[str]] = field(default_factory=dict)
    across: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    audits: Sequence[AuditedRow] = ()

    @classmethod
    def of(
        cls,
        grid: Described,
        *,
        reported: Reported | None,
        skipped: Sequence[Skipped],
        seconds: Callable[[], Mapping[tuple[str, str], float]],
        across: Mapping[str, Mapping[str, float]] | None = None,
        audits: Sequence[AuditedRow] = (),
    ) -> TableOptions:
        """All that a grid says, or what its results folder says about it.

        Args:
            seconds: is asked only if the grid shows times.
            across: means over several grids; none if not given.
        """
        return cls(
            reported=reported,
            skipped=skipped,
            worst=grid.worst,
            oracles=grid.oracles,
            counts_clean=grid.counts_clean,
            seconds=seconds() if grid.timed else {},
            averages=grid.averages,
            across=across or {},
            audits=audits,
        )

    def absent(self, model: str, defense: str) -> dict[str, Skipped]:
        """Columns that do not exist for a defence, and why."""
        return {s.attack: s for s in self.skipped if (s.model, s.defense) == (model, defense)}

    def parts(self, columns: Collection[str], absent: Collection[str] = ()) -> dict[str, list[str]]:
        """The columns ``worst``, each with those of its parts that a table has and that exist for a defence."""
        return {label: [p for p in parts if p in columns and p not in absent] for label, parts in self.worst.items()}


@dataclass
class Row:
    """One defence: measured scores by column label, and reported figures where a paper gives them.

    Attributes:
        scores: ``{column label: score}``.
        union: clips that are right under every attack of the row and under its noise, which is no attack, but what it
            breaks is broken.
        mean: average accuracy over the attacks, in percent; not-a-number if some were not run. Noise is none of them.
        absent: columns that do not exist for this defence, and why.
        not_run: columns that exist and were not run. The union is then only an upper bound.
        reported: as printed in the paper: ``{column label: percent}``, and ``Seconds``.
        void: columns whose zero-budget control failed, and what was seen. Nothing in such a row can be trusted.
        seconds: wall time of one clean clip through the defence and its classifier, if the table shows it.
        detected: of a defence that measures clips, the area under the ROC curve by which it tells the attacked clips of
            a column from the clean ones.
        averages: by label, the mean accuracy over some attacks or grids, in percent; not-a-number if one was not run.
        undefended: whether nothing stands before the classifier.
        grade: of an audit of these cells, ``A`` to ``F``, with ``(outcomes)`` where no clip was asked again; empty if
            there was none.
        remarks: on the reported figures, by column.
        gray, robust: clips that are right under every gray-box attack of the row, and under every adaptive one; before
            an undefended classifier all of them are adaptive. ``None`` where there is no such attack.
        hardest: the attack, of those in ``robust``, that leaves least.
    """

    defense: str
    scores: dict[str, Score]
    union: Score | None
    mean: float
    absent: Mapping[str, Skipped] = field(default_factory=dict)
    not_run: frozenset[str] = frozenset()
    reported: dict[str, float] = field(default_factory=dict)
    void: dict[str, str] = field(default_factory=dict)
    seconds: float | None = None
    detected: dict[str, float] = field(default_factory=dict)
    averages: dict[str, float] = field(default_factory=dict)
    undefended: bool = False
    grade: str = ""
    remarks: dict[str, str] = field(default_factory=dict)
    gray: Score | None = None
    robust: Score | None = None
    hardest: str = ""


@dataclass
class Table:
    """One classifier on one data set under one budget.

    Attributes:
        columns: attack label to heading (Standard, Noise, Robust*, Robust), in order.
        strongest: labels of the columns of the attack ``adaptive``.
        clips: clips in every cell.
        counts_clean: whether union and mean count the clean clips as an attack.
        averages: labels of further averages, in order.
    """

    dataset: str
    model: str
    budget: str
    columns: dict[str, str]
    rows: list[Row]
    clips: int
    reported_from: str = ""
    counts_clean: bool = False
    averages: tuple[str, ...] = ()
    strongest: tuple[str, ...] = ()

    @property
    def together(self) -> tuple[str, str]:
        """Headings of what all attacks say together."""
        return ("Union with clean", "Mean with clean") if self.counts_clean else ("Union", "Mean")

    @property
    def timed(self) -> bool:
        """Whether any row knows its time."""
        return any(row.seconds is not None for row in self.rows)

    @property
    def audited(self) -> bool:
        """Whether any row was audited."""
        return any(row.grade for row in self.rows)

    @property
    def title(self) -> str:
        return " · ".join(p for p in (self.dataset, self.model, self.budget) if p)

    def heading(self, label: str) -> tuple[str, ...]:
        """What stands above a column: what kind it is, and which of them, where the label does not say the kind."""
        kind = self.columns[label]
        if label in ("clean", "noise") or (label in self.strongest and label.casefold() == _STRONGEST):
            return (kind,)
        return (label,) if label.casefold().startswith(kind.casefold()) else (kind, label)

    @property
    def reasons(self) -> dict[str, str]:
        """Why combinations do not exist, each with its mark: a raised number."""
        found = dict.fromkeys(s.reason for row in self.rows for label, s in row.absent.items() if label in self.columns)
        return {reason: str(i).translate(_RAISED) for i, reason in enumerate(found, 1)}

    def blank(self, row: Row, label: str) -> str:
        """What stands in a column without a score."""
        if row.void:
            return "void"
        if label not in row.absent:
            return "-"
        skipped = row.absent[label]
        return ("n/a" if skipped.kind == "gradient" else "refused") + self.reasons[skipped.reason]


_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def _row(defense: str, cells: Mapping[str, CellResult], columns: Collection[str], options: TableOptions) -> Row:
    """One line of a table.

    Args:
        cells: of the defence, or of an oracle, by column.
        columns: those of the attacks.
    """
    model = next(iter(cells.values())).model
    seconds = options.seconds.get((model, defense))
    bare = all(r.settings.defense.name == "none" for r in cells.values())
    void = {label: r.control.message for label, r in cells.items() if r.control is not None and not r.control.passed}
    gray = {label: r for label, r in cells.items() if r.knowledge == "gray-box"}
    if void:
        scores = {label: r.score for label, r in cells.items() if r.knowledge != "adaptive"}
        return Row(
            defense=defense,
            scores=scores,
            union=None,
            mean=math.nan,
            void=void,
            seconds=seconds,
            undefended=bare,
            gray=_worst(gray),
        )
    adaptive = {label: r for label, r in cells.items() if r.knowledge == "adaptive"} | (gray if bare else {})
    absent = {label: skipped for label, skipped in options.absent(model, defense).items() if label not in cells}
    not_run = frozenset(columns) - cells.keys() - absent.keys()
    attacked = {label: r for label, r in cells.items() if r.knowledge != "clean"}
    if options.counts_clean and attacked:
        attacked = dict(cells)
    averaged = [r.score.accuracy for r in attacked.values() if r.knowledge != "noise"]
    total, worst = _survivors(attacked, options.parts(columns, absent))
    of_gray, of_adaptive = _worst(gray), _worst(adaptive)
    for part in (of_gray, of_adaptive):  # as of the columns of the worst
        if total is not None and part is not None and part.correct < total.correct:
            total = part
    return Row(
        defense=defense,
        scores={label: r.score for label, r in cells.items()} | worst,
        union=total,
        mean=math.nan if not_run else mean(averaged),
        absent=absent,
        not_run=not_run,
        undefended=bare,
        seconds=seconds,
        # An oracle mixes defences.
        detected={} if defense in options.oracles else _detected(cells.values()),
        averages=_averages(cells, options.averages, absent)
        | {label: figures.get(defense, math.nan) for label, figures in options.across.items()},
        gray=of_gray,
        robust=of_adaptive,
        hardest=min(adaptive, key=lambda label: adaptive[label].score.accuracy, default=""),
    )


def _averages(
    cells: Mapping[str, CellResult], averages: Mapping[str, Sequence[str]], absent: Collection[str]
) -> dict[str, float]:
    """Means over the attacks that a paper averages, without those that do not exist for this defence."""
    found = {}
    for label, parts in averages.items():
        there = [part for part in parts if part not in absent]
        complete = bool(there) and all(part in cells for part in there)
        found[label] = mean([cells[part].score.accuracy for part in there]) if complete else math.nan
    return found


def _survivors(
    attacked: Mapping[str, CellResult], worst: Mapping[str, Sequence[str]]
) -> tuple[Score | None, dict[str, Score]]:
    """The clips that are right under all attacks of a row, and those under the attacks of each column ``worst``."""
    verdicts = {label: {o.clip: o.verdicts for o in r.outcomes} for label, r in attacked.items()}
    total = _together(verdicts) if verdicts else None
    scores = {}
    for column, parts in worst.items():
        if parts and all(part in verdicts for part in parts):
            scores[column] = _together({part: verdicts[part] for part in parts})
            if total is not None and scores[column].correct < total.correct:
                total = scores[column]  # draws choose the worst of few attacks better than that of many
    return total, scores


def _worst(cells: Mapping[str, CellResult]) -> Score | None:
    """The clips that are right in all of some cells."""
    if len(cells) < 2:  # of one there is nothing to choose
        return next((r.score for r in cells.values()), None)
    return _together({label: {o.clip: o.verdicts for o in r.outcomes} for label, r in cells.items()})


def _detected(cells: Iterable[CellResult]) -> dict[str, float]:
    """Per attack, how well what the defence measures tells the attacked clips from the same clips without it."""
    attacked_scores: dict[str, dict[str, float]] = {}
    clean_scores: dict[str, float] = {}
    for cell in cells:
        clean = cell.knowledge == "clean"
        # A clip that the attack was spared is a clean one.
        scores = {
            o.clip: o.measured[0] for o in cell.outcomes if o.status == "ok" and o.measured and (o.attacked or clean)
        }
        if clean:
            clean_scores = scores
        else:
            attacked_scores[cell.attack] = scores
    areas = {}
    for label, scores in attacked_scores.items():
        clips = [clip for clip in scores if clip in clean_scores]
        if clips:
            areas[label] = roc_area([scores[clip] for clip in clips], [clean_scores[clip] for clip in clips])
    return areas


def _together(verdicts: Mapping[str, Mapping[str, Sequence[bool]]]) -> Score:
    """The clips that are right under all of some attacks: never more than under one of them alone."""
    survived = union(verdicts)
    each = (sum(sum(v[clip]) / len(v[clip]) for clip in survived) for v in verdicts.values())
    total = round(min(sum(survived.values()), *each), 9)
    return Score(correct=int(total) if total == int(total) else total, clips=len(survived))


def make_tables(results: Iterable[CellResult], options: TableOptions | None = None) -> list[Table]:
    """Groups cells into tables, one per data set, classifier and budget; clean cells belong to every budget.

    Args:
        options: what the grid says of its tables; nothing if not given.
    """
    groups: dict[tuple[str, str], list[CellResult]] = {}
    for result in results:
        groups.setdefault((result.dataset, result.model), []).append(result)
    tables = []
    for cells in groups.values():
        for budget in list(dict.fromkeys(c.budget for c in cells if c.budget)) or [""]:
            chosen = [c for c in cells if c.budget in ("", budget)]
            tables.append(_table(chosen, budget, options or TableOptions()))
    return tables


def _table(cells: Sequence[CellResult], budget: str, options: TableOptions) -> Table:
    """The table of all cells of one classifier on one data set under one budget."""
    # From the weakest attacker to the strongest, whatever was run first; sorting keeps the grid's order within.
    ranked = sorted(cells, key=lambda c: list(HEADINGS).index(c.knowledge))
    columns = {c.attack: HEADINGS[c.knowledge] for c in ranked}
    rows = [_row(defense, of_row, columns, options) for defense, of_row in _by_row(cells, options).items()]
    columns |= {label: HEADINGS["worst"] for label, parts in options.parts(columns).items() if parts}
    table = Table(
        dataset=cells[0].dataset,
        model=cells[0].model,
        budget=budget,
        columns=columns,
        rows=rows,
        clips=max(len(c.outcomes) for c in cells),
        counts_clean=options.counts_clean,
        averages=(*options.averages, *options.across),
        strongest=tuple(dict.fromkeys(c.attack for c in cells if _is_strongest(c))),
    )
    known = grades(options.audits, cells)
    for row in rows:
        row.grade = known.get((table.model, row.defense, budget), "")
    reported = options.reported
    if reported is not None and reported.section.model == table.model:
        table.reported_from = reported.source
        for row in rows:
            labels = [*columns, "Union", "Mean", *table.averages, "Seconds"]
            row.reported = reported.row(row.defense, labels, budget)
            row.remarks = reported.remarks(row.defense, labels, budget)
    return table


def _is_strongest(cell: CellResult) -> bool:
    attack = cell.settings.attack
    return attack is not None and attack.name == _STRONGEST and cell.knowledge == "adaptive"


def _by_row(cells: Iterable[CellResult], options: TableOptions) -> dict[str, dict[str, CellResult]]:
    """Cells by row and column; an oracle takes each from the defence that it would choose."""
    by_row: dict[str, dict[str, CellResult]] = {}
    for cell in cells:
        by_row.setdefault(cell.defense, {})[cell.attack] = cell
    for label, choices in options.oracles.items():
        chosen = {a: by_row[d][a] for a, d in choices.items() if a in by_row.get(d, {})}
        if chosen:
            by_row[label] = chosen
    return by_row


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table, its first column to the left and the others to the right."""
    aligned = ["---", *["---:"] * (len(header) - 1)]
    return ["| " + " | ".join(cells) + " |" for cells in (header, aligned, *rows)]


MOST_COLUMNS = 8
"""Of a Markdown table, where it is read on a page."""


def narrow(
    header: Sequence[str], rows: Sequence[Sequence[str]], keys: int = 1
) -> list[tuple[Sequence[str], Sequence[Sequence[str]]]]:
    """Tables, each a header and rows, of :data:`MOST_COLUMNS` columns at most, that say what one of any width does: the
    same one if it is narrow enough, or else its columns as rows, and a few of its rows as columns of each.

    Args:
        keys: how many columns name a row.
    """
    if len(header) <= MOST_COLUMNS:
        return [(header, rows)]
    named = [" · ".join([row[0], *(f"{header[i]} {row[i]}" for i in range(1, keys))]) for row in rows]
    found: list[tuple[Sequence[str], Sequence[Sequence[str]]]] = []
    # As many in each table, so that none is left alone.
    size = math.ceil(len(rows) / math.ceil(len(rows) / (MOST_COLUMNS - 1))) if rows else 1
    for start in range(0, len(rows), size):
        chosen = range(start, min(start + size, len(rows)))
        turned = [[header[i], *(rows[j][i] for j in chosen)] for i in range(keys, len(header))]
        found.append((["", *(named[j] for j in chosen)], [line for line in turned if any(line[1:])]))
    return found


def as_text(words: str) -> str:
    """Words of a user as Markdown that shows them and does nothing else: on one line and in one cell, without HTML,
    links or headings."""
    line = " ".join("".join(c if c.isprintable() else " " for c in words).split())
    line = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", re.sub(r"&(?=#?\w+;)", "&amp;", line))
    line = line.replace("](", "]\\(").replace("][", "]\\[").replace("|", "\\|")
    return re.sub(r"^(?=[#>`~=+*-]|\[[^]]*\]:|\d+[.)])", r"\\", line)


def percent(value: float) -> str:
    """One decimal; ``-`` for not-a-number."""
    return "-" if value != value else f"{value:.1f}"


def duration(seconds: float | None) -> str:
    """Two digits at least; ``-`` for none."""
    return "-" if seconds is None else f"{seconds:.2g}" if seconds < 1 else f"{seconds:.1f}"


def printed(row: Row, label: str) -> str:
    """What a paper prints in a column, or for Union, Mean or Seconds; empty if nothing."""
    if label not in row.reported:
        return ""
    return (duration if label == "Seconds" else percent)(row.reported[label])


def area(row: Row, label: str) -> str:
    """The area under the detector's curve in a column; empty if there is none."""
    return f"{row.detected[label]:.2f}" if label in row.detected else ""


def interval(score: Score) -> str:
    low, high = score.interval
    return f"[{low:.0f}, {high:.0f}]"


def voided(row: Row) -> str:
    """Why a row means nothing, in words."""
    return "; ".join(f"{label} with a budget of 0: {message}" for label, message in row.void.items())


def remarks(table: Table) -> list[str]:
    """What the papers' tables remark on the reported figures of a table."""
    return [
        f"Reported of {row.defense}, {label}: {words}" for row in table.rows for label, words in row.remarks.items()
    ]


def flaws(score: Score) -> str:
    """``2 invalid, 1 failed``, or an empty string."""
    counts = {"invalid": score.invalid, "missing": score.missing, "failed": score.failed}
    return ", ".join(f"{n} {what}" for what, n in counts.items() if n)


def to_pandas(tables: Sequence[Table]) -> pd.DataFrame:
    """Tidy summary: one row per table, defence and column, with accuracy and interval in percent.

    ``complete`` is false for a union over only some of the table's attacks, ``ranked`` for a row that no table ranks
    (:func:`bench.report.ranking.unranked`).
    """
    from bench.report.ranking import incomplete, unranked

    rows = []
    for table in tables:
        outside = {id(row) for row in unranked(table)}
        for row in table.rows:
            scores = dict(row.scores)
            if row.union is not None:
                scores["Union"] = row.union
            for label, score in scores.items():
                low, high = score.interval
                rows.append(
                    {
                        "dataset": table.dataset,
                        "model": table.model,
                        "budget": table.budget,
                        "defense": row.defense,
                        "column": label,
                        "heading": table.columns.get(label, "Union"),
                        "accuracy": score.accuracy,
                        "low": low,
                        "high": high,
                        "clips": score.clips,
                        "flawed": score.flawed,
                        "complete": label != "Union" or not incomplete(table, row),
                        "ranked": id(row) not in outside,
                    }
                )
    return pd.DataFrame(rows)
