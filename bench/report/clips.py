"""One row of results, clip by clip: who fell to what, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.errors import BenchError, nearest
from bench.records.outcome import Outcome
from bench.report.rows import NamedRow


@dataclass(frozen=True)
class ClipOfRow:
    """What came of one clip in every cell of a row.

    Attributes:
        outcomes: by attack and budget, in the order of the row.
        attacked: those of the outcomes that are of attacks: neither clean nor noise.
    """

    clip: str
    label: int
    outcomes: Mapping[tuple[str, str], Outcome]
    attacked: frozenset[tuple[str, str]]

    @property
    def standing(self) -> float:
        """Mean chance of being right under the attacks, 0 to 1, of which noise is none, as in the column *Mean*; where
        there is none, over all columns of the row."""
        attacked = [o.chance for column, o in self.outcomes.items() if column in self.attacked]
        chances = attacked or [o.chance for o in self.outcomes.values()]
        return sum(chances) / len(chances)


def clips_of(row: NamedRow, clip: str | None = None) -> list[ClipOfRow]:
    """The clips of a row, those first that fall to most, ties by id; or one of them.

    Raises:
        BenchError: the row has no such clip.
    """
    found: dict[str, dict[tuple[str, str], Outcome]] = {}
    for column, cell in row.columns.items():
        for outcome in cell.outcomes:
            found.setdefault(outcome.clip, {})[column] = outcome
    if clip is not None and clip not in found:
        raise BenchError(f"{row} has no clip {clip!r}{nearest(clip, found)}; it has: {_few(sorted(found))}.")
    chosen = {clip: found[clip]} if clip is not None else found
    attacked = frozenset(column for column, cell in row.columns.items() if cell.knowledge not in ("clean", "noise"))
    lines = [ClipOfRow(name, next(iter(o.values())).label, o, attacked) for name, o in chosen.items()]
    return sorted(lines, key=lambda line: (line.standing, line.clip))


def _few(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def answer(outcome: Outcome) -> str:
    """What the defended classifier says: the class, with a mark where it is wrong; of a randomised defence how many
    draws are right; the status of what has no answer."""
    if outcome.status != "ok":
        return outcome.status
    if outcome.draws:
        return f"{sum(outcome.verdicts)}/{len(outcome.draws)} right"
    return f"{outcome.prediction}" if outcome.correct else f"{outcome.prediction} x"


def ends(trace: Sequence[float | None]) -> tuple[float, float] | None:
    """First and last value of a loss; nothing if there is none."""
    known = [value for value in trace if value is not None]
    return (known[0], known[-1]) if known else None


def described(line: ClipOfRow) -> dict[str, object]:
    """All that is shown of a clip, for programs."""
    return {
        "clip": line.clip,
        "label": line.label,
        "standing": line.standing,
        "attacks": [
            {
                "attack": attack,
                "budget": budget,
                "chance": outcome.chance,
                **outcome.model_dump(exclude={"clip", "label"}),
            }
            for (attack, budget), outcome in line.outcomes.items()
        ],
    }
