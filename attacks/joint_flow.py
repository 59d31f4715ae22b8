"""An attack on recognition and optical flow at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench import BenchError, PenalisedAttack, Slope, register
from bench.flow.base import endpoint_error
from bench.flow.estimators import flow_files, load_flow


@register(
    "joint_flow",
    source="Jiang et al., VideoPure: Diffusion-based Adversarial Purification for Video Recognition, IEEE TCSVT 2025 "
    "(arXiv 2501.14999), Table VI (the idea; loss, weights and steps are ours)",
)
class JointFlow(PenalisedAttack):
    """PGD on ``cross-entropy + mu * end-point error``: the clip is to be misread, and its motion too.

    Meant for defences that purify along the optical flow. The paper reports such an attack without its loss, weights or
    steps; this definition is ours (``docs/decisions.md``). The error is the mean distance in pixels between the flow of
    the attacked clip and that of the clean one. In the paper's table the joint attack is weaker than plain PGD wherever
    the defence does not use flow, hence the sweep over ``mu``, which should hold 0: that run is PGD itself, start and
    trajectory.

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
        super().__init__(mus, loss, name="mus")
        self._flow = load_flow(flow, flow_weights or None) if any(self.lambdas) else None
        self.files = flow_files(flow) if self._flow is not None else ()

    def slope(self, clips: Tensor) -> Slope:
        if clips.shape[2] < 2:
            raise BenchError("A clip of one frame has no flow to attack: say mus=[0.0], or take pgd.")
        assert self._flow is not None  # without a weight there is no penalty
        flow = self._flow.to(clips.device)
        with torch.no_grad():
            clean = flow.clip_flow(clips.float())

        def nearer(x: Tensor, rows: Tensor) -> Tensor:
            """The error is to grow: the penalty is its negative."""
            with torch.enable_grad():
                leaf = x.detach().requires_grad_(True)
                error = endpoint_error(flow.clip_flow(leaf.float()), clean[rows]).mean((1, 2, 3))
                (pull,) = torch.autograd.grad(error.sum(), leaf)
            return -pull

        return nearer
