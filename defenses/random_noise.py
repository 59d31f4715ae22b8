"""Random noise in the ball of a defence: what an optimised change owes to its being a change."""

from __future__ import annotations

from torch import Tensor

from bench import ClipRandom, Purifier, clip01, parse_size, register


@register(
    "random_noise",
    source="Zhang, Mao, Yang and Vondrick, Adversarially Robust Video Perception by Seeing Motion, arXiv 2212.07815, "
    "2022, column Random of Tables 1 and 2",
)
class RandomNoise(Purifier):
    """Adds noise, uniform within the bound of the motion-consistency defence, and classifies once.

    One draw per clip, clamped to ``[0, 1]``.

    Args:
        bound: largest change of any value, in units of ``[0, 1]``, a number or a fraction such as ``12/255``.
    """

    stochastic = True

    def __init__(self, bound: float | str = 12 / 255) -> None:
        super().__init__()
        self.bound = parse_size(bound)

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        noise = rng.uniform(*clips.shape[1:], device=clips.device).to(clips.dtype)
        return clip01(clips + self.bound * (2 * noise - 1))
