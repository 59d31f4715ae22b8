"""The strongest candidate seen so far."""

from __future__ import annotations

import torch
from torch import Tensor


class Best:
    """The strongest candidate seen so far of each clip: broken before unbroken, then by score."""

    def __init__(self, clips: Tensor) -> None:
        self.clips = clips.clone()
        # Not-a-number: nothing is kept yet, and any candidate is better.
        self._score = torch.full((len(clips),), float("nan"), dtype=torch.float64, device=clips.device)
        self._broken = torch.zeros(len(clips), dtype=torch.bool, device=clips.device)

    def keep(self, candidates: Tensor, score: Tensor, broken: Tensor, rows: Tensor | None = None) -> None:
        """Offers one candidate per clip: ``(b, 3, T, H, W)``, scores ``(b,)``, whether broken ``(b,)``.

        Args:
            rows: ``(b,)``, which clips of the batch they belong to; all, if not given.
        """
        rows = torch.arange(len(self.clips), device=score.device) if rows is None else rows.to(score.device)
        known, was_broken = self._score[rows], self._broken[rows]
        higher = (score >= known) | known.isnan()  # where the loss is flat, the later one
        better = (broken & ~was_broken) | ((broken == was_broken) & higher)
        self.clips[rows[better]], self._score[rows[better]] = candidates[better], score[better]
        self._broken[rows] = was_broken | broken
