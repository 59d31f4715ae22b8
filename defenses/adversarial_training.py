"""Adversarial training: the classifier itself, with weights that have seen attacked clips."""

from __future__ import annotations

from torch import nn

from bench import TrainedDefense, register


@register(
    "adversarial_training",
    source="Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018; trades: Zhang et "
    "al., Theoretically Principled Trade-off between Robustness and Accuracy, ICML 2019; avg and max: Tramer and "
    "Boneh, Adversarial Training and Robustness for Multiple Perturbations, NeurIPS 2019; msd: Maini, Wong and Kolter, "
    "Adversarial Robustness Against the Union of Multiple Perturbation Models, ICML 2020",
)
class AdversarialTraining(TrainedDefense):
    """Weights trained on attacked clips, in the classifier's own network.

    Args:
        recipe: ``at_pgd``, ``at_roa``, ``at_af``, ``at_spa`` (one attack), ``trades``, or, on clean clips, PGD and ROA:
            ``avg`` (all), ``max`` (the worse of each clip), ``msd`` (the steepest at every step); ``avg_all4`` adds
            framing and salt and pepper.
        weights: a file, in place of the shipped weights.
    """

    def __init__(self, recipe: str = "at_pgd", weights: str = "") -> None:
        super().__init__(recipe, weights)

    def network(self, classifier: nn.Module) -> nn.Module:
        return classifier
