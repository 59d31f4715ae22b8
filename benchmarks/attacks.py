"""What the attacks cost: PGD and APGD against a bare forward and backward loop and against torchattacks; and the matrix
attack x defence of a grid that was run, with accuracy, passes and seconds per clip.

Run: ``python benchmarks/attacks.py`` for the ratios. All are timed in turn, A B C A B C ..., on the shipped classifier
with the same clips, steps and start, in processor time, so that the ratios hold when the machine's speed drifts. Early
leaving is switched off (PGD: ``keep="last"``; APGD: a target that is meant for transfer), so that every clip takes
every step in all of them. torchattacks'
APGD knows images only: it gets clips whose frames stand below one another. A last line shows what leaving early saves.
``--full-size --clips 1 --steps 3 --rounds 3`` takes the published non-local network, with random weights, and clips of
32x224x224, where the network outweighs all else.

``python benchmarks/attacks.py --matrix embedded_attacks`` prints the matrix from the stored outcomes of ``bench run
--grid embedded_attacks``; nothing is run.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor, nn

from bench import Budget, Target
from bench.data.procedural import render
from bench.grids.grid import find_grid
from bench.plan.expand import make_plan
from bench.registry import ATTACKS, MODELS, Spec
from bench.report.leaderboard import markdown_table
from bench.report.tables import interval
from bench.run.export import collect
from bench.run.store import Store
from bench.weights.zoo import build_classifier, zoo_file


class FramesBelowOneAnother(nn.Module):
    """A classifier of clips for a library that knows images: ``(B, 3, T * H, W)``."""

    def __init__(self, model: nn.Module, frames: int) -> None:
        super().__init__()
        self.model, self.frames = model, frames

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images.unflatten(2, (self.frames, -1)))
        return logits


def matrix(name: str, results: Path) -> None:
    """Prints accuracy, passes and seconds per clip of a grid's stored outcomes, attack by defence."""
    plan = make_plan(find_grid(name))
    store = Store(results / ".store")
    cells = {(r.attack, r.defense): r for r in collect(plan, store)}
    store.close()
    defenses = list(dict.fromkeys(d for _, d in cells))
    rows = []
    for attack in dict.fromkeys(a for a, _ in cells):
        found = []
        for defense in defenses:
            cell = cells.get((attack, defense))
            if cell is None:
                found.append("n/a")
                continue
            done = [o for o in cell.outcomes if o.status != "missing"]
            passes = sum(o.forwards + o.backwards for o in done) / max(len(done), 1)
            seconds = sum(o.seconds for o in done) / max(len(done), 1)
            found.append(f"{cell.score.accuracy:.1f} {interval(cell.score)}, {passes:.0f}, {seconds:.2f}")
        rows.append([attack, *found])
    print(f"{name}: accuracy in percent with 95 % Wilson interval, passes (forward + backward) and seconds per clip\n")
    print("\n".join(markdown_table(["Attack", *defenses], rows)))


def shipped(name: str, count: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A shipped classifier, and rendered clips with their labels."""
    rendered = [render("test", i) for i in range(count)]
    model = build_classifier(Spec(name), zoo_file(name, "motion12"))
    return model, torch.stack([r.clip for r in rendered]), torch.tensor([r.label for r in rendered])


def full_size(count: int) -> tuple[nn.Module, Tensor, Tensor]:
    """The published non-local network with random weights, noise of full size, and what it says of it."""
    torch.manual_seed(0)
    model: nn.Module = MODELS.create("nl_r50(num_classes=101)").eval().requires_grad_(False)
    clips = torch.rand(count, 3, 32, 224, 224)
    with torch.no_grad():
        return model, clips, model(clips).argmax(1)


def bare_loop(model: nn.Module, clips: Tensor, labels: Tensor, steps: int) -> None:
    """The least that any gradient attack must do: ``steps`` forward and backward passes to the input."""
    for _ in range(steps):
        x = clips.detach().requires_grad_(True)
        torch.autograd.grad(F.cross_entropy(model(x), labels, reduction="sum"), x)


def timed(work: Callable[[], object]) -> float:
    """Seconds of processor time: the clock would tell of whoever else uses the machine, too."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def print_ratios(times: dict[str, list[float]]) -> None:
    """Medians of the seconds, and of the ratios to the bare loop and of ours to torchattacks, round by round."""
    bare = times["bare forward+backward loop"]
    for name, found in times.items():
        ratios = [a / b for a, b in zip(found, bare, strict=True)]
        print(
            f"{name:<32} {statistics.median(found):7.3f} s   ratio to the bare loop: "
            f"median {statistics.median(ratios):.3f} (min {min(ratios):.3f}, max {max(ratios):.3f})"
        )
    for one, other in (
        ("bench PGD, every step", "torchattacks PGD"),
        ("bench APGD, every step", "torchattacks APGD"),
    ):
        ratios = [a / b for a, b in zip(times[one], times[other], strict=True)]
        print(f"{one} / {other}: median {statistics.median(ratios):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nl_tiny")
    parser.add_argument("--full-size", action="store_true", help="nl_r50 with random weights on clips of 32x224x224")
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--matrix", metavar="GRID", help="print the matrix of a grid that was run instead")
    parser.add_argument("--results", type=Path, default=Path("results"))
    chosen = parser.parse_args()
    if chosen.matrix:
        matrix(chosen.matrix, chosen.results)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torchattacks

    model, clips, labels = full_size(chosen.clips) if chosen.full_size else shipped(chosen.model, chosen.clips)
    budget = Budget("linf", 4 / 255, steps=chosen.steps)
    every_step = ATTACKS.create("pgd(keep='last', start='clean')")
    leaving = ATTACKS.create("pgd(start='clean')")
    theirs = torchattacks.PGD(model, eps=4 / 255, alpha=1 / 255, steps=chosen.steps, random_start=False)
    apgd = ATTACKS.create("apgd")
    folded = FramesBelowOneAnother(model, clips.shape[2])
    their_apgd = torchattacks.APGD(folded, eps=4 / 255, steps=chosen.steps, n_restarts=1, loss="ce", verbose=False)
    their_apgd.set_model_training_mode(False, False, False)
    images = clips.flatten(2, 3)

    def all_the_way() -> Target:
        return Target(lambda x, rows: model(x), len(clips), transfer=True)

    contenders: dict[str, Callable[[], object]] = {
        "bare forward+backward loop": lambda: bare_loop(model, clips, labels, chosen.steps),
        "bench PGD, every step": lambda: every_step(model, clips, labels, budget),
        "torchattacks PGD": lambda: theirs(clips, labels),
        "bench PGD, broken clips leave": lambda: leaving(model, clips, labels, budget),
        "bench APGD, every step": lambda: apgd(all_the_way(), clips, labels, budget),
        "torchattacks APGD": lambda: their_apgd(images, labels),
    }
    for work in list(contenders.values())[: 1 if chosen.full_size else None]:
        work()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in track(range(chosen.rounds), description="timing"):
        for name, work in contenders.items():
            times[name].append(timed(work))

    name = "nl_r50, 32x224x224" if chosen.full_size else chosen.model
    print(f"{name}, {chosen.clips} clips, {chosen.steps} steps, {torch.get_num_threads()} threads")
    print_ratios(times)


if __name__ == "__main__":
    main()
