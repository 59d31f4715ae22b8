"""OUDefend: features are restored by an overcomplete and an undercomplete branch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from bench import TrainedDefense, register
from bench.models.robust import oudefend


@register(
    "oudefend",
    source="Lo, Valanarasu and Patel, Overcomplete Representations Against Adversarial Videos, ICIP 2021",
)
class OUDefendDefense(TrainedDefense):
    """Restoration blocks behind stages of a 3D ResNet, trained with it on attacked clips.

    Args:
        stages: numbers of the stages, from 1; all of them if empty, as on the slides. The paper and its code have one
            block, behind the third stage (conv4): ``[3]``, as the shipped weights do.
        base_width: channels inside the block; 8 in the published code, while the paper's size would need 15.
        recipe: by which it was trained.
        weights: a file, in place of the shipped weights.
    """

    def __init__(
        self, stages: Sequence[int] = (), base_width: int = 8, recipe: str = "oudefend", weights: str = ""
    ) -> None:
        super().__init__(recipe, weights)
        self.stages, self.base_width = tuple(stages), base_width

    def network(self, classifier: nn.Module) -> nn.Module:
        return oudefend(classifier, 0, self.stages, self.base_width)
