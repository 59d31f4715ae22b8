"""An attack on recognition and optical flow at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from bench import AttackResult, BenchError, Budget, ClipRandom, GradientAttack, Target, register
from bench.attack import Objective
from bench.flow.base import FlowEstimator, endpoint_error
from bench.flow.estimators import load_flow


@register("joint_flow", source="Jiang et al., IEEE TCSVT 2025, Table VI (the idea; loss, weights and steps are ours)")
class JointFlow(GradientAttack):
    """PGD on ``cross-entropy + mu * end-point error``: the clip is to be misread, and its motion too.

    Meant for defences that purify along the optical flow. The paper reports such an attack without its loss, weights or
    steps; this is the definition that our fact sheet suggests (``purification.md``, section 11.6). The error is the
    mean distance in pixels between the flow of the attacked clip and that of the clean one. In the paper's table the
    joint attack is weaker than plain PGD wherever the defence does not use flow, hence the sweep over ``mu``, which
    should hold 0: that run is PGD itself, start and trajectory.

    Each ``mu`` is a full run with the steps and restarts of the budget, on the clips that are not broken yet; the runs
    are restarts of one attack, in the order given. Runs are compared, and traced, by their cross-entropy alone, because
    success is misclassification and nothing else; so clips made for transfer are mostly those of the smallest weight,
    and to see what a larger one does, give it alone. Passes of the flow network are not passes of the classifier and
    are not counted; with ``mu > 0`` a step costs one forward and one backward of them.

    Args:
        mus: weights of the end-point error.
        flow: the attacker's flow network, ``flow_tiny``, ``raft_large`` or ``raft_small``.
        flow_weights: of RAFT, a file or the name of torchvision's weights; its default if empty.
        loss: in place of cross-entropy, ``margin`` or ``dlr``.
    """

    def __init__(
        self,
        mus: Sequence[float] = (0.0, 0.1, 1.0),
        flow: str = "flow_tiny",
        flow_weights: str = "",
        loss: str = "ce",
    ) -> None:
        super().__init__(loss)
        if not isinstance(mus, list | tuple) or not mus:
            raise ValueError(f"mus must be a list of weights, not {mus!r}")
        for mu in mus:
            if isinstance(mu, bool) or not isinstance(mu, int | float) or not 0 <= mu < math.inf:
                raise ValueError(f"mus must be numbers that are not negative, not {mu!r}")
        self.mus, self._loss_name = tuple(mus), loss
        self._flow = load_flow(flow, flow_weights or None) if any(self.mus) else None

    def passes(self, budget: Budget) -> tuple[int, int]:
        return super().passes(self._all_runs(budget))

    def run(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> AttackResult:
        if self._flow is not None and clips.shape[2] < 2:
            raise BenchError("A clip of one frame has no flow to attack: say mus=[0.0], or take pgd.")
        weights = [mu for mu in self.mus for _ in range(budget.restarts)]
        climb = _Climb(weights, self._flow, clips, self._loss_name)
        return climb.run(target, clips, labels, self._all_runs(budget), rng)

    def _all_runs(self, budget: Budget) -> Budget:
        return replace(budget, restarts=budget.restarts * len(self.mus))


class _Climb(GradientAttack):
    """One run through all weights: knows the clean flow, and the weight of each start."""

    def __init__(self, weights: Sequence[float], flow: FlowEstimator | None, clips: Tensor, loss: str) -> None:
        super().__init__(loss)
        self._weights, self._mu = iter(weights), 0.0
        self._flow = flow
        if flow is not None:
            flow.to(clips.device)
            with torch.no_grad():
                self._clean = flow.clip_flow(clips.float())

    def start(self, clips: Tensor, budget: Budget, rng: ClipRandom) -> Tensor:
        self._mu = next(self._weights)
        return budget.geometry.random_start(clips, budget.size, rng)

    def ascent(
        self, target: Target, clips: Tensor, rows: Tensor, aim: Tensor, objective: Objective, rng: ClipRandom
    ) -> tuple[Tensor, Tensor]:
        value, gradient = super().ascent(target, clips, rows, aim, objective, rng)
        if self._flow is None or self._mu == 0:
            return value, gradient
        with torch.enable_grad():
            x = clips.detach().requires_grad_(True)
            error = endpoint_error(self._flow.clip_flow(x.float()), self._clean[rows]).mean((1, 2, 3))
            (pull,) = torch.autograd.grad(error.sum(), x)
        return value, gradient + self._mu * pull
