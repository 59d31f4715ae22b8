"""What is known of this process and its machine, as result files record it."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import torch

import bench
from bench.records.provenance import Provenance


def of_this_process(device: str) -> Provenance:
    """What computes here and now.

    Args:
        device: name of the device that is used, see :func:`bench.run.engine.hardware`.
    """
    return Provenance(
        bench=bench.__version__,
        commit=_commit(),
        python=platform.python_version(),
        torch=torch.__version__.split("+")[0],
        device=device,
        machine=platform.machine(),
        threads=torch.get_num_threads(),
        date=datetime.now(UTC).date().isoformat(),
    )


@lru_cache(maxsize=1)
def _commit() -> str | None:
    """The commit of the checkout that this package is run from; none if it was installed, or there is no git."""
    root = Path(bench.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    head = _git(root, "rev-parse", "HEAD")
    if not head:
        return None
    # What lies beside the code, results say, changes no outcome.
    code = [name for name in ("bench", "attacks", "defenses", "datasets") if (root / name).is_dir()]
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", *code)
    return head if changed == "" else f"{head}+"


def _git(root: Path, *arguments: str) -> str | None:
    """What git answers; ``None`` where it fails."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
