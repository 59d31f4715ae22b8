"""``bench doctor``: what works on this machine, and what each grid lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from bench.cli.app import DataRoot, Results, err, out, warn_broken


def doctor(
    data_root: DataRoot = None,
    results: Results = Path("results"),
    gpu: Annotated[bool, typer.Option("--gpu", help="Compare the GPU with the CPU instead.")] = False,
    minutes: Annotated[float, typer.Option(help="Of --gpu: time after which nothing new begins.", min=0)] = 5,
    output: Annotated[
        Path | None, typer.Option(help="Of --gpu: write the report to OUTPUT.md and OUTPUT.json.")
    ] = None,
) -> None:
    """Look whether this machine is ready: versions, devices, decoders, disk, and what each shipped grid lacks.

    Exit code 1 if something does not work; files that a published grid lacks are listed and are no fault.
    """
    if gpu:
        _compare(minutes, output)
        return
    from bench.ready.doctor import checks, lacking

    good = True
    for check in checks(results):
        good &= check.ok
        mark = ("ok", "green") if check.ok else ("!!", "red")
        out.print(Text.assemble(mark, f"  {check.what}: {check.found}"), highlight=False, soft_wrap=True)
    warn_broken()
    with err.status("Looking what grids lack ..."):
        missing = lacking(data_root)
    ready = [name for name, found in missing.items() if not found]
    out.print(f"\nGrids that lack nothing: {', '.join(ready)}.", highlight=False, soft_wrap=True)
    for name, found in missing.items():
        if isinstance(found, str):
            good = False
            out.print(f"{name}: {found}", highlight=False, soft_wrap=True)
        elif found:
            out.print(f"{name} lacks:", highlight=False)
            for one in found:
                out.print(f"  - {one.what}", highlight=False, soft_wrap=True)
    out.print("\n'bench run --grid NAME --dry-run' says where to get each; 'bench fetch' lists what can be downloaded.")
    if not good:
        raise typer.Exit(1)


def _compare(minutes: float, output: Path | None) -> None:
    from bench.ready.device import check_device
    from bench.ready.device import gpu as find_gpu
    from bench.ready.report import write_report

    device = find_gpu()
    with err.status("Comparing ...") as status:
        report = check_device(device, minutes, watch=lambda what: status.update(Text(f"Comparing {what} ...")))
    out.print(report.to_markdown(), highlight=False, soft_wrap=True)
    if output is not None:
        for path in write_report(report, output):
            out.print(f"Written to {path}.", highlight=False)
    if report.wrong:
        raise typer.Exit(1)
