"""``bench bank``: the adversarial clips that runs have kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.app import DataRoot, Results, err, out
from bench.errors import BenchError

bank = typer.Typer(
    help="The adversarial clips that runs have kept: list them, have them back, make room.", no_args_is_help=True
)

Which = Annotated[
    list[str] | None,
    typer.Argument(help="Of which unit: the beginning of its id, or labels of grid, classifier, defence or attack."),
]


@bank.command("ls")
def ls(which: Which = None, results: Results = Path("results")) -> None:
    """List kept clips: which attack made them on what, how many, and the room they take."""
    from rich import box
    from rich.table import Table

    from bench.run.kept import chosen, holdings
    from bench.run.store import Store

    with Store(results / ".store", writable=False) as store:
        found = chosen(store, which) if which else holdings(store)
    if not found:
        out.print(f"No adversarial clips are kept in {results / '.store'}.", highlight=False)
        return
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("Unit", "Grid", "Classifier", "Made against", "Attack"):
        table.add_column(heading, overflow="fold")
    for heading in ("Clips", "Bytes", "A clip", "Ratio"):
        table.add_column(heading, justify="right", no_wrap=True)
    for holding in found:
        against = "(shared)" if holding.shared else ", ".join(holding.labels("defense"))
        table.add_row(
            holding.unit[:8],
            *(", ".join(holding.labels(name)) or "?" for name in ("grid", "model")),
            against,
            ", ".join(holding.labels("attack")) or "?",
            str(len(holding.clips)),
            in_bytes(holding.coded),
            in_bytes(holding.coded / len(holding.clips)),
            f"{holding.raw / holding.coded:.1f}" if holding.coded else "-",
        )
    out.print(table)
    clips, coded = sum(len(h.clips) for h in found), sum(h.coded for h in found)
    raw = sum(h.raw for h in found)
    out.print(
        f"{clips} clips of {len(found)} units: {in_bytes(coded)}, as float32 {in_bytes(raw)}. Ratio: of the second to "
        "the first.",
        highlight=False,
    )


@bank.command("prune")
def prune(
    which: Which = None,
    results: Results = Path("results"),
    older_than: Annotated[float | None, typer.Option(help="Only what was written so many days ago.", min=0)] = None,
    keep_shared: Annotated[
        bool, typer.Option("--keep-shared", help="Leave gray-box and transferred clips alone.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")] = False,
) -> None:
    """Remove kept clips that no cell of the result files judges, and files that nothing names.

    Clips of a grid whose run was stopped stay. Named ones go whoever judges them. Nothing that is measured is lost:
    clips that are needed again are made again.
    """
    from bench.run.kept import waste
    from bench.run.store import Store

    folder = results / ".store"
    if not (folder / "outcomes.sqlite").is_file():
        raise BenchError(f"There is no store in {folder}: give the results folder with --results.")
    with Store(folder, writable=not dry_run) as store:
        found = waste(store, results, words=which or (), older_than=older_than, keep_shared=keep_shared)
        freed = 0
        for one in found:
            freed += one.bytes if dry_run else one.remove()
            out.print(f"{'would remove' if dry_run else 'removed'} {one.what}: {in_bytes(one.bytes)}", highlight=False)
    out.print(f"{in_bytes(freed)} {'would be' if dry_run else 'are'} free.", highlight=False)


@bank.command("export")
def export(
    which: Annotated[
        list[str],
        typer.Argument(help="The beginning of a unit's id, or labels of grid, classifier, defence or attack."),
    ],
    to: Annotated[Path, typer.Option("--to", help="Folder to write to.")],
    clip: Annotated[list[str] | None, typer.Option(help="Id of a clip; all if none is given.")] = None,
    png: Annotated[
        bool, typer.Option("--png", help="8-bit frames to look at, in place of the float32 values that were judged.")
    ] = False,
    results: Results = Path("results"),
    data_root: DataRoot = None,
) -> None:
    """Write clean and adversarial clips to files: safetensors, bit for bit, or PNG frames."""
    from bench.run.kept import chosen, write_clips
    from bench.run.store import Store

    with Store(results / ".store", writable=False) as store:
        wanted = chosen(store, which)
        count = 0
        for _ in write_clips(store, wanted, to, clips=clip or (), pictures=png, data_root=data_root):
            count += 1
    err.print(f"{count} clips of {len(wanted)} units are in {to}.", markup=False, soft_wrap=True)


def in_bytes(size: float) -> str:
    """A number of bytes, in the unit of a thousand in which it has one to three digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
