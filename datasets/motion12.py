"""motion12: twelve classes defined by motion alone."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from bench import BenchError, ClipRef, Dataset, register
from bench.procedural import MOTIONS, SPLITS, render


@register("motion12")
class Motion12(Dataset):
    """Procedural clips of a textured sprite whose motion is its class; appearance says nothing about it.

    Clips are rendered on demand, deterministic by (split, index), with ground-truth optical flow
    (:func:`bench.procedural.render`). Labels cycle, so every block of 12 clips is balanced.

    Args:
        split: ``train``, ``val`` or ``test``; the splits share no clip.
        frames: clip length.
        size: side of the square frames in pixels.
        length: number of clips in the split.
    """

    classes = MOTIONS

    def __init__(
        self,
        split: Literal["train", "val", "test"] = "test",
        frames: int = 16,
        size: int = 64,
        length: int = 1200,
    ) -> None:
        if split not in SPLITS:
            raise BenchError(f"Unknown split {split!r}: choose one of {', '.join(SPLITS)}.")
        self.split, self.frames, self.size, self.length = split, frames, size, length

    def refs(self) -> list[ClipRef]:
        return [ClipRef(f"{self.split}-{i:05d}", i % len(MOTIONS)) for i in range(self.length)]

    def load(self, ref: ClipRef) -> Tensor:
        index = int(ref.id.rpartition("-")[2])
        return render(self.split, index, frames=self.frames, size=self.size).clip
