"""Writing the comparison of a device with the CPU."""

from __future__ import annotations

from pathlib import Path

from bench.errors import BenchError
from bench.files import write_whole
from bench.ready.device import DeviceReport


def write_report(report: DeviceReport, output: Path) -> list[Path]:
    """Writes a report for people and for programs.

    Args:
        output: path without an ending.

    Returns:
        The two files.

    Raises:
        BenchError: they cannot be written.
    """
    texts = {".md": report.to_markdown(), ".json": report.to_json()}
    paths = []
    for ending, text in texts.items():
        path = output.with_name(output.name + ending)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, text)
        except OSError as error:
            raise BenchError(f"Cannot write {path}: {error}.") from error
        paths.append(path)
    return paths
