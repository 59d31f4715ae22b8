"""OUDefend: features are restored by an overcomplete and an undercomplete branch."""

from __future__ import annotations

from torch import nn

from bench import TrainedDefense, register
from bench.models.robust import oudefend


@register(
    "oudefend",
    source="Lo, Valanarasu and Patel, Overcomplete Representations Against Adversarial Videos, ICIP 2021",
)
class OUDefendDefense(TrainedDefense):
    """A restoration block behind one stage of a 3D ResNet, trained with it on attacked clips.

    Args:
        after: the stage; the third in the paper.
        base_width: channels inside the block; 8 in the published code, while the paper's size would need 15.
        recipe: by which it was trained.
        weights: a file, in place of the shipped weights.
    """

    def __init__(self, after: str = "layer3", base_width: int = 8, recipe: str = "oudefend", weights: str = "") -> None:
        super().__init__(recipe, weights)
        self.after, self.base_width = after, base_width

    def network(self, classifier: nn.Module) -> nn.Module:
        return oudefend(classifier, 0, self.after, self.base_width)
