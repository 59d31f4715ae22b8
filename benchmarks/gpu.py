"""A GPU beside the CPU: parity of every attack and defence, precisions, memory, timings; a report of both kinds.

Run: ``python benchmarks/gpu.py --minutes 5 --output gpu``. ``--device cpu`` compares the CPU with itself, to try it.
It is what ``bench doctor --gpu`` prints, in a file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.console import Console

from bench import BenchError
from bench.ready.device import check_device, gpu
from bench.ready.report import write_report


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try it")
    parser.add_argument("--minutes", type=float, default=5.0, help="after which nothing new begins")
    parser.add_argument("--output", type=Path, default=Path("gpu"), help="path of the report, without an ending")
    asked = parser.parse_args(arguments)
    console = Console(markup=False, highlight=False)
    try:
        device = gpu() if asked.device == "cuda" else torch.device(asked.device)
        report = check_device(device, asked.minutes, watch=console.print)
        paths = write_report(report, asked.output)
    except BenchError as error:
        console.print(f"Error: {error}")
        return 2
    console.print(report.to_markdown())
    console.print(f"Written to {', '.join(map(str, paths))}.")
    return 1 if report.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
