"""What figures of stored results show: points with their intervals, losses, tables of answers, and what defences
measure; nothing is drawn."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.errors import BenchError, nearest
from bench.records.results import CellResult
from bench.report.rows import NamedRow

_PLACES = ("budget", "attack", "defense")
_SAME = {"eps": "size", "epsilon": "size"}  # as budgets take them
_MOST_LINES, _MOST_PANELS, _MOST_GROUPS = 20, 12, 9
_BINS = 24
# Follows from other settings or from the code, and says nothing of which cells belong to one line.
_BESIDES = ("code", "parts")


@dataclass(frozen=True)
class Argument:
    """What differs along an axis: a field of the ``budget``, or an argument of the ``attack`` or the ``defense``."""

    place: str
    name: str

    def __str__(self) -> str:
        return f"{self.place}.{self.name}"

    def of(self, cell: CellResult) -> tuple[Any] | None:
        """Its value in a cell, in a tuple of one; ``None`` where the cell has no such argument."""
        owner = getattr(cell.settings, self.place)
        if owner is None:
            return None
        values = owner.model_dump(mode="json", exclude={"code"}) if self.place == "budget" else owner.params
        return (_plain(values[self.name]),) if self.name in values else None


def _plain(value: Any) -> float | str:
    """A number, also one that stands alone in a list; anything else as text."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return value if isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True)
class Point:
    """One cell of a line.

    Attributes:
        x: value of the argument: a number (a size in the unit of the axis), or a word.
        accuracy, low, high: percent, and its 95 % Wilson interval.
        clean: accuracy of the same defence on the same clips without an attack, percent; ``None`` if it is not known.
        stale: whether nobody knows if the present code would give it.
    """

    x: float | str
    accuracy: float
    low: float
    high: float
    clean: float | None = None
    stale: bool = False


@dataclass(frozen=True)
class Line:
    """Cells that differ in one argument, in its order."""

    label: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Sweep:
    """Accuracy against an argument.

    Attributes:
        axis: label of the argument, with its unit.
        remarks: what is not shown, or should be known of what is; one sentence each.
    """

    title: str
    axis: str
    lines: tuple[Line, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class LossCurve:
    """Losses of one attack on the clips before one defence.

    Attributes:
        traces: per clip that was attacked, the loss after each step; ``None`` once the clip has left the batch.
        stale: as in :class:`Point`.
    """

    label: str
    traces: tuple[tuple[float | None, ...], ...]
    stale: bool = False

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean over clips after each step; a clip that has left the batch counts with its last loss, as a mean over
        those that remain would be of fewer and harder clips."""
        length = max(map(len, self.traces))
        filled = np.array([_filled(trace, length) for trace in self.traces])
        return tuple(map(float, filled.mean(axis=0)))


def _filled(trace: Sequence[float | None], length: int) -> list[float]:
    values: list[float] = []
    first = next(value for value in trace if value is not None)
    for i in range(length):
        value = trace[i] if i < len(trace) else None
        values.append(value if value is not None else values[-1] if values else first)
    return values


@dataclass(frozen=True)
class LossPanel:
    """One attack under one budget; ``loss`` is its name where the attack has it among its arguments."""

    title: str
    loss: str
    curves: tuple[LossCurve, ...]


@dataclass(frozen=True)
class Losses:
    """Loss curves; ``remarks`` as in :class:`Sweep`."""

    title: str
    panels: tuple[LossPanel, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Confusion:
    """True classes against answers.

    Attributes:
        classes: those that occur, as a label or as an answer; names where the data set has them.
        counts: ``int64 (classes, classes)``, by true class and answer; one more column, of clips that have no valid
            answer, where there are any.
    """

    title: str
    classes: tuple[str, ...]
    counts: np.ndarray = field(compare=False)
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class MeasuredClips:
    """What a defence measures of some clips, one value a clip."""

    label: str
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)


@dataclass(frozen=True)
class Measures:
    """What a defence measures of clean clips, of attacked ones, and of these once it has purified them.

    Attributes:
        axis: what is measured, in words.
        remarks: as in :class:`Sweep`.
    """

    title: str
    axis: str
    groups: tuple[MeasuredClips, ...]
    remarks: tuple[str, ...] = ()

    @property
    def edges(self) -> np.ndarray:
        """Bounds of the bins that all groups share: of equal width, from the least value to the greatest."""
        return np.histogram_bin_edges([value for group in self.groups for value in group.values], _BINS)


# Which cells.


def _cells(rows: Sequence[NamedRow], attacks: Sequence[str], budget: str) -> list[tuple[NamedRow, CellResult]]:
    """Cells of some attacks (all if none are named) and of budgets that begin with some words; clean cells have none.

    Raises:
        BenchError: no cell is of such an attack or budget.
    """
    every = [(row, cell) for row in rows for cell in row.cells]
    known = list(dict.fromkeys(cell.attack for _, cell in every))
    for name in attacks:
        if name.casefold() not in map(str.casefold, known):
            raise BenchError(f"No row has an attack {name!r}{nearest(name, known)}; there are {', '.join(known)}.")
    wanted = {name.casefold() for name in attacks} or {name.casefold() for name in known}
    budgets = list(dict.fromkeys(cell.budget for _, cell in every if cell.budget))
    if budget and not any(label.startswith(budget) for label in budgets):
        raise BenchError(f"No budget begins with {budget!r}; there are {', '.join(budgets) or 'none'}.")
    return [
        (row, cell)
        for row, cell in every
        if cell.attack.casefold() in wanted and (not cell.budget or cell.budget.startswith(budget))
    ]


def _title(rows: Iterable[NamedRow], cells: Sequence[CellResult], what: str) -> str:
    """Of which grid, classifier and data, what is shown, of how many clips, and whether it is stale."""
    grids, models, data = (
        ", ".join(dict.fromkeys(names))
        for names in ([r.grid for r in rows], [c.model for c in cells], [c.dataset for c in cells])
    )
    counts = sorted({len(cell.outcomes) for cell in cells})
    clips = f"{counts[0]} clips" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} clips"
    stale = sum(bool(cell.stale) for cell in cells)
    mark = "" if not stale else ", stale" if stale == len(cells) else ", partly stale"
    return f"{grids}: {models} on {data}\n{what}, {clips}{mark}"


def _stale(cells: Iterable[CellResult]) -> list[str]:
    reasons = dict.fromkeys(cell.stale for cell in cells if cell.stale)
    return [f"Stale: {reason} Run the grid again." for reason in reasons]


# Accuracy.

_Group = list[tuple[Any, NamedRow, CellResult]]


def sweep(rows: Sequence[NamedRow], against: str = "", attacks: Sequence[str] = (), budget: str = "") -> Sweep:
    """Accuracy against an argument: a line for all cells that differ in nothing else.

    Where none do, cells belong to one line that are of the same attack (or defence) with other arguments, too, if each
    value is there once; a remark says what differs along with it.

    Args:
        rows: of results.
        against: ``size``, ``steps``, ``t_star``, ``queries``, or any other field of the budget or argument of attacks
            and defences; ``defense.steps``, where the name alone says too little. If not given, the one that differs.
        attacks: labels; all if not given.
        budget: the first words of budgets, such as ``linf``; all if not given.

    Raises:
        BenchError: there is no such argument, attack or budget, nothing differs in it, or it may be one of several.
    """
    chosen = _cells(rows, attacks, budget)
    attacked = [(row, cell) for row, cell in chosen if cell.knowledge != "clean"]
    pool = attacked or chosen
    argument, groups = _grouped(pool, against)
    groups = {key: _ordered(_distinct(group, argument)) for key, group in groups.items()}
    lines = [group for group in groups.values() if len(group) > 1]
    if len(lines) > _MOST_LINES:
        raise BenchError(
            f"That would be {len(lines)} lines, and {_MOST_LINES} can be told apart: name fewer rows, GRID:DEFENCE, or "
            "choose attacks with --attack or budgets with --budget."
        )
    axis, scale = _axis(argument, [cell for line in lines for _, _, cell in line])
    clean = {(row.folder, c.model, c.defense): c for row in rows for c in row.cells if c.knowledge == "clean"}
    shown = [cell for line in lines for _, _, cell in line]
    remarks = _stale(shown)
    if along := _along(argument, lines):
        remarks.append(f"Along with {argument.name} differ {', '.join(along)}.")
    alone = [f"{cell.defense} under {cell.attack}" for g in groups.values() if len(g) == 1 for _, _, cell in g]
    if alone:
        remarks.append(f"Not drawn, as no other cell differs in {argument.name} alone: {', '.join(alone)}.")
    labels = _labels(lines, argument)
    kind = "accuracy under attack" if attacked else "accuracy on clean clips"
    return Sweep(
        _title([row for line in lines for _, row, _ in line], shown, ", ".join([kind, *_shared_budget(shown)])),
        axis,
        tuple(Line(label, _points(line, clean, scale)) for label, line in zip(labels, lines, strict=True)),
        tuple(remarks),
    )


def _shared_budget(cells: Sequence[CellResult]) -> list[str]:
    """What the labels of all budgets say alike, such as ``10 steps``."""
    budgets = [cell.budget.split(", ") for cell in cells]
    return [part for part in budgets[0] if part and all(part in budget for budget in budgets)]


def _points(line: _Group, clean: Mapping[Any, CellResult], scale: float) -> tuple[Point, ...]:
    points = []
    for x, row, cell in line:
        low, high = cell.score.interval
        beside = clean.get((row.folder, cell.model, cell.defense))
        same = beside is not None and beside is not cell and _clips(beside) == _clips(cell)
        points.append(
            Point(
                x if isinstance(x, str) else x * scale,
                cell.score.accuracy,
                low,
                high,
                beside.score.accuracy if beside is not None and same else None,
                bool(cell.stale),
            )
        )
    return tuple(points)


def _clips(cell: CellResult) -> list[str]:
    return [outcome.clip for outcome in cell.outcomes]


def _grouped(pool: Sequence[tuple[NamedRow, CellResult]], against: str) -> tuple[Argument, dict[str, _Group]]:
    """The argument that is meant, and the cells that differ in it, alone or along with others of its component."""
    known = list(dict.fromkeys(argument for _, cell in pool for argument in _arguments(cell)))
    place, _, name = against.rpartition(".")
    name = _SAME.get(name, name)
    meant = [a for a in known if not against or (a.name == name and place in ("", a.place))]
    names = sorted({a.name for a in known})
    if not meant:
        raise BenchError(
            f"No attack, budget or defence of these rows has an argument {against!r}{nearest(name, names)}"
            f"{_what_differs(pool, known)}."
        )
    found = {a: groups for a in meant if (groups := _groups(pool, a)) is not None}
    if not found and against:
        found = {a: groups for a in meant if (groups := _groups(pool, a, alone=False)) is not None}
    if len(found) == 1:
        return next(iter(found.items()))
    if found:
        listed = ", ".join(map(str, found))
        raise BenchError(f"Accuracy may be drawn against any of {listed}: say which with --against.")
    what = f"in {name} alone" if against else "in one argument alone"
    raise BenchError(f"No two cells of these rows differ {what}{_what_differs(pool, known)}.")


def _what_differs(pool: Sequence[tuple[NamedRow, CellResult]], known: Sequence[Argument]) -> str:
    differing = [str(a) for a in known if _groups(pool, a) is not None]
    return f"; what differs is {', '.join(differing)}" if differing else ""


def _arguments(cell: CellResult) -> list[Argument]:
    s = cell.settings
    fields = ("size", "steps", "step_size", "restarts") if s.budget is not None else ()
    return [
        *(Argument("budget", name) for name in fields),
        *(Argument("attack", name) for name in (s.attack.params if s.attack is not None else ()) if name != "moves"),
        *(Argument("defense", name) for name in s.defense.params),
    ]


def _groups(
    pool: Sequence[tuple[NamedRow, CellResult]], argument: Argument, alone: bool = True
) -> dict[str, _Group] | None:
    """Cells that are alike but for an argument; ``None`` if none differ in it.

    Args:
        alone: nothing else may differ; otherwise what is of the same component may, if each value is there once.
    """
    if not alone and argument.place == "budget":
        return None
    groups: dict[str, _Group] = {}
    for row, cell in pool:
        value = argument.of(cell)
        if value is not None:
            groups.setdefault(_rest(cell, argument, alone), []).append((value[0], row, cell))
    if not alone:
        groups = {key: group for key, group in groups.items() if len({x for x, _, _ in group}) == len(group)}
    return groups if any(len({x for x, _, _ in group}) > 1 for group in groups.values()) else None


def _distinct(group: _Group, argument: Argument) -> _Group:
    """Each value once.

    Raises:
        BenchError: two cells of one value say different things.
    """
    kept: dict[Any, tuple[Any, NamedRow, CellResult]] = {}
    for x, row, cell in group:
        _, other, first = kept.setdefault(x, (x, row, cell))
        if first.outcomes != cell.outcomes:
            raise BenchError(
                f"{other} under {first.attack} and {row} under {cell.attack} differ in no argument, but in their "
                f"outcomes, at {argument} = {_word(x)}: name rows of one of them, or choose with --attack."
            )
    return list(kept.values())


def _ordered(group: _Group) -> _Group:
    """By value; words stay in the order of the grid, behind numbers."""
    return sorted(
        group, key=lambda member: (isinstance(member[0], str), 0 if isinstance(member[0], str) else member[0])
    )


def _rest(cell: CellResult, argument: Argument, alone: bool) -> str:
    """All that makes a cell what it is, but for an argument (or all that are of its component) and the code."""
    settings = cell.settings.model_dump(mode="json", exclude={"engine"})
    for key, part in settings.items():
        if isinstance(part, dict):
            settings[key] = {k: v for k, v in part.items() if k not in _BESIDES}
    if cell.gradient == "strongest" and settings["attack"]:
        settings["attack"]["params"].pop("moves", None)  # they follow from the defence
    own = settings[argument.place]
    if argument.place == "budget":
        del own[argument.name]
    else:
        own["params"] = {k: v for k, v in own["params"].items() if k != argument.name} if alone else {}
        # Networks are trained for an argument, or chosen by it.
        own.update(weights="", files={})
    settings |= {"labels": [cell.dataset, cell.model], "clips": [[o.clip, o.label] for o in cell.outcomes]}
    settings["labels"] += [getattr(cell, place) for place in ("attack", "defense") if place != argument.place]
    return json.dumps(settings, sort_keys=True)


def _along(argument: Argument, lines: Sequence[_Group]) -> list[str]:
    """Arguments of the same component that are not the same along a line."""
    if argument.place == "budget":
        return []
    found: dict[str, None] = {}
    for line in lines:
        params = [getattr(cell.settings, argument.place).params for _, _, cell in line]
        for name in dict.fromkeys(name for p in params for name in p if name not in (argument.name, "moves")):
            if any(p.get(name) != params[0].get(name) for p in params):
                found[name] = None
    return list(found)


def _axis(argument: Argument, cells: Sequence[CellResult]) -> tuple[str, float]:
    """Label of the axis, and what values are multiplied with.

    Raises:
        BenchError: sizes of several norms have no axis in common.
    """
    if argument.place == "budget" and argument.name in ("size", "step_size"):
        norms = list(dict.fromkeys(c.settings.budget.norm for c in cells if c.settings.budget is not None))
        if len(norms) > 1:
            raise BenchError(
                f"Sizes in {', '.join(norms)} have no axis in common: choose one with --budget {norms[0]}."
            )
        words = "size of the attack" if argument.name == "size" else "size of a step"
        # How the budget's label writes the sizes of its norm.
        if norms[0] == "linf" or any("/255" in c.budget for c in cells):
            return f"{words} ({norms[0]}, /255)", 255.0
        return f"{words} ({norms[0]}{', px' if any(' px' in c.budget for c in cells) else ''})", 1.0
    known = {
        ("budget", "steps"): "steps of the attack",
        ("budget", "restarts"): "restarts of the attack",
        ("attack", "queries"): "queries per clip",
        ("defense", "t_star"): "t*, timestep to which the defence carries a clip",
    }
    fallback = f"{argument.name} of the {'defence' if argument.place == 'defense' else argument.place}"
    return known.get((argument.place, argument.name), fallback), 1.0


def _labels(lines: Sequence[_Group], argument: Argument) -> list[str]:
    """One label per line: the defence, and what else tells it from the others."""
    cells = [[cell for _, _, cell in line] for line in lines]
    parts = [_common([c.defense for c in line], line[0].settings.defense.name) for line in cells]
    by_attack = [_common([c.attack for c in line], _attack_name(line[0])) for line in cells]
    tellers: list[Callable[[int], str]] = [lambda i: f", {by_attack[i]}", lambda i: f"@{cells[i][0].model}"]
    for tell in tellers:
        ends = [tell(i) for i in range(len(lines))]
        if len(set(ends)) > 1:
            parts = [part + end for part, end in zip(parts, ends, strict=True)]
    for label in [label for label in dict.fromkeys(parts) if parts.count(label) > 1]:
        alike = [i for i, part in enumerate(parts) if part == label]
        facts = [_facts(lines[i][0], argument) for i in alike]
        for i, mine in zip(alike, facts, strict=True):
            ends = [f"{k.rpartition('.')[2]}={_word(v)}" for k, v in mine.items() if any(f.get(k) != v for f in facts)]
            parts[i] = f"{label} ({', '.join(ends)})" if ends else label
    return parts


def _common(labels: Sequence[str], otherwise: str) -> str:
    return labels[0] if len(set(labels)) == 1 else otherwise


def _attack_name(cell: CellResult) -> str:
    name = cell.settings.attack.name if cell.settings.attack is not None else cell.attack
    return name if cell.gradient in ("none", "query") else f"{name}+{cell.gradient}"


def _facts(member: tuple[Any, NamedRow, CellResult], argument: Argument) -> dict[str, Any]:
    """What may tell a line from another, flat."""
    _, row, cell = member
    facts: dict[str, Any] = {}
    for place in ("defense", "attack", "budget", "source", "against"):
        owner = getattr(cell.settings, place)
        values = {} if owner is None else owner.model_dump(mode="json")
        values = values.get("params", {k: v for k, v in values.items() if k != "code"})
        facts |= {f"{place}.{k}": v for k, v in values.items() if (place, k) != (argument.place, argument.name)}
        if owner is not None and place in ("source", "against"):
            facts[place] = owner.name
    return facts | {"knowledge": cell.knowledge, "clips": len(cell.outcomes), "grid": row.grid}


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


# Losses.


def losses(rows: Sequence[NamedRow], attacks: Sequence[str] = (), budget: str = "") -> Losses:
    """Losses after each step, a panel per attack and budget with a curve per defence.

    Raises:
        BenchError: no cell keeps losses, or there are too many panels.
    """
    chosen = [(row, cell) for row, cell in _cells(rows, attacks, budget) if cell.knowledge != "clean"]
    panels: dict[tuple[str, str, str], list[LossCurve]] = {}
    shown, without = list[tuple[NamedRow, CellResult]](), list[str]()
    several = [len({key(row, cell) for row, cell in chosen}) > 1 for key in (_of_model, _of_grid)]
    for row, cell in chosen:
        traces = tuple(tuple(o.trace) for o in cell.outcomes if any(value is not None for value in o.trace))
        if not traces:
            without.append(cell.attack)
            continue
        label = cell.defense + (f"@{cell.model}" if several[0] else "") + (f", {row.grid}" if several[1] else "")
        loss = str(cell.settings.attack.params.get("loss", "")) if cell.settings.attack is not None else ""
        panels.setdefault((cell.attack, cell.budget, loss), []).append(LossCurve(label, traces, bool(cell.stale)))
        shown.append((row, cell))
    if not panels:
        raise BenchError(
            "The chosen cells keep no losses: only attacks that follow a loss do, and neither clean clips nor noise."
        )
    if len(panels) > _MOST_PANELS:
        raise BenchError(
            f"That would be {len(panels)} panels, one per attack and budget, and {_MOST_PANELS} have room: choose with "
            "--attack or --budget."
        )
    cells = [cell for _, cell in shown]
    remarks = _stale(cells)
    if without:
        counted = [f"{attack} ({without.count(attack)} cells)" for attack in dict.fromkeys(without)]
        remarks.append(f"No losses are kept of {', '.join(counted)}.")
    return Losses(
        _title([row for row, _ in shown], cells, "loss of the attack"),
        tuple(
            LossPanel(f"{attack}, {label}" if label else attack, loss, tuple(curves))
            for (attack, label, loss), curves in panels.items()
        ),
        tuple(remarks),
    )


def _of_model(_: NamedRow, cell: CellResult) -> object:
    return cell.model


def _of_grid(row: NamedRow, _: CellResult) -> object:
    return row.folder


# Answers.


def confusion(row: NamedRow, attack: str = "clean", budget: str = "", names: Sequence[str] = ()) -> Confusion:
    """How often each true class of a row was answered with which class; of a randomised defence, in its first draw.

    Args:
        row: of results.
        attack: label of the column.
        budget: the first words of its budget, where there are several.
        names: of the classes, in the order of their numbers; numbers stand for those without.

    Raises:
        BenchError: the row has no such cell, or several.
    """
    found = [cell for _, cell in _cells([row], [attack], budget)]
    if len(found) > 1:
        labels = ", ".join(repr(cell.budget) for cell in found)
        raise BenchError(f"{row} has {attack} under several budgets: choose one with --budget, of {labels}.")
    if not found:
        raise BenchError(f"{row} has no cell of {attack} under a budget that begins with {budget!r}.")
    (cell,) = found
    answers = [o.prediction if o.status == "ok" else None for o in cell.outcomes]
    classes = sorted({o.label for o in cell.outcomes} | {a for a in answers if a is not None})
    counts = np.zeros((len(classes), len(classes) + (None in answers)), dtype=np.int64)
    for outcome, answer in zip(cell.outcomes, answers, strict=True):
        column = len(classes) if answer is None else classes.index(answer)
        counts[classes.index(outcome.label), column] += 1
    under = "clean clips" if cell.knowledge == "clean" else f"{cell.attack}, {cell.budget}"
    draw = ", first draw" if any(o.draws for o in cell.outcomes) else ""
    return Confusion(
        _title([row], [cell], f"{cell.defense}, {under}{draw}"),
        tuple(names[c] if c < len(names) else str(c) for c in classes),
        counts,
        tuple(_stale([cell])),
    )


# Measures.


def measures(row: NamedRow, attacks: Sequence[str] = (), budget: str = "") -> Measures:
    """What the defence of a row measures (:meth:`bench.defense.base.Purifier.measure`): of clean clips as they come,
    and under each attack of clips as they come and purified.

    Args:
        row: of results.
        attacks: labels; all but noise if not given.
        budget: the first words of budgets; all if not given.

    Raises:
        BenchError: the defence measures nothing, or there is too much for one figure.
    """
    clean = [cell for cell in row.cells if cell.knowledge == "clean"]
    attacked = [
        cell
        for _, cell in _cells([row], attacks, budget)
        if cell.knowledge not in (("clean",) if attacks else ("clean", "noise"))
    ]
    if 1 + 2 * len(attacked) > _MOST_GROUPS:
        raise BenchError(
            f"That would be {1 + 2 * len(attacked)} histograms, and {_MOST_GROUPS} can be told apart: choose attacks "
            "with --attack or budgets with --budget."
        )
    several = len({cell.budget for cell in attacked}) > 1
    found = [("clean clips", cell, 0) for cell in clean]
    for cell in attacked:
        label = f"{cell.attack}, {cell.budget}" if several else cell.attack
        found += [(f"under {label}", cell, 0), (f"under {label}, purified", cell, 1)]
    groups = [
        MeasuredClips(label, tuple(o.measured[at] for o in cell.outcomes if len(o.measured) > at))
        for label, cell, at in found
    ]
    if not any(group.values for group in groups):
        raise BenchError(
            f"{row} keeps no measures of its clips: only a defence that measures clips has them, such as "
            "motion_consistency."
        )
    shown = [*clean, *attacked]
    return Measures(
        _title([row], shown, f"{row.defense}, what it measures of a clip"),
        f"measured by {row.cells[0].settings.defense.name}",
        tuple(group for group in groups if group.values),
        tuple(_stale(shown)),
    )
