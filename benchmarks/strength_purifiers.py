"""How much of what diffusion purifiers seem to withstand is left when they are attacked harder.

Run: ``python benchmarks/strength_purifiers.py --clips 16``. On test clips of ``actions12`` and the shipped ``nl_tiny``,
linf 4/255: per defence the attack that its paper uses or that tables used to have, and stronger ones. A line is the
defence, the attack, the clips that are still right, of how many. A randomised defence is asked ``--draws`` times about
every clip, and its count is an average.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bench import ATTACKS, Budget, ClipRandom, DefendedClassifier, Spec
from bench.data.procedural import render
from bench.defense.base import Defense
from bench.records.identity import Gradient
from bench.registry import DEFENSES
from bench.weights.zoo import build_classifier, zoo_file

PUBLISHED = "pgd(protocol='videopure')"
ROWS: list[tuple[str, list[tuple[str, Gradient]]]] = [
    ("videopure(steps=2)", [(PUBLISHED, "bpda"), ("pgd", "bpda-lowpass"), ("pgd", "exact")]),
    (
        "diffpure_ddim(steps=2)",
        [("pgd", "bpda"), ("pgd", "bpda-lowpass"), ("pgd", "exact"), ("eot(draws=6, average='losses')", "exact")],
    ),
    ("diffpure_ddpm(steps=3)", [("pgd", "bpda"), ("pgd", "bpda-lowpass")]),
    ("diffpure_fixed(steps=2)", [("pgd", "bpda"), ("pgd", "exact")]),
    ("ddim_inversion(steps=2)", [("pgd", "bpda"), ("pgd", "bpda-lowpass"), ("pgd", "exact")]),
]


def clips_of(first: int, count: int) -> tuple[Tensor, Tensor]:
    """Test clips and their labels."""
    rendered = [render("test", i, recipe="actions12") for i in range(first, first + count)]
    return torch.stack([r.clip for r in rendered]), torch.tensor([r.label for r in rendered])


def left(defended: DefendedClassifier, clips: Tensor, labels: Tensor, draws: int) -> float:
    """Clips that are still right, on average over fresh draws."""
    asked = draws if defended.stochastic else 1
    right = [
        (defended.decide(clips, ClipRandom(range(10_000 * d, 10_000 * d + len(clips)))).prediction == labels).sum()
        for d in range(1, asked + 1)
    ]
    return float(torch.stack(right).double().mean())


def attacked(
    model: nn.Module, defense: Defense, how: tuple[str, Gradient], clips: Tensor, labels: Tensor, steps: int, draws: int
) -> float:
    """:func:`left`, of the clips that an attack makes."""
    attack, gradient = how
    defended, count = DefendedClassifier(model, defense, gradient), len(clips)
    budget = Budget("linf", 4 / 255, steps=steps)
    target = defended.target(ClipRandom(range(count)))
    made = ATTACKS.create(attack).run(target, clips, labels, budget, ClipRandom(range(count, 2 * count)))
    return left(defended, made.clips, labels, draws)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--first", type=int, default=1200, help="number of the first test clip")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--only", default="", help="defences whose name begins so")
    chosen = parser.parse_args(arguments)
    model = build_classifier(Spec("nl_tiny"), zoo_file("nl_tiny", "actions12"))
    clips, labels = clips_of(chosen.first, chosen.clips)
    for text, attacks in ROWS:
        if not text.startswith(chosen.only):
            continue
        defense = DEFENSES.create(text)
        clean = left(DefendedClassifier(model, defense, "none"), clips, labels, chosen.draws)
        print(f"{text:<26} {'clean':<40} {clean:5.1f} of {len(clips)}", flush=True)
        for how in attacks:
            found = attacked(model, defense, how, clips, labels, chosen.steps, chosen.draws)
            print(f"{text:<26} {'+'.join(how):<40} {found:5.1f} of {len(clips)}", flush=True)


if __name__ == "__main__":
    main()
