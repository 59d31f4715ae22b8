"""Clips of a row that were kept, and what is shown of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bench.board.asked import Answered, Networks
from bench.board.entries import Entry
from bench.board.video import Frames, as_frames, flows, write_strip, write_video
from bench.errors import BenchError
from bench.files import slug
from bench.records.outcome import Outcome
from bench.records.results import CellResult
from bench.report.clips import clips_of
from bench.report.rows import NamedRow
from bench.run.pairs import KeptPairs, Pair, difference

# By which differences are enlarged.
TIMES = 10


class Part(NamedTuple):
    """One of the videos of a page: its file's name, what it is in words, and how many frames it has."""

    name: str
    words: str
    frames: int


@dataclass(frozen=True)
class Shown:
    """One clip of a row, under the attack that is shown.

    Attributes:
        entry: of the row.
        clip, label: id and true class.
        attack: whose clip it is.
        outcomes: of all columns, by the label of their attack.
        names: of all classes, if they are known.
        clean, adversarial: ``float32 (3, T, H, W)``.
        answered: what the networks say of it now.
    """

    entry: Entry
    clip: str
    label: int
    attack: str
    outcomes: dict[str, Outcome]
    names: tuple[str, ...]
    clean: Tensor
    adversarial: Tensor
    answered: Answered

    @property
    def key(self) -> str:
        return slug(f"{self.entry.key}--{self.clip}").lower()

    @property
    def outcome(self) -> Outcome:
        """Of the attack that is shown."""
        return self.outcomes[self.attack]

    def called(self, number: int | None) -> str:
        """A class in words."""
        if number is None:
            return "no answer"
        return self.names[number] if number < len(self.names) else f"class {number}"

    def answers(self, outcome: Outcome) -> list[tuple[str, float]]:
        """What was answered, and in which share of votes or draws; the most frequent first."""
        given: Sequence[int | None] = outcome.draws or [v for v in outcome.votes if v is not None]
        given = list(given) or [outcome.prediction]
        counts = {answer: given.count(answer) / len(given) for answer in given}
        return [(self.called(answer), share) for answer, share in sorted(counts.items(), key=lambda pair: -pair[1])]

    def videos(self) -> list[tuple[str, str, Frames]]:
        """What is shown: a name for files, words, and frames."""
        attacked = f"Under {self.attack}"
        found = [("clean", "Clean", as_frames(self.clean)), ("adversarial", attacked, as_frames(self.adversarial))]
        several = len(self.answered.candidates) > 1
        for i, (clip, vote) in enumerate(zip(self.answered.candidates, self.answered.votes, strict=True), 1):
            words = f"Purified{f', candidate {i}' if several else ''}: {self.called(vote)}"
            found.append((f"purified{i}", words, as_frames(clip)))
        changed = difference(Pair(self.clean, self.adversarial), TIMES)
        found.append(("difference", f"What the attack changed, {TIMES} times", as_frames(changed)))
        for name, words, frames in zip(
            ("flow-clean", "flow-adversarial"),
            ("Motion of the clean clip", f"Motion {attacked[0].lower()}{attacked[1:]}"),
            flows(torch.stack([self.clean, self.adversarial])),
            strict=False,  # none of clips of one frame
        ):
            found.append((name, words, frames))
        return found

    def write(self, folder: Path) -> list[Part]:
        """Writes videos and strips of what is shown."""
        folder.mkdir(parents=True, exist_ok=True)
        parts = []
        for name, words, frames in self.videos():
            write_video(folder / f"{name}.mp4", frames)
            write_strip(folder / f"{name}.png", frames)
            parts.append(Part(name, words, len(frames)))
        return parts


class Kept:
    """The clips that runs have kept in the store of a results folder.

    Args:
        results: folder of results.
        networks: that are asked about them.
    """

    def __init__(self, results: Path, networks: Networks) -> None:
        self._networks, self._kept = networks, KeptPairs(results)

    def close(self) -> None:
        self._kept.close()

    def of(self, entry: Entry, most: int) -> list[Shown]:
        """The clips of a row that fall to most attacks, as far as they are kept, those that need none last: each under
        an adaptive attack that breaks it, or else under any.

        Args:
            most: how many, at most.
        """
        row = NamedRow(entry.grid, entry.model, entry.defense, entry.cells)
        found: list[Shown] = []
        wrong = {o.clip for c in entry.cells if c.knowledge == "clean" for o in c.outcomes if not o.correct}
        for line in sorted(clips_of(row) if entry.cells else [], key=lambda line: line.clip in wrong):
            if len(found) == most:
                break
            shown = self._shown(entry, line.clip)
            if shown is not None:
                found.append(shown)
        return found

    def _shown(self, entry: Entry, clip: str) -> Shown | None:
        outcomes = {c.attack: next(o for o in c.outcomes if o.clip == clip) for c in entry.cells}

        def rank(cell: CellResult) -> tuple[bool, bool, bool]:
            outcome = outcomes[cell.attack]
            return not outcome.attacked, outcome.correct, cell.knowledge != "adaptive"

        attacked = [c for c in entry.cells if c.knowledge not in ("clean", "noise") and self._kept.has(c, clip)]
        for cell in sorted(attacked, key=rank):
            try:
                pair = self._kept.pair(cell, clip)
            except BenchError:  # a torn file, or a clip that is not here any more: another one is shown
                continue
            answered = self._networks.ask(cell.settings, entry.seconds, clip, *pair)
            names = self._kept.classes(cell)
            return Shown(entry, clip, outcomes[cell.attack].label, cell.attack, outcomes, names, *pair, answered)
        return None
