"""Clips of both embedded data sets, for networks that are to serve either."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.data.base import ClipRef, Dataset
from bench.data.procedural import MOTIONS, RECIPES, ProceduralDataset, RenderedClip, render
from bench.errors import BenchError


def rendered_mixed(data: Dataset, refs: Sequence[ClipRef]) -> list[RenderedClip]:
    """Clips with their ground truth: blocks of twelve in turn from the recipe of ``data`` and from the other one.

    Raises:
        BenchError: the clips of this data set are not rendered, so there is no ground truth.
    """
    if not isinstance(data, ProceduralDataset):
        raise BenchError(f"{type(data).__name__} has no ground-truth flow: choose one of {', '.join(RECIPES)}.")
    clips = []
    for ref in refs:
        index = int(ref.id.rpartition("-")[2])
        recipe = RECIPES[(RECIPES.index(data.recipe) + index // len(MOTIONS)) % len(RECIPES)]
        clips.append(render(data.split, index, frames=data.frames, size=data.size, recipe=recipe))
    return clips


def load_mixed(data: Dataset, refs: Sequence[ClipRef]) -> Tensor:
    """Clips ``(B, 3, T, H, W)``: mixed as above if they are rendered, else those of ``data``."""
    if isinstance(data, ProceduralDataset):
        return torch.stack([clip.clip for clip in rendered_mixed(data, refs)])
    return torch.stack([data.load(ref) for ref in refs])
