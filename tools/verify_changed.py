"""Verifies the submissions that a change brings, with the benchmark as it was before the change.

Run in a checkout of the base: ``python tools/verify_changed.py BASE HEAD``. Taken from the head are the folders of
submissions, and files that it adds to ``defenses/``; nothing else of it is run. Exit code 1 if one is refused, or if
the change brings a verdict of its own: that is for whoever merges it to write.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

FOLDER, VERDICT = "results/submissions", "_verified.json"


def git(root: Path, *arguments: str) -> list[str]:
    """The lines that git answers."""
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    return [line for line in done.stdout.split("\0" if "-z" in arguments else "\n") if line]


def brought(root: Path, base: str, head: str) -> tuple[list[str], list[str]]:
    """The folders of the submissions that a change touches and leaves, and files that it adds to ``defenses/``.

    Raises:
        SystemExit: it brings a verdict.
    """
    span = f"{base}...{head}"
    touched = git(root, "diff", "-z", "--name-only", span, "--", FOLDER)
    left = git(root, "ls-tree", "-r", "-z", "--name-only", head, "--", FOLDER)
    if verdicts := [path for path in touched if path.endswith(f"/{VERDICT}") and path in left]:
        sys.exit(f"{verdicts[0]} is written by whoever merges a submission, with bench verify: leave it out.")
    folders = {"/".join(path.split("/")[:3]) for path in touched if path.count("/") > 2}
    there = {"/".join(path.split("/")[:3]) for path in left}
    added = git(root, "diff", "-z", "--name-only", "--diff-filter=A", span, "--", "defenses")
    return sorted(folders & there), [path for path in added if path.endswith(".py")]


def main() -> int:
    parser = argparse.ArgumentParser(description="Verifies the submissions that a change brings.")
    parser.add_argument("base", help="revision before the change, which is checked out")
    parser.add_argument("head", help="revision with the change")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--root", type=Path, default=Path())
    options = parser.parse_args()
    folders, added = brought(options.root, options.base, options.head)
    if not folders:
        print("The change brings no submission.")
        return 0
    git(options.root, "checkout", options.head, "--", *folders, *added)
    refused = 0
    for folder in folders:
        print(f"\n{folder}", flush=True)
        command = [sys.executable, "-m", "bench.cli", "verify", folder, "--clips", str(options.clips)]
        refused += subprocess.run(command, cwd=options.root, check=False).returncode != 0
    return refused > 0


if __name__ == "__main__":
    sys.exit(main())
