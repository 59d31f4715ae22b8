"""The audit: does a row of a table deserve belief?

Two kinds of checks. Those on stored outcomes (this module) cost nothing and look at every clip. Those that ask the
defended classifier again (:mod:`bench.audit.probes`) take a few clips. Both follow Carlini et al., "On Evaluating
Adversarial Robustness" (2019), and the flags of AutoAttack (Croce and Hein, ICML 2020).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.records.audits import AuditedRow, Finding, grade
from bench.records.identity import ComponentIdentity, Knowledge
from bench.records.results import CellResult


@dataclass(frozen=True)
class Evidence:
    """The cells of one row under one budget.

    Attributes:
        cells: by attack label, clean included.
        bare: the undefended row's cells under the same budget.
        others: the row's cells under the grid's other budgets, by budget and attack label.
    """

    model: str
    defense: str
    budget: str
    cells: Mapping[str, CellResult]
    bare: Mapping[str, CellResult]
    others: Mapping[str, Mapping[str, CellResult]]

    @property
    def attacked(self) -> dict[str, CellResult]:
        return {label: c for label, c in self.cells.items() if c.knowledge != "clean"}

    def known(self, *knowledge: Knowledge) -> dict[str, CellResult]:
        """The cells of some kinds of attacker."""
        return {label: c for label, c in self.cells.items() if c.knowledge in knowledge}

    @property
    def undefended(self) -> bool:
        """Whether nothing stands before the classifier."""
        return any(map(_is_bare, self.cells.values()))

    @property
    def randomised(self) -> bool:
        return any(len(set(o.draws)) > 1 for c in self.cells.values() for o in c.outcomes)


def _is_bare(result: CellResult) -> bool:
    """Whether nothing stands before the classifier, whatever the row is called."""
    return result.settings.defense.name == "none"


def rows_of(results: Iterable[CellResult]) -> list[Evidence]:
    """Sorts a grid's cells into rows, one per classifier, defence and budget."""
    results = list(results)
    rows = []
    for model in dict.fromkeys(r.model for r in results):
        mine = [r for r in results if r.model == model]
        budgets = list(dict.fromkeys(r.budget for r in mine if r.budget)) or [""]
        bare = next((r.defense for r in mine if _is_bare(r)), "")
        for defense in dict.fromkeys(r.defense for r in mine):

            def select(who: str, budget: str, mine: list[CellResult] = mine) -> dict[str, CellResult]:
                return {r.attack: r for r in mine if r.defense == who and r.budget in ("", budget)}

            for budget in budgets:
                others = {b: select(defense, b) for b in budgets if b != budget}
                row = Evidence(
                    model=model,
                    defense=defense,
                    budget=budget,
                    cells=select(defense, budget),
                    bare=select(bare, budget),
                    others=others,
                )
                rows.append(row)
    return rows


def _broken(cell: CellResult) -> list[str]:
    """Clips that the attack breaks: wrong more often than right."""
    return [o.clip for o in cell.outcomes if o.chance < 0.5]


def _as_free(cells: Iterable[CellResult], than: CellResult) -> list[CellResult]:
    """Those cells whose attacker may do all that another one's may: a budget of the same norm, at least as large."""
    least = than.settings.budget
    return [
        c
        for c in cells
        if least is not None
        and c.settings.budget is not None
        and c.settings.budget.norm == least.norm
        and c.settings.budget.size >= (1 - 1e-9) * least.size
    ]


def _by_gradient(cell: CellResult) -> bool:
    """Whether the attack differentiated anything."""
    return any(o.backwards for o in cell.outcomes)


def _by_queries(cell: CellResult) -> bool:
    """Whether the attack only asked."""
    return any(o.forwards for o in cell.outcomes) and not _by_gradient(cell)


def _left(cells: Iterable[CellResult], by: Iterable[CellResult]) -> tuple[list[str], list[str]]:
    """What some attacks break and others, which may do as much, all leave.

    Args:
        cells: the attacks.
        by: the others; those with another norm or a smaller budget do not count.

    Returns:
        The clips, and the labels of the attacks that broke them.
    """
    others, lost = list(by), {}
    for cell in cells:
        rivals = _as_free(others, cell)
        survivors = _right(rivals) if rivals else set()
        clips = [clip for clip in _broken(cell) if clip in survivors]
        if clips:
            lost[cell.attack] = clips
    return _once(lost.values()), list(lost)


def _once(lists: Iterable[list[str]]) -> list[str]:
    """The clips of several lists, each once."""
    return list(dict.fromkeys(clip for clips in lists for clip in clips))


def _right(cells: Iterable[CellResult]) -> set[str]:
    """Clips that are right more often than wrong in all of some cells."""
    sets = [{o.clip for o in c.outcomes if o.chance >= 0.5} for c in cells]
    return set.intersection(*sets) if sets else set()


def adaptive_attacks_are_there(row: Evidence) -> Finding | None:
    """Robust* alone says what an attacker misses who does not know the defence."""
    if row.known("adaptive") or row.undefended:
        return None
    message = "No adaptive attack was run: this row has no Robust Acc."
    return Finding(check="adaptive", severity="fault", message=message)


def control_holds(row: Evidence) -> Finding | None:
    """The zero-budget control, see :class:`bench.records.outcome.Control`."""
    failed = {
        label: c.control.message for label, c in row.cells.items() if c.control is not None and not c.control.passed
    }
    if failed:
        message = "; ".join(f"{label}: {words}" for label, words in failed.items())
        return Finding(check="control", severity="fault", message=f"With a budget of 0, {message}.", cells=list(failed))
    unproven = [label for label, c in row.known("adaptive").items() if c.control is None and not row.undefended]
    if unproven:
        message = "No zero-budget control was run: run the grid again without --control 0."
        return Finding(check="control", severity="warning", message=message, cells=unproven)
    return None


def outcomes_are_valid(row: Evidence) -> Finding | None:
    """Clips that broke their budget, were missing or raised; they count as not robust, but show a defect."""
    flawed = {label: [o.clip for o in c.outcomes if o.status != "ok"] for label, c in row.cells.items()}
    flawed = {label: clips for label, clips in flawed.items() if clips}
    if not flawed:
        return None
    first = next(o for c in row.cells.values() for o in c.outcomes if o.status != "ok")
    total = sum(len(clips) for clips in flawed.values())
    return Finding(
        check="outcomes",
        severity="fault",
        message=f"{total} outcomes are not valid; the first, {first.status}: {first.error}.",
        cells=list(flawed),
        clips=_once(flawed.values()),
    )


def knowing_more_helps(row: Evidence) -> Finding | None:
    """An attacker who knows the defence can do whatever one who does not can. Where the latter does better on a clip,
    the adaptive attack was stuck: the sign of a masked gradient."""
    adaptive, blind = row.known("adaptive"), row.known("universal", "black-box", "gray-box")
    lost, cells = _left(blind.values(), adaptive.values())
    if not lost:
        return None
    gained, _ = _left(adaptive.values(), blind.values())
    worse = len(lost) > len(gained)
    return Finding(
        check="knowing more",
        severity="fault" if worse else "warning",
        message=f"{len(lost)} clips fall to attacks that do not know the defence and survive all that do"
        + (f", only {len(gained)} the other way round." if worse else "."),
        cells=cells,
        clips=lost,
    )


def derivatives_guide(row: Evidence) -> Finding | None:
    """The derivative of what is computed should break what the same attack breaks with a stand-in for it. Where it does
    not, it is masked, and a figure of it alone would be worth nothing."""
    adaptive = row.known("adaptive").values()
    derived = [c for c in adaptive if c.gradient in ("exact", "surrogate")]
    stand_ins = [c for c in adaptive if c.gradient in ("bpda", "bpda-identity")]
    lost: dict[str, list[str]] = {}
    for cell, twin in itertools.product(derived, stand_ins):
        if (cell.settings.attack, cell.settings.budget) != (twin.settings.attack, twin.settings.budget):
            continue
        (fell, _), (gained, _) = _left([twin], [cell]), _left([cell], [twin])
        if more_than_chance(len(fell), len(gained)):
            lost[cell.attack] = fell
    if not lost:
        return None
    clips = _once(lost.values())
    message = (
        f"{len(clips)} clips fall to a stand-in for the gradient (BPDA) and survive the derivative itself "
        f"({', '.join(lost)}): it is masked, so believe no figure of it alone."
    )
    return Finding(check="derivative", severity="note", message=message, cells=list(lost), clips=clips)


def more_than_chance(wins: int, losses: int) -> bool:
    """Sign test, one-sided, 5 %: whether so many wins among all decided pairs are no luck."""
    n = wins + losses
    return sum(math.comb(n, k) for k in range(wins, n + 1)) <= 0.05 * 2**n


def gradients_beat_queries(row: Evidence) -> Finding | None:
    """An attack that follows the gradient must not leave what one breaks that only asks: the flag of AutoAttack's last
    part."""
    adaptive = row.known("adaptive").values()
    lost, cells = _left(filter(_by_queries, adaptive), filter(_by_gradient, adaptive))
    if not lost:
        return None
    message = f"{len(lost)} clips fall to queries alone ({', '.join(cells)}) and survive every attack with a gradient."
    return Finding(check="queries", severity="fault", message=message, cells=cells, clips=lost)


def attacks_beat_noise(row: Evidence) -> Finding | None:
    """Random noise of the same size must not break what the attacks leave."""
    lost, cells = _left(row.known("noise").values(), row.known("adaptive").values())
    clean = _right(row.known("clean").values())
    lost = [clip for clip in lost if clip in clean]
    # Of a randomised defence one clip may be wrong in most draws by chance.
    if len(lost) <= (1 if row.randomised else 0):
        return None
    message = f"{len(lost)} clips fall to random noise and survive all adaptive attacks."
    return Finding(check="noise", severity="fault", message=message, cells=cells, clips=lost)


def the_classifier_knows_the_clips(row: Evidence) -> Finding | None:
    """A classifier that is wrong on most clean clips was trained for others, and its table means nothing."""
    clean = next((c for c in row.bare.values() if c.knowledge == "clean"), None)
    if clean is None or clean.score.accuracy >= 50:
        return None
    message = (
        f"Undefended, {clean.score.accuracy:.0f} % of the clean clips are right: are these weights of this data set?"
    )
    return Finding(check="clean", severity="warning", message=message, cells=[clean.attack])


def attacks_work_undefended(row: Evidence) -> Finding | None:
    """An attack that fails on the bare classifier says nothing about a defence."""
    weak = {}
    for label in row.known("adaptive", "gray-box"):
        bare = row.bare.get(label)
        if bare is not None and bare.score.accuracy > 50:
            weak[label] = bare.score.accuracy
    if not weak:
        return None
    message = "; ".join(f"{label} leaves {accuracy:.0f} %" for label, accuracy in weak.items())
    return Finding(
        check="bare classifier", severity="warning", message=f"Undefended, {message}: too weak here.", cells=list(weak)
    )


def losses_rise(row: Evidence) -> Finding | None:
    """Where no adaptive attack's loss rises on a clip that survives them all, none was climbing (VideoPure's figures 4
    and 5). Attacks of different norms climb different hills."""
    norms: dict[str, list[CellResult]] = {}
    for cell in row.known("adaptive").values():
        norms.setdefault(cell.settings.budget.norm if cell.settings.budget else "", []).append(cell)
    stuck: dict[str, list[str]] = {}
    seen: set[str] = set()
    for norm, cells in norms.items():
        survivors = _right(cells)
        rose: dict[str, bool] = {}
        for o in (o for cell in cells for o in cell.outcomes if o.clip in survivors and o.attacked):
            values = [v for v in o.trace if v is not None]
            if len(values) >= 4:
                quarter = len(values) // 4
                rise = sum(values[-quarter:]) / quarter - sum(values[:quarter]) / quarter
                rose[o.clip] = rose.get(o.clip, False) or rise > 1e-3 * max(1.0, abs(values[0]))
        flat = [clip for clip, risen in rose.items() if not risen]
        if 2 * len(flat) > len(rose):
            stuck[norm] = flat
            seen |= rose.keys()
    if not stuck:
        return None
    clips = _once(stuck.values())
    message = f"On {len(clips)} of the {len(seen)} clips that all adaptive attacks leave, none of their losses rises."
    labels = [c.attack for norm in stuck for c in norms[norm]]
    return Finding(check="loss", severity="warning", message=message, cells=labels, clips=clips)


def larger_budgets_break_more(row: Evidence) -> Finding | None:
    """The same attack with a larger budget of the same norm must leave fewer clips."""
    lost: dict[str, list[str]] = {}
    for label, cell in row.attacked.items():
        mine = cell.settings.budget
        for other in row.others.values():
            larger = other.get(label)
            theirs = larger.settings.budget if larger is not None else None
            if larger is None or mine is None or theirs is None:
                continue
            if theirs.norm != mine.norm or theirs.size <= mine.size:
                continue
            back = [clip for clip in _broken(cell) if clip in _right([larger])]
            if larger.score.correct > cell.score.correct + 1:
                lost[label] = back
    if not lost:
        return None
    clips = _once(lost.values())
    message = f"Under a larger budget {', '.join(lost)} breaks fewer clips; {len(clips)} are right again."
    return Finding(check="budget", severity="fault", message=message, cells=list(lost), clips=clips)


def single_steps_are_weaker(row: Evidence) -> Finding | None:
    """One step must not break what many steps with the same gradient leave."""
    lost: dict[str, list[str]] = {}
    for label, cell in row.attacked.items():
        if cell.settings.attack is None or cell.settings.attack.name != "fgsm":
            continue
        same = [
            c
            for c in row.attacked.values()
            if c is not cell and (c.gradient, c.knowledge) == (cell.gradient, cell.knowledge) and not _by_queries(c)
        ]
        back, _ = _left([cell], same)
        if back:
            lost[label] = back
    if not lost:
        return None
    clips = _once(lost.values())
    message = f"{len(clips)} clips fall to a single step ({', '.join(lost)}) and survive every iterative attack."
    return Finding(check="single step", severity="warning", message=message, cells=list(lost), clips=clips)


def _averages(cell: CellResult) -> bool:
    """Whether the attack looks at several draws of a randomised defence per step."""
    attack = cell.settings.attack
    # One that runs others averages if one of them does.
    return attack is not None and any(map(_averaging, (attack, *attack.parts)))


def _averaging(attack: ComponentIdentity) -> bool:
    if attack.params.get("draws", 0) <= 1:
        return False
    return attack.name == "eot" or (attack.name == "autoattack" and attack.params.get("version") == "rand")


def randomness_is_averaged(row: Evidence) -> Finding | None:
    """Against a randomised defence one draw per step is a noisy gradient: an adaptive attack must average several."""
    adaptive = row.known("adaptive")
    if not row.randomised or not adaptive or any(map(_averages, adaptive.values())):
        return None
    return Finding(
        check="randomness",
        severity="warning",
        message="The defence is randomised and no adaptive attack averages over its draws: add EOT.",
        cells=list(adaptive),
    )


CHECKS: tuple[Callable[[Evidence], Finding | None], ...] = (
    adaptive_attacks_are_there,
    control_holds,
    outcomes_are_valid,
    knowing_more_helps,
    derivatives_guide,
    gradients_beat_queries,
    attacks_beat_noise,
    the_classifier_knows_the_clips,
    attacks_work_undefended,
    losses_rise,
    larger_budgets_break_more,
    single_steps_are_weaker,
    randomness_is_averaged,
)


def examine(
    row: Evidence, more: Sequence[Finding] = (), probed: Sequence[Finding] = (), asked: Sequence[str] = ()
) -> AuditedRow:
    """All checks on one row's outcomes, with what was found by asking again.

    Args:
        more: what else was found in the outcomes.
        probed: what was found by asking again.
        asked: ids of the clips that were asked again.
    """
    every = _once([o.clip for o in c.outcomes] for c in row.cells.values())
    stored = [_located(f, row, every) for f in (*(check(row) for check in CHECKS), *more) if f is not None]
    findings = stored + [_located(f, row, list(asked) or every) for f in probed]
    order = ("fault", "warning", "note")
    findings.sort(key=lambda f: order.index(f.severity))
    measured = sorted(c.cell for c in row.cells.values())
    return AuditedRow(
        model=row.model,
        defense=row.defense,
        budget=row.budget,
        grade=grade(findings),
        findings=findings,
        measured=measured,
        probed=len(asked),
    )


def _located(finding: Finding, row: Evidence, clips: list[str]) -> Finding:
    """What a check says of the whole row concerns its adaptive cells, or all there are, and all clips looked at."""
    cells = finding.cells or list(row.known("adaptive")) or list(row.cells)
    return finding.model_copy(update={"cells": cells, "clips": finding.clips or clips})
