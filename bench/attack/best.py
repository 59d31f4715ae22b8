"""The strongest candidate seen so far of each clip."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from bench.attack.survivors import fetch, upload


class Best:
    """The strongest candidate so far of each clip: the more often wrong, then by score.

    Args:
        clips: ``(B, 3, T, H, W)``, what is returned of a clip without a candidate.
        of_equals: which one is kept where scores are equal: the ``later`` one, which gets on where a loss is flat, or
            the ``earlier``.

    Attributes:
        clips: the candidates that were kept, ``(B, 3, T, H, W)``.
        score: their scores, ``float64 (B,)``, on the CPU; not-a-number where there is none.
        wrong: how often they were wrong, ``int64 (B,)``, on the CPU; for an attack that asks once, 0 or 1.
    """

    def __init__(self, clips: Tensor, of_equals: Literal["later", "earlier"] = "later") -> None:
        self.clips, self._later = clips.clone(), of_equals == "later"
        self.score = torch.full((len(clips),), float("nan"), dtype=torch.float64)
        self.wrong = torch.zeros(len(clips), dtype=torch.int64)

    def keep(self, candidates: Tensor, score: Tensor, wrong: Tensor, rows: Tensor | None = None) -> None:
        """Offers one candidate per clip. Only those that are kept are copied.

        Args:
            candidates: ``(b, 3, T, H, W)``.
            score: ``(b,)``, larger is better. On the CPU it costs no transfer, see :func:`fetch`; so of ``wrong``.
            wrong: ``(b,)``, whether it is misclassified, or how often it was.
            rows: ``(b,)``, which clips of the batch they belong to; all, if not given.
        """
        rows = torch.arange(len(self.clips)) if rows is None else rows.cpu()
        score, wrong = fetch(score, wrong)
        wrong = wrong.long()
        known, was = self.score[rows], self.wrong[rows]
        least = known.nan_to_num(nan=float("-inf"))
        higher = (score >= known) | known.isnan() if self._later else score > least
        better = (wrong > was) | ((wrong == was) & higher)
        self.wrong[rows] = torch.maximum(was, wrong)
        chosen = better.nonzero()[:, 0]
        if not len(chosen):
            return
        self.score[rows[chosen]] = score[chosen]
        if len(chosen) == len(self.clips) and bool((rows == torch.arange(len(rows))).all()):
            self.clips.copy_(candidates)
        else:
            self.clips[upload(rows[chosen], self.clips)] = candidates[upload(chosen, candidates)]

    def join(self, other: Best, rows: Tensor) -> None:
        """Offers what another search has kept of some clips ``(b,)``."""
        rows = rows.cpu()
        self.keep(other.clips[upload(rows, other.clips)], other.score[rows], other.wrong[rows], rows)
