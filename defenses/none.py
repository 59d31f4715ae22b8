"""No defence: the baseline row of every table."""

from __future__ import annotations

from torch import Tensor

from bench import ClipRandom, Purifier, register


@register(
    "none",
    source="VideoRobustBench's own: the undefended row of every table, called None in Jiang et al., VideoPure: "
    "Diffusion-based Adversarial Purification for Video Recognition, IEEE TCSVT 2025",
)
class NoDefense(Purifier):
    """The bare classifier: every clip comes back as it went in."""

    identity = True

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return clips

    def surrogate(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return clips  # nothing is cheaper
