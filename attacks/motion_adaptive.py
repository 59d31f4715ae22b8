"""Attacks that know the motion-consistency defence: they keep the flow's loss low, or the flow as it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from bench import BenchError, PenalisedAttack, Slope, at_least, register
from bench.flow.estimators import flow_files
from bench.flow.losses import MotionLoss, load_motion_flow
from bench.flow.pairs import clip_flow


@register(
    "motion_i",
    source="Zhang, Mao, Yang and Vondrick, Adversarially Robust Video Perception by Seeing Motion, arXiv 2212.07815, "
    "2022, Table 4, adaptive attack I",
)
class MotionI(PenalisedAttack):
    """Maximises ``cross-entropy - lambda * motion-consistency loss``: the defence is to find nothing to mend.

    The paper's gradient goes through the bare classifier, which is this attack without a gradient of the defence
    (``motion_i``); with one (``motion_i+bpda``) it is an attack that the paper does not have. Its strongest weight is
    300, with an unknown normalisation; our loss is a mean, and so the weights are swept (``docs/decisions.md``). For
    the defence with multiple constraints, give the same constraints here.

    Args:
        lambdas: weights of the defence's loss; each is a full run, and the worst for the classifier is kept.
        constraints, weights, similarity, smoothness, edge, distance: of the loss; see ``motion_consistency``, whose
            defaults they share.
        flow: the attacker's flow network, ``flow_tiny``, ``raft_large`` or ``raft_small``.
        flow_weights: of RAFT, as of the defence.
        updates: of RAFT.
        loss: in place of cross-entropy, ``margin`` or ``dlr``. Where the classifier is sure, cross-entropy is flat and
            the price drowns it: then take ``margin``.
        start: ``uniform`` in the ball, or ``clean``.
        keep: ``worst`` iterate, or the ``last`` one of a run that nothing stops, as the paper's protocol has it. On the
            bare classifier take ``last``: the worst by its loss is an early one, whose price has not come down yet.
        pairs_at_once: pairs of frames that are in memory together; 0 for all.
    """

    def __init__(
        self,
        lambdas: Sequence[float] = (0.0, 1.0, 10.0, 100.0, 300.0, 1000.0),
        constraints: Sequence[str] = ("forward",),
        weights: Sequence[float] = (),
        similarity: Literal["l1", "l2", "ssim"] = "l1",
        smoothness: float = 1.5,
        edge: float = 150.0,
        distance: int = 0,
        flow: str = "flow_tiny",
        flow_weights: str = "",
        updates: int = 2,
        loss: str = "ce",
        start: Literal["uniform", "clean"] = "uniform",
        keep: Literal["worst", "last"] = "worst",
        pairs_at_once: int = 0,
    ) -> None:
        super().__init__(lambdas, loss, start, keep)
        estimator, self.files = load_motion_flow(flow, flow_weights, updates), flow_files(flow)
        self.price = MotionLoss(
            estimator, constraints, weights, similarity, smoothness, edge, distance, pairs_at_once=pairs_at_once
        )

    def slope(self, clips: Tensor) -> Slope:
        self.price.to(clips.device)
        self.price.pairs(clips.shape[2])  # refuses clips that are too short before anything is spent
        return lambda x, rows: self.price.gradient(x.detach().float()).to(x.dtype)


@register(
    "motion_ii",
    source="Zhang, Mao, Yang and Vondrick, Adversarially Robust Video Perception by Seeing Motion, arXiv 2212.07815, "
    "2022, Table 4, adaptive attack II",
)
class MotionII(PenalisedAttack):
    """Maximises ``cross-entropy - lambda * change of the flow``: the clip is misread while it moves as before.

    The change is the mean absolute difference, over both directions, pixels and pairs of frames, between the flow of
    the attacked clip and that of the clean one, in pixels. The paper names neither norm nor scale, and 1e5 as the
    strongest weight; these, the clean flow without a gradient and RAFT's 2 updates are our choice
    (``docs/decisions.md``). The gradient through the classifier is as for ``motion_i``. Against a classifier that looks
    at nothing but flow, the attack is at odds with itself.

    Args:
        lambdas: weights of the change of the flow; each is a full run, and the worst for the classifier is kept.
        flow: the attacker's flow network, ``flow_tiny``, ``raft_large`` or ``raft_small``.
        flow_weights: of RAFT, as of the defence.
        updates: of RAFT, for the clean flow, too.
        loss: in place of cross-entropy, ``margin`` or ``dlr``. Where the classifier is sure, cross-entropy is flat and
            the price drowns it: then take ``margin``.
        start: ``uniform`` in the ball, or ``clean``.
        keep: ``worst`` iterate, or the ``last`` one of a run that nothing stops, as the paper's protocol has it. On the
            bare classifier take ``last``: the worst by its loss is an early one, whose price has not come down yet.
        pairs_at_once: pairs of frames that are in memory together; 0 for all.
    """

    def __init__(
        self,
        lambdas: Sequence[float] = (0.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6),
        flow: str = "flow_tiny",
        flow_weights: str = "",
        updates: int = 2,
        loss: str = "ce",
        start: Literal["uniform", "clean"] = "uniform",
        keep: Literal["worst", "last"] = "worst",
        pairs_at_once: int = 0,
    ) -> None:
        super().__init__(lambdas, loss, start, keep)
        at_least("pairs_at_once", pairs_at_once, 0)
        self.flow, self.pairs_at_once = load_motion_flow(flow, flow_weights, updates), pairs_at_once
        self.files = flow_files(flow)

    def slope(self, clips: Tensor) -> Slope:
        if clips.shape[2] < 2:
            raise BenchError("A clip of one frame has no flow to keep: say lambdas=[0.0], or take pgd.")
        self.flow.to(clips.device)
        # Clip by clip: a network's last digits depend on the batch, and a step takes a sign.
        with torch.no_grad():
            clean = torch.cat([self._flow(clip) for clip in clips.float().split(1)])

        def change(x: Tensor, rows: Tensor) -> Tensor:
            found = []
            with torch.enable_grad():
                for clip, row in zip(x.detach().float().split(1), rows.tolist(), strict=True):
                    leaf = clip.clone().requires_grad_(True)
                    distance = (self._flow(leaf) - clean[row]).abs().mean()
                    found += torch.autograd.grad(distance, leaf)
            return torch.cat(found).to(x.dtype)

        return change

    def _flow(self, clip: Tensor) -> Tensor:
        return clip_flow(self.flow, clip, self.pairs_at_once)
