"""The embedded table: simple defences and DiffPure on the shipped classifiers, over several seeds.

Run: ``python benchmarks/zoo.py``, or a smaller look: ``python benchmarks/zoo.py --clips 24 --seeds 0 --model nl_tiny``.
Columns are Standard (clean), gray-box PGD (the attacker knows the classifier), PGD+BPDA (the defence forward, its
stand-in backward: the identity, for a shuffle the same shuffle), that in 40 steps instead of 10, and with each step
averaged over 20 draws of the defence. It goes through the project's runner: outcomes are stored clip by clip in
``--results``, a stopped run continues, and a later one with more clips, seeds or defences pays only for what is new.

Seeds change the attack's start and the defence's noise, not the clips. An accuracy is the mean over seeds; its 95 %
Wilson interval counts every *clip* once, since one clip under three seeds is not three clips; the range over the seeds
is printed beside it.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from bench.errors import BenchError
from bench.grids.grid import DatasetSection, Grid
from bench.plan.cells import Plan
from bench.plan.expand import make_plan
from bench.records.metrics import wilson
from bench.records.results import CellResult, Score
from bench.report.leaderboard import markdown_table
from bench.run.engine import LocalEngine, keep_freed_memory, pick_device
from bench.run.export import collect
from bench.run.runner import Runner
from bench.run.store import Store

COLUMNS = {
    "clean": "Standard",
    "PGD": "gray-box PGD",
    "PGD+BPDA": "PGD+BPDA",
    "PGD-40+BPDA": "40 steps",
    "EOT+BPDA": "EOT+BPDA",
}
LONGER = [{"attack": "pgd", "gradient": "bpda", "label": "PGD-40+BPDA", "budget": {"steps": 40}}, "EOT+BPDA"]

SHUFFLE = "temporal_shuffle(window=0)"
"""Ten steps see ten orders of the frames: for this one, cheap and random, there are stronger attacks, with one seed."""

# In the order of the table. A shuffle of the whole clip needs classes that are seen in single frames. On a
# few dozen clips the tiny backbone restored no less in two or three steps than in five, and an adaptive attack pays for
# each step at every iteration. encode_decode is that of latent_tiny: pixel_tiny, behind DiffPure, loses nothing.
DEFENSES = [
    "none",
    "encode_decode",
    "gaussian_noise",
    "jpeg(quality=75)",
    "wavelet",
    SHUFFLE,
    "diffpure_ddim(steps=2)",
    "diffpure_ddpm(steps=3)",
]


class Bar:
    """One progress bar over the seeds."""

    def __init__(self, bar: Progress, name: str) -> None:
        self.bar, self.name = bar, name
        self.task = bar.add_task(name, total=None)

    def begin(self, work: float, clips: int, cells: int) -> None:
        self.bar.update(self.task, total=work or 1, completed=0 if work else 1)

    def working_on(self, what: str) -> None:
        self.bar.update(self.task, description=f"{self.name}: {what}")

    def advance(self, work: float, clips: int, cells: int) -> None:
        self.bar.advance(self.task, work)


def grids_of(dataset: str, models: list[str], defenses: list[str], clips: int, seed: int, longer: bool) -> list[Grid]:
    grid = Grid(
        name=f"zoo-{dataset}-seed{seed}",
        dataset=DatasetSection(name=dataset, clips=clips),
        models=models,
        defenses=defenses,
        budgets=[{"norm": "linf", "size": "4/255", "steps": 10}],
        attacks=["clean", "PGD", "PGD+BPDA"],
        seed=seed,
    )
    if SHUFFLE not in defenses or not longer:
        return [grid]
    return [grid, grid.model_copy(update={"defenses": ["none", SHUFFLE], "attacks": LONGER})]


def pooled(scores: list[Score]) -> str:
    """Mean over seeds, Wilson interval over clips, and the range over seeds where there are several."""
    clips = scores[0].clips
    hits = sum(s.correct for s in scores) / len(scores)
    low, high = wilson(round(hits), clips)
    text = f"{100 * hits / clips:.1f}\n{100 * low:.0f} to {100 * high:.0f}"
    if len(scores) > 1:
        found = [s.accuracy for s in scores]
        text += f"\nseeds {min(found):.1f} to {max(found):.1f}"
    flawed = sum(s.flawed for s in scores)
    return text + (f"\n{flawed} without outcome" if flawed else "")


def rows_of(model: str, results: list[CellResult], defenses: list[str]) -> list[list[str]]:
    """The defence and its pooled figures, column by column."""
    rows = []
    for defense in defenses:
        found = {
            attack: [r.score for r in results if (r.model, r.defense, r.attack) == (model, defense, attack)]
            for attack in COLUMNS
        }
        rows.append([defense, *(pooled(scores) if scores else "-" for scores in found.values())])
    return rows


def terminal(model: str, rows: list[list[str]]) -> Table:
    table = Table(title=model, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("Defence")
    for heading in COLUMNS.values():
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def markdown(model: str, rows: list[list[str]]) -> str:
    broken = [[cell.replace("\n", "<br>") for cell in row] for row in rows]
    return "\n".join([f"## {model}", "", *markdown_table(["Defence", *COLUMNS.values()], broken), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["nl_tiny", "slowfast_tiny"])
    parser.add_argument("--dataset", default="actions12")
    parser.add_argument("--defense", nargs="+", default=DEFENSES)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--results", type=Path, default=Path("results/zoo"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--markdown", type=Path, help="also write the tables to this file")
    chosen = parser.parse_args()
    console = Console(width=None if Console().is_terminal else 120)
    defenses = list(dict.fromkeys(["none", *chosen.defense]))

    begun = time.monotonic()
    device = pick_device(chosen.device)
    if device.type == "cpu":
        keep_freed_memory()
    store = Store(chosen.results / ".store")
    results: list[CellResult] = []
    columns = (BarColumn(20), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn(), TimeRemainingColumn())
    try:
        with Progress(TextColumn("{task.description}"), *columns, console=Console(stderr=True)) as bar:
            for seed in chosen.seeds:
                engine, progress = LocalEngine(device), Bar(bar, f"seed {seed}")
                longer = seed == chosen.seeds[0]
                for grid in grids_of(chosen.dataset, chosen.model, defenses, chosen.clips, seed, longer):
                    plan: Plan = make_plan(grid)
                    Runner(plan, store, engine, batch_size=chosen.batch_size, progress=progress).run()
                    results += [r for r in collect(plan, store) if len(grid.attacks) > 1 or r.attack != "clean"]
    finally:
        store.close()
    tables = {model: rows_of(model, results, defenses) for model in chosen.model}
    for model, rows in tables.items():
        console.print(terminal(model, rows))
    about = (
        f"{chosen.dataset}, linf 4/255, 10 steps; {results[0].score.clips} clips, seeds "
        f"{', '.join(map(str, chosen.seeds))}. Accuracy in percent, mean over seeds; below it the 95 % Wilson interval "
        "over clips, which counts a clip once whatever the number of seeds, and the range over seeds."
    )
    console.print(f"{about} {time.monotonic() - begun:.0f} s this time.", highlight=False)
    if chosen.markdown is not None:
        parts = ["# Table of the embedded zoo\n", f"Written by `benchmarks/zoo.py`. {about}\n"]
        parts += [markdown(model, rows) for model, rows in tables.items()]
        chosen.markdown.write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
