"""MultiBN: a branch of batch normalisations for every kind of perturbation."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from bench import TrainedDefense, register
from bench.models.multibn import from_published
from bench.models.robust import multibn


@register("multibn", source="Lo and Patel, Defending Against Multiple and Unforeseen Adversarial Videos, IEEE TIP 2022")
class MultiBNDefense(TrainedDefense):
    """Shared convolutions, a clean, an Lp and a physical branch, and a module that weighs them for each clip.

    Files in the published layout (``bn1``, ``bn1_b``, ``bn1_c``) are read for ``selector: none``.

    Args:
        select: ``soft``, by the selection module; or the one branch that every clip gets, ``clean``, ``lp`` or
            ``physical``. Told the true attack, the branches make the paper's oracle "MultiBN-manual".
        selector: registered model of the selection module; the paper's is a 3D ResNet-18 (``r3d18_hara``).
        shortcuts: whether normalisations in shortcuts have branches too; not so in the published code.
        recipe: by which it was trained.
        weights: a file, in place of the shipped weights.
    """

    def __init__(
        self,
        select: Literal["soft", "clean", "lp", "physical"] = "soft",
        selector: str = "resnet3d_tiny",
        shortcuts: bool = False,
        recipe: str = "multibn",
        weights: str = "",
    ) -> None:
        super().__init__(recipe, weights)
        self.select, self.selector, self.shortcuts = select, selector, shortcuts

    def translated(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The published layout of a classifier with branches is known by its ``bn1_b``; it has no selection module."""
        if not any("_b.running_mean" in name for name in state):
            return state
        return {f"classifier.{name}": value for name, value in from_published(state).items()}

    def network(self, classifier: nn.Module) -> nn.Module:
        return multibn(classifier, 0, self.selector, self.shortcuts, self.select)
