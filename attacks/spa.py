"""Salt-and-pepper attack: a few pixels of every frame are repainted."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from bench import Budget, ClipRandom, MaskedAttack, Run, region_of, register


@register(
    "spa",
    source="Lo and Patel, Defending Against Multiple and Unforeseen Adversarial Videos, IEEE TIP 2022, attack SPA",
)
class SaltAndPepper(MaskedAttack):
    """Iterative FGSM on a number of pixels in every frame, black before the first step.

    Lo and Patel take 100 pixels in frames of 112 x 112, at places drawn with replacement for each frame anew, and 5
    steps of 70/255, which from black reach 1.

    Args:
        location: ``random``, another draw for each of the budget's restarts, or ``gradient``: in each frame the pixels
            whose gradient at the clean clip has the largest squares, summed over the colours, which the paper does not
            have. Restarts after the first multiply each sum by a number drawn uniformly from ``[0, 1]``.
        loss: ``ce``, ``margin`` or ``dlr``.
        keep: ``worst`` iterate, or the ``last`` one, as in the published code.
    """

    norms = ("pixels",)

    def __init__(
        self,
        location: Literal["random", "gradient"] = "random",
        loss: str = "ce",
        keep: Literal["worst", "last"] = "worst",
    ) -> None:
        super().__init__(loss, keep)
        if location not in ("random", "gradient"):
            raise ValueError(f"location must be random or gradient, not {location!r}")
        self.location = location

    def passes(self, budget: Budget) -> tuple[int, int]:
        forwards, backwards = super().passes(budget)
        search = self.location == "gradient"
        return forwards + search, backwards + search

    def choose(self, run: Run, count: int) -> list[Tensor]:
        region, size = region_of(run.budget), run.budget.size
        if self.location == "random":
            return [region.random_masks(run.clips, size, run.rng) for _ in range(count)]
        gradient = run.target.gradient(run.clips, None, run.labels, self._loss).gradient
        peak = gradient.abs().flatten(1).amax(1).clamp_min(1e-30).view(-1, 1, 1, 1, 1)  # small ones vanish when squared
        worth = (gradient / peak).double().square().sum(1)
        shares = (run.rng.uniform(*worth.shape[1:], device=worth.device) for _ in range(count - 1))
        return [region.masks(w, size, run.clips) for w in (worth, *(share.double() * worth for share in shares))]

    def fill(self, clips: Tensor, budget: Budget, rng: ClipRandom) -> Tensor:
        return torch.zeros_like(clips)
