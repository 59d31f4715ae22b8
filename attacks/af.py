"""Adversarial framing: the border of every frame is repainted."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from bench import Budget, ClipRandom, MaskedAttack, Run, region_of, register


@register(
    "af",
    source="Lo and Patel, Defending Against Multiple and Unforeseen Adversarial Videos, IEEE TIP 2022; the idea: Zajac "
    "et al., Adversarial Framing for Image and Video Classification, AAAI 2019",
)
class AdversarialFraming(MaskedAttack):
    """Iterative FGSM on a border inside the frames, another for every clip and every frame.

    Lo and Patel take a width of 10 in frames of 112 x 112 (a third of the area), 5 steps of 70/255. Their code runs the
    first pass with noise all over the frame, or never masks at all; here the border is masked before the first pass,
    and starts from the pixels that are there, which is our choice (``docs/decisions.md``). The outer framing of the
    original attack, one for all clips, is ``af_universal``.

    Args:
        start: ``original`` pixels, ``grey`` (0.5) or ``random`` ones, uniform in ``[0, 1]``, another draw for each
            restart.
        loss: ``ce``, ``margin`` or ``dlr``.
        keep: ``worst`` iterate, or the ``last`` one, as in the published code.
    """

    norms = ("border",)

    def __init__(
        self,
        start: Literal["original", "grey", "random"] = "original",
        loss: str = "ce",
        keep: Literal["worst", "last"] = "worst",
    ) -> None:
        super().__init__(loss, keep)
        if start not in ("original", "grey", "random"):
            raise ValueError(f"start must be original, grey or random, not {start!r}")
        self.painted = start

    def choose(self, run: Run, count: int) -> list[Tensor]:
        return [region_of(run.budget).random_masks(run.clips, run.budget.size, run.rng)] * count

    def fill(self, clips: Tensor, budget: Budget, rng: ClipRandom) -> Tensor:
        if self.painted == "random":
            return rng.uniform(*clips.shape[1:], device=clips.device)
        return torch.full_like(clips, 0.5) if self.painted == "grey" else clips
