"""Temporal shuffle: frames in random order at test time."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from bench import ClipRandom, Purifier, register


@register(
    "temporal_shuffle",
    source="Hwang et al., Temporal Shuffling for Defending Deep Action Recognition Models Against Adversarial Attacks, "
    "Neural Networks 169, 2024; variant chunks: the public re-implementation in VCR-Bench, 2026",
)
class TemporalShuffle(Purifier):
    """Reorders the frames at random and classifies once.

    A shuffle is a linear gather along time, so its exact gradient exists: it is the scatter back to the
    source frames. Identity BPDA would credit gradients to the wrong frames, so here ``bpda`` is exact, too.

    Args:
        variant: ``window`` permutes the frames inside consecutive windows. ``chunks`` copies runs of
            ``length`` frames from a start that is off by up to ``reach`` frames (never 0), until the clip is
            full; frames may repeat or vanish.
        window: frames per window, or 0 for the whole clip. The authors' setting is not published.
        reach, length: of the ``chunks`` variant.
    """

    stochastic = True

    def __init__(
        self,
        variant: Literal["window", "chunks"] = "window",
        window: int = 4,
        reach: int = 2,
        length: int = 4,
    ) -> None:
        super().__init__()
        if variant not in ("window", "chunks"):
            raise ValueError(f"variant must be window or chunks, not {variant!r}")
        if not all(isinstance(n, int) for n in (window, reach, length)) or window < 0 or min(reach, length) < 1:
            raise ValueError("window must be a whole number of 0 or more, reach and length of 1 or more")
        self.variant, self.window, self.reach, self.length = variant, window, reach, length

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        order = self.order(clips.shape[2], rng).to(clips.device)
        return clips.gather(2, order[:, None, :, None, None].expand_as(clips))

    def bpda(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return self.purify(clips, rng)

    def order(self, frames: int, rng: ClipRandom) -> Tensor:
        """Draws the source frame of each output frame, ``int64 (B, T)``."""
        if self.variant == "window":
            size = self.window or frames
            starts = range(0, frames, size)
            return torch.cat([start + rng.permutation(min(size, frames - start)) for start in starts], dim=1)
        return torch.stack([self._chunks(frames, rng.select([clip])) for clip in range(len(rng))])

    def _chunks(self, frames: int, rng: ClipRandom) -> Tensor:
        order: list[int] = []
        while len(order) < frames:
            at = len(order)
            inside = [o for o in range(-self.reach, self.reach + 1) if o and 0 <= at + o < frames]
            start = at + (inside[int(rng.integers(len(inside)))] if inside else 0)
            order += range(start, min(start + self.length, frames))
        return torch.tensor(order[:frames])
