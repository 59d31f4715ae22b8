"""Motion consistency: the clip is changed at test time until its frames agree along its own optical flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from bench import ClipRandom, Purifier, at_least, clip01, parse_size, register
from bench.flow.losses import MotionLoss, load_motion_flow
from bench.flow.pairs import with_updates


@register(
    "motion_consistency",
    source="Zhang, Mao, Yang and Vondrick, Adversarially Robust Video Perception by Seeing Motion, arXiv 2212.07815, "
    "2022; smoothness: Jonschkowski et al., What Matters in Unsupervised Optical Flow, ECCV 2020",
)
class MotionConsistency(Purifier):
    """Sign steps on the clip that lower the photometric error along its own optical flow, inside a ball.

    An attack on a clip breaks the agreement of its frames; this mends it, without touching the classifier:
    ``x <- clip01(project(x - step_size * sign(gradient)))``, from the clip as it came, around which the ball lies. The
    flow is estimated anew at every step, and the gradient goes through it, through the warp and to both frames. The
    classifier, one of optical flow or any other, gets the mended RGB clip. Nothing is random.

    Where the paper is silent, the choice is ours (``docs/decisions.md``): the loss is a mean throughout
    (:class:`bench.flow.losses.MotionLoss`), pixels that leave the frame do not count, the smoothness acts at full
    resolution on forward flow with an edge weight of 150, and steps are clamped to ``[0, 1]``. The smoothness is to be
    a tenth of the photometric loss on clean clips; :meth:`bench.flow.losses.MotionLoss.balanced` finds the weight that
    makes it so, and the default is near what it finds for the shipped flow network on actions12. The paper's multiple
    constraints are ``constraints=('forward', 'backward', 'long')``.

    Gradients:

    - ``exact``. The derivative of a sign is zero, so with ``step: sign`` what is left of the derivative are the
      identity and the clamps: a value that the clip's range cut off, and the ball has not moved since, has gradient 0,
      every other 1. This is exact, through all steps, costs nothing, and says nothing of how the defence responds: it
      is ``bpda`` with holes. It is no proof of robustness to survive it.
    - ``bpda``: the identity through all steps, which is the paper's adaptive attack III.
    - ``surrogate``: the last ``unroll`` steps are taken with ``tanh`` in place of the sign and differentiated as they
      are, second derivatives of the loss, the warp and the flow network included; the steps before them as in
      ``exact``. Each is computed again on the way back: memory grows by a few clips with ``unroll``, and not with
      ``steps``. With ``step: tanh`` the defence itself takes such steps, and this is its ``exact`` gradient, the whole
      one where ``unroll`` is ``steps``. It is the true derivative of smooth steps and a poor guide all the same: on the
      shipped flow stream ``bpda`` breaks clips that it hardly moves (``docs/motion.md``).

    Args:
        steps: number of steps; with 0 the clip is left as it is.
        step_size: of a step, in units of ``[0, 1]``, a number or a fraction such as ``2/255``.
        bound: largest change of any value, likewise.
        constraints: ``forward`` (the paper's single constraint), ``backward``, ``long``, or several of them.
        weights: of the constraints, in their order; 1 each if empty, as in the paper.
        similarity: ``l1``, ``l2`` or ``ssim``.
        smoothness: weight of the smoothness of the forward flow, in pixels. It belongs to the flow network and the
            clips: for real video set ``flow`` and find a weight as ``docs/motion.md`` says.
        edge: how fast an edge of the image frees the flow.
        distance: of the ``long`` constraint, in frames; 0 for half the clip.
        flow: ``flow_tiny`` (shipped), ``raft_large`` or ``raft_small``.
        flow_weights: of RAFT, a file or the name of one of torchvision's; if empty ``C_T_SKHT_V1`` of ``raft_large``,
            the paper's Sintel weights, and ``C_T_V1`` of ``raft_small``, which has none.
        updates: of RAFT, where a gradient is needed. The paper takes 2, as the gradient through 12 is a poor guide.
        final_updates: of RAFT, where :meth:`measure` is asked. A classifier of flow has a setting of its own.
        unroll: number of last steps that are differentiated.
        step: ``sign``, or ``tanh`` of the gradient in units of ``temperature`` times its mean size.
        temperature: of ``tanh``.
        pairs_at_once: pairs of frames that are in memory together; 0 for all.
    """

    def __init__(
        self,
        steps: int = 20,
        step_size: float | str = 2 / 255,
        bound: float | str = 12 / 255,
        constraints: Sequence[str] = ("forward",),
        weights: Sequence[float] = (),
        similarity: Literal["l1", "l2", "ssim"] = "l1",
        smoothness: float = 1.5,
        edge: float = 150.0,
        distance: int = 0,
        flow: str = "flow_tiny",
        flow_weights: str = "",
        updates: int = 2,
        final_updates: int = 12,
        unroll: int = 3,
        step: Literal["sign", "tanh"] = "sign",
        temperature: float = 0.3,
        pairs_at_once: int = 0,
    ) -> None:
        super().__init__()
        at_least("steps", steps, 0)
        at_least("unroll", unroll, 1)
        at_least("updates", updates, 1)
        at_least("final_updates", final_updates, 1)
        if step not in ("sign", "tanh"):
            raise ValueError(f"step must be sign or tanh, not {step!r}")
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, not {temperature!r}")
        self.steps, self.unroll, self.step, self.temperature = steps, unroll, step, temperature
        self.step_size, self.bound = parse_size(step_size), parse_size(bound)
        estimator = load_motion_flow(flow, flow_weights, updates)
        settings: dict[str, Any] = {
            "constraints": constraints,
            "weights": weights,
            "similarity": similarity,
            "smooth": smoothness,
            "edge": edge,
            "distance": distance,
            "pairs_at_once": pairs_at_once,
        }
        self.loss = MotionLoss(estimator, **settings)
        self.final_loss = MotionLoss(with_updates(estimator, final_updates), **settings)

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        tracked = torch.is_grad_enabled() and clips.requires_grad
        return self._descend(clips, self.unroll if tracked and self.step == "tanh" else 0)

    def surrogate(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        """The same descent with smooth last steps, differentiated."""
        return self._descend(clips, self.unroll)

    @torch.no_grad()
    def measure(self, clips: Tensor) -> Tensor:
        """The loss of each clip, ``(B,)``. An attack raises it, so this is a detector too.

        Args:
            clips: ``(B, 3, T, H, W)`` in ``[0, 1]``.

        Raises:
            BenchError: the input is not a batch of RGB clips, or the clips are too short.
        """
        return self.final_loss(clips)

    def _descend(self, clips: Tensor, smooth: int) -> Tensor:
        """All steps; through the last ``smooth`` ones the gradient is that of ``tanh`` steps."""
        smooth = min(smooth, self.steps)
        x, passes = clips.detach(), torch.ones_like(clips, dtype=torch.bool)
        for _ in range(self.steps - smooth):
            with torch.no_grad():
                moved = self._move(x, self.step)
                inside = self._within(moved, clips)
                # Where the ball stops a value it goes with the clip, as the start did; where the range does, it stays.
                passes = ((moved != inside) | passes) & (inside >= 0) & (inside <= 1)
                x = inside.clamp(0, 1)
        if torch.is_grad_enabled() and clips.requires_grad:
            x = x + (clips - clips.detach()) * passes
        for _ in range(smooth):
            x = clip01(self._within(self._move(x, "tanh"), clips))
        return x

    def _move(self, x: Tensor, how: str) -> Tensor:
        gradient = self.loss.gradient(x)
        if how == "sign":
            return x - self.step_size * gradient.sign()
        # Times the number of values: of the order of 1, whatever the size of the clip.
        gradient = gradient * x[0].numel()
        size = gradient.abs().mean((1, 2, 3, 4), keepdim=True).clamp_min(1e-4)
        return x - self.step_size * (gradient / (self.temperature * size)).tanh()

    def _within(self, x: Tensor, clips: Tensor) -> Tensor:
        return x.clamp(clips - self.bound, clips + self.bound)
