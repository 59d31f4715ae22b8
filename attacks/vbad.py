"""V-BAD: a tentative perturbation is turned uphill, patch by patch, by queries alone."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from bench import (
    BenchError,
    Budget,
    ClipRandom,
    Run,
    SampledAttack,
    Spec,
    Subspace,
    Survivors,
    at_least,
    cross_entropy,
    register,
)
from bench.weights.zoo import build_classifier, zoo_file


@register(
    "vbad",
    source="Jiang, Ma, Chen, Bailey and Jiang, Black-box Adversarial Attacks on Video Recognition Models, ACM MM 2019",
)
class VBAD(SampledAttack):
    """Guesses a sign for every value, and asks which patches of them lead uphill and which downhill.

    Each round takes a tentative perturbation, the signs of another network's gradient at the iterate, and cuts every
    frame of it into ``split`` by ``split`` patches. Natural evolution strategies estimate in pairs of queries how the
    loss changes with the weight of each patch (:class:`SampledAttack`); the tentative perturbation is rectified by the
    signs of those weights, and the clip takes a step along it. There are as many unknowns as patches, not as values.

    As published: the uniform start, 8 by 8 patches in every frame, 48 queries for an estimate at ``sigma`` 1e-3, ranks
    as weights, and first steps of a fifth of the budget, which are halved down to a fiftieth. The paper's loss is the
    probability of the true class (``ce``), which a confident classifier rounds to 1 wherever it is asked; the default
    is the margin. The image networks that the paper transfers from are not shipped: here it is another classifier's
    cross-entropy, or no network at all. The released code halves the step whenever the loss *has* risen over 20 looks,
    ours when it has not. The paper's targeted attack starts from a clip of the class to reach and draws nearer to the
    clean one, which ends in no given budget; here it starts like the untargeted one, in the budget, and stays there.
    ``docs/decisions.md`` has the list.

    Passes of the other network are not passes of the classifier and are not counted: one forward and one backward in a
    round. It must not be the classifier under attack, or the attack is no longer black-box.

    Args:
        queries: forward passes of a start, see :class:`SampledAttack`.
        tentative: ``flat``, the same sign for all values, so that each patch becomes lighter or darker; ``random``, a
            sign drawn for every value in every round; or a registered classifier whose shipped weights are transferred
            from.
        dataset: that its weights belong to.
        split: patches along each side of a frame, at most one per pixel.
        samples: queries for an estimate.
        sigma: how far they lie from the iterate, in intensity units.
        loss: ``ce``, ``margin`` or ``dlr``.
        target: nothing, ``runner_up`` or ``least_likely``: the class to reach.
        ranked: whether ranks weigh the queries, or the losses themselves.
    """

    strides = (1 / 5, 1 / 50)

    def __init__(
        self,
        queries: int = 5000,
        tentative: str = "flat",
        dataset: str = "actions12",
        split: int = 8,
        samples: int = 48,
        sigma: float = 1e-3,
        loss: str = "margin",
        target: Literal["runner_up", "least_likely"] | None = None,
        ranked: bool = True,
    ) -> None:
        super().__init__(queries, samples, sigma, loss, target, ranked)
        at_least("split", split, 1)
        self.tentative, self.split = tentative, split
        self._network: nn.Module | None = None
        if tentative not in ("random", "flat"):
            weights = zoo_file(tentative, dataset)
            if weights is None:
                raise BenchError(
                    f"No weights of {tentative} are shipped for {dataset}: transfer from another classifier (see bench "
                    "list weights), or say tentative='random' or 'flat'."
                )
            self.files = (weights,)
            self._network = build_classifier(Spec(tentative), weights)

    def start(self, clips: Tensor, budget: Budget, rng: ClipRandom) -> Tensor:
        return budget.geometry.random_start(clips, budget.size, rng)

    def subspace(self, run: Run, iterates: Tensor, left: Survivors, aim: Tensor) -> Subspace:
        frames, height, width = iterates.shape[2:]
        cells = (1, frames, min(self.split, height), min(self.split, width))
        return Subspace(self._tentative(iterates, left, aim), cells)

    def _tentative(self, iterates: Tensor, left: Survivors, aim: Tensor) -> Tensor:
        """The signs that are to be rectified, ``(b, 3, T, H, W)``."""
        if self.tentative == "flat":
            return torch.ones_like(iterates)
        if self._network is None:
            draws = left.rng.uniform(*iterates.shape[1:], device=iterates.device)
            return torch.where(draws < 0.5, -1.0, 1.0).to(iterates)
        network = self._network.to(iterates.device)
        with torch.enable_grad():
            x = iterates.detach().float().requires_grad_(True)
            logits = network(x)
            if int(aim.max()) >= logits.shape[1]:
                raise BenchError(
                    f"{self.tentative} knows {logits.shape[1]} classes, too few to transfer from: class "
                    f"{int(aim.max())} is asked for. Give a classifier of the same data set."
                )
            (gradient,) = torch.autograd.grad(cross_entropy(logits, aim).sum(), x)
        return gradient.sign().to(iterates)
