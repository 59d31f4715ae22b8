"""Asks uv's resolver whether the project can be installed: by Python, by platform, alone and beside other packages.

Run: ``python tools/resolve.py`` with uv, which the extra ``dev`` has, on the path or named by ``--uv``. Extras are left
out, and nothing is installed. Packages that come as source alone are built for their metadata by the Python at hand,
whatever is asked for.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.11", "3.12", "3.13")
PLATFORMS = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_28", "aarch64-apple-darwin", "x86_64-pc-windows-msvc")
BESIDE = ("datasets", "timm", "lightning", "mteb")
# What is published as source alone.
SOURCES = ("pytorchvideo", "fvcore", "iopath", "antlr4-python3-runtime")


def resolve(uv: str, project: Path, python: str, platform: str, beside: tuple[str, ...]) -> str:
    """The resolver's complaint, or nothing if there is a solution of wheels, but for the known sources."""
    command = [
        uv,
        "pip",
        "compile",
        "--quiet",
        "--no-header",
        "--python-version",
        python,
        "--python-platform",
        platform,
    ]
    command += ["--only-binary", ":all:", *(f"--no-binary={name}" for name in SOURCES), str(project), "-"]
    done = subprocess.run(command, input="\n".join(beside), capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else " ".join(done.stderr.split())


def main() -> int:
    parser = argparse.ArgumentParser(description="Resolves the project's requirements on other Pythons and platforms.")
    parser.add_argument("--uv", default="uv")
    parser.add_argument("--project", type=Path, default=ROOT / "pyproject.toml", help="another version of the file")
    parser.add_argument("--python", action="append", help=f"instead of {', '.join(PYTHONS)}")
    parser.add_argument("--platform", action="append", help=f"instead of {', '.join(PLATFORMS)}")
    options = parser.parse_args()
    failed = 0
    for python, platform, beside in product(options.python or PYTHONS, options.platform or PLATFORMS, ((), BESIDE)):
        complaint = resolve(options.uv, options.project, python, platform, beside)
        failed += bool(complaint)
        where = f"Python {python}, {platform}{', beside ' + ' '.join(beside) if beside else ''}"
        print(f"{where}: {complaint[-400:] or 'resolved'}", flush=True)
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
