"""The strongest candidate seen so far of each clip."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


class Best:
    """The strongest candidate so far of each clip: the more often wrong, then by score.

    Args:
        clips: ``(B, 3, T, H, W)``, what is returned of a clip without a candidate.
        of_equals: which one is kept where scores are equal: the ``later`` one, which gets on where a loss is flat, or
            the ``earlier``.

    Attributes:
        clips: the candidates that were kept, ``(B, 3, T, H, W)``.
        score: their scores, ``float64 (B,)``; not-a-number where there is none.
        wrong: how often they were wrong, ``int64 (B,)``; for an attack that asks once, 0 or 1.
    """

    def __init__(self, clips: Tensor, of_equals: Literal["later", "earlier"] = "later") -> None:
        self.clips, self._later = clips.clone(), of_equals == "later"
        self.score = torch.full((len(clips),), float("nan"), dtype=torch.float64, device=clips.device)
        self.wrong = torch.zeros(len(clips), dtype=torch.int64, device=clips.device)

    def keep(self, candidates: Tensor, score: Tensor, wrong: Tensor, rows: Tensor | None = None) -> None:
        """Offers one candidate per clip.

        Args:
            candidates: ``(b, 3, T, H, W)``.
            score: ``(b,)``, larger is better.
            wrong: ``(b,)``, whether it is misclassified, or how often it was.
            rows: ``(b,)``, which clips of the batch they belong to; all, if not given.
        """
        rows = torch.arange(len(self.clips), device=score.device) if rows is None else rows.to(score.device)
        score, wrong = score.double(), wrong.to(score.device).long()
        known, was = self.score[rows], self.wrong[rows]
        least = known.nan_to_num(nan=float("-inf"))
        higher = (score >= known) | known.isnan() if self._later else score > least
        better = (wrong > was) | ((wrong == was) & higher)
        self.clips[rows[better]], self.score[rows[better]] = candidates[better], score[better]
        self.wrong[rows] = torch.maximum(was, wrong)

    def join(self, other: Best, rows: Tensor) -> None:
        """Offers what another search has kept of some clips ``(b,)``."""
        rows = rows.to(self.score.device)
        self.keep(other.clips[rows], other.score[rows], other.wrong[rows], rows)
