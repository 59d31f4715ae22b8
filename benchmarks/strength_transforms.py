"""What an input transform owes to the gradient it is attacked with: clips left behind the identity, behind the
defence's own stand-in, through the exact gradient where there is one, and with gradients averaged over the attacker's
own noise.

Run: ``python benchmarks/strength_transforms.py``; ``--only TEXT`` keeps the rows whose defence contains it. Every row
is PGD of ten steps on the first clips of actions12, judged by a fresh answer of the defence. A dash
stands where there is no such gradient, or where nothing was asked.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

import torch
from rich.progress import track
from torch import Tensor, nn

from bench import Budget, ClipRandom, DefendedClassifier, Purifier
from bench.data.procedural import render
from bench.defense.defended import why_not
from bench.records.identity import Gradient
from bench.registry import ATTACKS, DEFENSES, Spec
from bench.report.leaderboard import markdown_table
from bench.weights.zoo import build_classifier, zoo_file

_SMOOTHED = "smoothed"
COLUMNS: dict[str, tuple[str, Gradient]] = {
    "identity": ("pgd", "bpda-identity"),
    "stand-in": ("pgd", "bpda"),
    "exact": ("pgd", "exact"),
    "identity, smoothed": (_SMOOTHED, "bpda-identity"),
    "stand-in, smoothed": (_SMOOTHED, "bpda"),
}
_ALWAYS = tuple(COLUMNS)[:3]


@dataclass(frozen=True)
class Row:
    """A defence as a grid names it, the ball, the clips, and the columns to fill.

    The size of a linf ball is in steps of 1/255.
    """

    defense: str
    size: float
    clips: int
    columns: tuple[str, ...] = _ALWAYS
    norm: str = "linf"

    @property
    def ball(self) -> str:
        """As the table names it."""
        return f"{self.norm} {self.size:g}" + ("/255" if self.norm == "linf" else "")

    def budget(self, steps: int) -> Budget:
        """What the attack may do."""
        return Budget(self.norm, self.size / 255 if self.norm == "linf" else self.size, steps=steps)


ROWS = [
    *(Row(f"jpeg(quality={quality})", 2, 24) for quality in (75, 50, 25)),
    Row("wavelet(sigma=0.03)", 3, 16),
    Row("halftone", 2, 16, ("identity", "identity, smoothed")),
    *(Row(f"bit_depth(bits={bits})", size, 16) for bits, size in ((1, 0.5), (3, 2), (5, 2))),
    *(Row(name, 0.7, 16, norm="l2") for name in ("bit_depth(bits=1)", "equalize")),
    *(Row(name, 2, 16) for name in ("equalize", "fft", "resize", "grayscale", "swirl")),
    *(Row(name, 3, 16) for name in ("median", "mean", "gaussian_blur", "bilateral", "nonlocal_means")),
]


@dataclass(frozen=True)
class Clips:
    """Clean clips ``(B, 3, T, H, W)`` and their classes."""

    clips: Tensor
    labels: Tensor

    @classmethod
    def first(cls, count: int) -> Clips:
        """The first test clips of actions12."""
        rendered = [render("test", i, recipe="actions12") for i in range(count)]
        return cls(torch.stack([r.clip for r in rendered]), torch.tensor([r.label for r in rendered]))


def left(defended: DefendedClassifier, given: Clips, attack: str, budget: Budget, at_once: int = 8) -> int:
    """How many clips are still classified right after an attack."""
    right = 0
    for first in range(0, len(given.labels), at_once):
        clips, labels = given.clips[first : first + at_once], given.labels[first : first + at_once]
        names = range(first, first + len(labels))
        streams = [ClipRandom.for_clips([str(name) for name in names], key) for key in ("defence", "attack", "judge")]
        found = ATTACKS.create(attack)(defended.target(streams[0]), clips, labels, budget, streams[1])
        right += int((defended.decide(found.clips, streams[2]).prediction == labels).sum())
    return right


def measured(model: nn.Module, row: Row, steps: int) -> list[str]:
    """One line of the table."""
    defense = DEFENSES.create(row.defense)
    assert isinstance(defense, Purifier)
    given, budget = Clips.first(row.clips), row.budget(steps)
    line = [row.defense, row.ball]
    for name, (attack, gradient) in COLUMNS.items():
        if name not in row.columns or why_not(defense, gradient) is not None:
            line.append("-")
            continue
        line.append(str(left(DefendedClassifier(model, defense, gradient), given, attack, budget)))
    return [*line, str(row.clips)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nl_tiny")
    parser.add_argument("--only", default="", help="part of the defence's name and parameters")
    parser.add_argument("--clips", type=int, help="at most so many")
    parser.add_argument("--steps", type=int, default=10)
    chosen = parser.parse_args()
    model = build_classifier(Spec(chosen.model), zoo_file(chosen.model, "actions12"))
    rows = [row for row in ROWS if chosen.only in row.defense]
    lines = []
    for row in track(rows, description="attacking"):
        count = min(row.clips, chosen.clips or row.clips)
        lines.append(measured(model, replace(row, clips=count), chosen.steps))
    print(f"{chosen.model}, actions12, PGD, {chosen.steps} steps: clips left\n")
    print("\n".join(markdown_table(["Defence", "Ball", *COLUMNS, "of"], lines)))


if __name__ == "__main__":
    main()
