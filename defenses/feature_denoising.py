"""Feature denoising: non-local means on the features behind every stage."""

from __future__ import annotations

from typing import Literal

from torch import nn

from bench import TrainedDefense, register
from bench.models.robust import feature_denoising


@register(
    "feature_denoising",
    source="Xie et al., Feature Denoising for Improving Adversarial Robustness, CVPR 2019; ported to video by Lo, "
    "Valanarasu and Patel, Overcomplete Representations Against Adversarial Videos, ICIP 2021",
)
class FeatureDenoisingDefense(TrainedDefense):
    """A denoising block behind every stage of a 3D ResNet, trained with it on attacked clips.

    Args:
        variant: ``a`` (attention inside each frame), ``b`` (embeddings of their own for every frame) or ``spacetime``
            (attention over the whole clip, which neither port has).
        frames: of the clips; only variant ``b`` depends on it.
        recipe: by which it was trained; ``denoise_`` and the variant if not given.
        weights: a file, in place of the shipped weights.
    """

    def __init__(
        self, variant: Literal["a", "b", "spacetime"] = "a", frames: int = 16, recipe: str = "", weights: str = ""
    ) -> None:
        if variant not in ("a", "b", "spacetime"):
            raise ValueError(f"variant must be a, b or spacetime, not {variant!r}")
        super().__init__(recipe or f"denoise_{variant}", weights)
        self.variant, self.frames = variant, frames

    def network(self, classifier: nn.Module) -> nn.Module:
        return feature_denoising(classifier, 0, self.variant, self.frames)
