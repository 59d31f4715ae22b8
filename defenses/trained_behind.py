"""Weights trained behind an input transform, and the transform."""

from __future__ import annotations

from torch import nn

from bench import Behind, TrainedDefense, register, transform_of


@register(
    "trained_behind",
    source="Lo and Patel, Error Diffusion Halftoning Against Adversarial Examples, ICIP 2021",
)
class TrainedBehind(TrainedDefense):
    """The classifier's own network, trained on attacked clips, which sees every clip through a transform.

    Attacks differentiate the transform where autograd passes and its stand-in elsewhere, so that their gradient is
    never masked.

    Args:
        transform: a defence that changes the clip and draws no random numbers, such as ``halftone`` or
            ``jpeg(quality=50)``.
        recipe: by which the network was trained; recipes such as ``at_pgd_halftone`` train behind one.
        weights: a file, in place of the shipped weights.
    """

    def __init__(self, transform: str = "halftone", recipe: str = "at_pgd", weights: str = "") -> None:
        super().__init__(recipe, weights)
        self.transform = transform_of(transform)

    def network(self, classifier: nn.Module) -> nn.Module:
        return classifier

    def wrap(self, classifier: nn.Module) -> nn.Module:
        return Behind(self.transform, super().wrap(classifier))
