"""Grids that were run with other clips, steps, seeds or precisions, by the names of their results folders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.grids.grid import Grid, override, shipped_grids

_TAGS = re.compile(
    r"(?:-clips(?P<clips>\d+))?(?:-steps(?P<steps>\d+))?(?:-seed(?P<seed>\d+))?"
    r"(?:-precision(?P<precision>fp32|tf32|bf16))?"
)


def tags(name: str, grid: str) -> dict[str, Any] | None:
    """What :func:`bench.grids.grid.override` was given where it made the name of a grid; nothing if it did not.

    Args:
        name: of a results folder, as ``demo-clips6-steps2``.
        grid: of the grid, as ``demo``.
    """
    found = _TAGS.fullmatch(name[len(grid) :]) if name.startswith(grid) else None
    if found is None:
        return None
    told = {key: value for key, value in found.groupdict().items() if value is not None}
    return {key: value if key == "precision" else int(value) for key, value in told.items()}


def untagged(name: str) -> tuple[str, str]:
    """What to find a grid by, and the name of its results: ``demo-clips6`` is a run of ``demo``, if that is shipped.

    Returns:
        The name of the grid, or of its file; the name of the results folder, empty if it does not follow.
    """
    grid = next((grid for grid in shipped_grids() if tags(name, grid)), None)
    return (name, "") if name in shipped_grids() or grid is None else (grid, name)


def run_of(
    grid: Grid,
    results: Path,
    name: str = "",
    *,
    models: Sequence[str] = (),
    defenses: Sequence[str] = (),
    dataset: str | None = None,
) -> Grid:
    """The grid as it was run: the whole of it if there are results of that, else the only other run that there is.

    Args:
        results: folder of results folders.
        name: of the results folder, where there are several.
        models, defenses, dataset: as for :func:`bench.grids.grid.override`.

    Raises:
        BenchError: there is no such run, or several and none is named.
    """
    if dataset is not None:
        grid = override(grid, dataset=dataset)
    if not name and not (results / grid.name).is_dir():
        folders = sorted(p.name for p in results.glob("*") if p.is_dir() and tags(p.name, grid.name))
        if len(folders) > 1:
            raise BenchError(f"Of {grid.name} there are the runs {', '.join(folders)}: name one with --run.")
        name = folders[0] if folders else ""
    told = tags(name or grid.name, grid.name)
    if told is None:
        raise BenchError(
            f"{name!r} is no run of {grid.name}: give the name of its results folder, as {grid.name}-clips6, which "
            "'bench run' prints at its end."
        )
    return override(grid, models=models, defenses=defenses, **told)
