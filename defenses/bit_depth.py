"""Bit-depth reduction."""

from __future__ import annotations

from torch import Tensor

from bench import ClipRandom, Purifier, register
from bench.defense.rounding import smoothed, with_value

# Standard deviation of the noise, in units of [0, 1]: how far a value can be brought, and a little more.
_SPREAD = 0.05


@register(
    "bit_depth",
    source="Xu, Evans and Qi, Feature Squeezing: Detecting Adversarial Examples in Deep Neural Networks, NDSS 2018",
)
class BitDepth(Purifier):
    """Rounds every value to the nearest of ``2^bits`` levels, 0 and 1 among them.

    There is no exact gradient (that of rounding is 0 or none). ``bpda`` is that of rounding averaged over normal noise:
    values near a threshold count most. Where steps only follow the gradient's sign it is as good as the identity; where
    they follow its size, as in l2 balls, it is stronger.

    Args:
        bits: 1 to 8 per channel. Feature squeezing uses 4 and 5 on colour pictures, 1 on digits; this benchmark looks
            at 1, 3 and 5.
    """

    differentiable = False

    def __init__(self, bits: int = 5) -> None:
        super().__init__()
        if not isinstance(bits, int) or not 1 <= bits <= 8:
            raise ValueError(f"bits must be a whole number, 1 to 8, not {bits}")
        self.bits = bits

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        steps = 2**self.bits - 1
        return (clips.detach().clamp(0, 1) * steps).round() / steps

    def bpda(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        steps = 2**self.bits - 1
        # From half a step on, the average is the identity to one per cent.
        smooth = smoothed(min(_SPREAD * steps, 0.5))(clips * steps) / steps
        return with_value(smooth, self.purify(clips, rng))
