"""What the PGD loop costs: against a bare forward and backward loop, and against torchattacks.

Run: ``python benchmarks/pgd.py``. The three are timed in turn, A B C A B C ..., on the shipped classifier with
the same clips, steps and start, so that the ratios hold when the machine's speed drifts. Early leaving is
switched off (``keep="last"``): every clip takes every step in all three. A second part shows what leaving early
saves.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor, nn

from bench import Budget
from bench.models.checkpoints import build_classifier, zoo_file
from bench.procedural import render
from bench.registry import ATTACKS, Spec


def bare_loop(model: nn.Module, clips: Tensor, labels: Tensor, steps: int) -> None:
    """The least that any gradient attack must do: ``steps`` forward and backward passes to the input."""
    for _ in range(steps):
        x = clips.detach().requires_grad_(True)
        torch.autograd.grad(F.cross_entropy(model(x), labels, reduction="sum"), x)


def timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nl_tiny")
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=7)
    chosen = parser.parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torchattacks

    model = build_classifier(Spec(chosen.model), zoo_file(chosen.model, "motion12"))
    rendered = [render("test", i) for i in range(chosen.clips)]
    clips = torch.stack([r.clip for r in rendered])
    labels = torch.tensor([r.label for r in rendered])
    budget = Budget("linf", 4 / 255, steps=chosen.steps)
    every_step = ATTACKS.create("pgd(keep='last', start='clean')")
    leaving = ATTACKS.create("pgd(start='clean')")
    theirs = torchattacks.PGD(model, eps=4 / 255, alpha=1 / 255, steps=chosen.steps, random_start=False)
    contenders: dict[str, Callable[[], object]] = {
        "bare forward+backward loop": lambda: bare_loop(model, clips, labels, chosen.steps),
        "bench PGD, every step": lambda: every_step(model, clips, labels, budget),
        "torchattacks PGD": lambda: theirs(clips, labels),
        "bench PGD, broken clips leave": lambda: leaving(model, clips, labels, budget),
    }
    for work in contenders.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in track(range(chosen.rounds), description="timing"):
        for name, work in contenders.items():
            times[name].append(timed(work))

    bare = times["bare forward+backward loop"]
    print(f"{chosen.model}, {chosen.clips} clips, {chosen.steps} steps, {torch.get_num_threads()} threads")
    for name, found in times.items():
        ratios = [a / b for a, b in zip(found, bare, strict=True)]
        print(
            f"{name:<32} {statistics.median(found):7.3f} s   ratio to the bare loop: "
            f"median {statistics.median(ratios):.3f} (min {min(ratios):.3f}, max {max(ratios):.3f})"
        )
    ours = [a / b for a, b in zip(times["bench PGD, every step"], times["torchattacks PGD"], strict=True)]
    print(f"bench PGD, every step / torchattacks PGD: median {statistics.median(ours):.3f}")


if __name__ == "__main__":
    main()
