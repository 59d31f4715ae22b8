"""No defence: the baseline row of every table."""

from __future__ import annotations

from torch import Tensor

from bench import ClipRandom, Purifier, register


@register("none")
class NoDefense(Purifier):
    """The bare classifier: every clip comes back as it went in."""

    identity = True

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return clips

    def surrogate(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return clips  # nothing is cheaper
