"""One clip in one cell: the atom of every table."""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

Status = Literal["ok", "invalid", "missing", "failed"]
"""``ok``: judged. ``invalid``: the adversarial clip broke its budget. ``missing``: the clip has no file.
``failed``: something raised. Only ``ok`` can be correct; the others count against robustness."""


class Flaw(NamedTuple):
    """Why a clip has no answer.

    Attributes:
        status: any but ``ok``.
        error: in words.
        traceback: of what was raised, if anything was.
    """

    status: Status
    error: str
    traceback: str = ""


class Control(BaseModel):
    """The zero-budget control: an adaptive attack that may change nothing must leave the defence's answers alone.

    Where it does not, the pipeline that is attacked is not the one that is judged (its answer depends on what it was
    asked before, or the attack leaves its budget), and no figure of that row means anything.

    Attributes:
        clips: how many were attacked with a budget of size 0.
        passed: whether the answers agree with those on the clean clips; of a randomised defence, whether the 95 %
            Wilson intervals of the two accuracies overlap.
        message: what was seen, in words.
    """

    model_config = ConfigDict(extra="forbid")

    clips: int
    passed: bool
    message: str


class Outcome(BaseModel):
    """What happened to one clip in one cell.

    Attributes:
        clip, label: id and true class.
        status: see :data:`Status`.
        correct: whether the defence's final decision is the true class; of a randomised defence, its first draw.
        attacked: whether the attack was run on this clip (a clip that a deterministic classifier already
            gets wrong is not).
        clean_prediction: the defence's decision on the clean clip.
        prediction: its decision on the adversarial clip, on a fresh pass.
        votes: the class each purified candidate was given; ``None`` of one that was not asked, since it could not have
            changed what the others had decided.
        draws: of a randomised defence, its decisions on several fresh passes, ``prediction`` being the first.
        measured: of a defence that measures clips (:meth:`bench.defense.base.Purifier.measure`), what it finds in the
            clip as it came and purified.
        linf, l2, changed: distances between the clean and the adversarial clip; ``None`` if it is not finite or not
            of the same shape.
        trace: the attack's loss at each step; ``None`` entries after the clip has left the batch.
        forwards, backwards: passes the attack spent on this clip (a shared clip's are those of its making).
        seconds: wall time of the batch divided by its clips; kept in the store, not in the exported file,
            which is reproducible.
        error: why the status is not ``ok``.
        traceback: of what was raised; kept in the store, not in the exported file.
    """

    model_config = ConfigDict(extra="forbid")

    clip: str
    label: int
    status: Status = "ok"
    correct: bool = False
    attacked: bool = False
    clean_prediction: int | None = None
    prediction: int | None = None
    votes: list[int | None] = []
    draws: list[int] = []
    measured: list[float] = []
    linf: float | None = 0.0
    l2: float | None = 0.0
    changed: float | None = 0.0
    trace: list[float | None] = []
    forwards: int = 0
    backwards: int = 0
    seconds: float = 0.0
    error: str | None = None
    traceback: str = ""

    @classmethod
    def of_flaw(cls, clip: str, label: int, flaw: Flaw) -> Outcome:
        """The outcome of a clip that has no answer."""
        return cls(clip=clip, label=label, status=flaw.status, error=flaw.error, traceback=flaw.traceback)

    @property
    def verdicts(self) -> list[bool]:
        """Whether each pass was right: one for a deterministic defence, several for a randomised one."""
        if self.status != "ok":
            return [False]
        return [draw == self.label for draw in self.draws] if self.draws else [self.correct]

    @property
    def chance(self) -> float:
        """Probability of being right, as far as the passes tell."""
        return sum(self.verdicts) / len(self.verdicts)
