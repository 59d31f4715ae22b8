"""Gaussian noise: what a noising-and-denoising defence owes to the noise alone."""

from __future__ import annotations

from torch import Tensor

from bench import ClipRandom, Purifier, clip01, register


@register(
    "gaussian_noise",
    source="VideoRobustBench's own control; the randomised classifier that it makes: Cohen, Rosenfeld and Kolter, "
    "Certified Adversarial Robustness via Randomized Smoothing, ICML 2019",
)
class GaussianNoise(Purifier):
    """Adds Gaussian noise to every value and classifies once.

    Args:
        sigma: standard deviation of the noise, in units of ``[0, 1]``.
    """

    stochastic = True

    def __init__(self, sigma: float = 0.06) -> None:
        super().__init__()
        if not sigma > 0:
            raise ValueError(f"sigma must be positive, not {sigma}")
        self.sigma = sigma

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return clip01(clips + self.sigma * rng.normal(*clips.shape[1:], device=clips.device))
