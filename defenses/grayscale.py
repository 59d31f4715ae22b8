"""Grayscale."""

from __future__ import annotations

from torch import Tensor

from bench import ClipRandom, Filter, clip01, register


@register(
    "grayscale",
    source="Raff, Sylvester, Forsyth and McLean, Barrage of Random Transforms for Adversarially Robust Defense, CVPR "
    "2019, with the weights of ITU-R BT.601",
)
class Grayscale(Filter):
    """Gives all three channels the luma ``0.299 R + 0.587 G + 0.114 B``.

    The barrage draws the weights; those of BT.601, for every frame, are this benchmark's choice. It is linear, so its
    exact gradient exists, and ``bpda`` is exact, too.
    """

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        luma = 0.299 * clips[:, 0] + 0.587 * clips[:, 1] + 0.114 * clips[:, 2]
        return clip01(luma.unsqueeze(1).expand_as(clips))
