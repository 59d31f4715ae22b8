"""VideoPure: temporal DDIM inversion, spatial-temporal optimisation and a vote over the denoising steps."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bench import ClipRandom, at_least, register
from bench.defense.base import InTurn
from bench.diffusion.base import DiffusionBackbone
from bench.diffusion.purifier import DiffusionPurifier
from bench.diffusion.replay import replayed
from bench.diffusion.sampling import Trajectory, downward, invert_ddim, predict
from bench.diffusion.schedule import ddim_step, predict_clean
from bench.flow.base import splat, warp
from bench.flow.estimators import load_flow

# The logarithm of a variance of zero, as diffusers' schedulers clamp it.
_LEAST_VARIANCE = 1e-20


def latent_flow(flow: Tensor, height: int, width: int) -> Tensor:
    """Flow of clips at the resolution of latents, in their pixels: ``(B, 2, T-1, H, W)`` to ``(B, 2, T-1, h, w)``."""
    pairs = flow.transpose(1, 2)
    scale = flow.new_tensor([width / flow.shape[-1], height / flow.shape[-2]])
    small = F.interpolate(pairs.flatten(0, 1), size=(height, width), mode="bilinear", align_corners=False)
    return (small * scale[:, None, None]).unflatten(0, pairs.shape[:2]).transpose(1, 2)


def push_and_pull(
    estimate: Tensor, encoded: Tensor, flow: Tensor | None, spatial: float, temporal: float, *, detach: bool
) -> Tensor:
    """The gradient of VideoPure's objective with respect to the estimate, in closed form.

    The objective is ``spatial * MSE(estimate, encoded) - temporal * sum_i mean |warp(estimate_{i+1}) - estimate_i|``,
    which is maximised: the estimate moves *away* from the encoded clip, and each frame towards its neighbour's content.
    Its derivative is linear in the estimate but for a sign, so no automatic differentiation is needed.

    Args:
        estimate: of the clean latents, ``(B, C, T, h, w)``.
        encoded: latents of the clip as it came, same shape.
        flow: ``(B, 2, T-1, h, w)`` in pixels of the latents, see :func:`latent_flow`; not needed if ``temporal`` is 0.
        spatial, temporal: weights of the two losses, both of which are means over a clip and a frame.
        detach: holds the warped neighbour constant, so that only the earlier frame of a pair moves. Otherwise the
            later one is moved too, through the transpose of the warp.

    Returns:
        The shape of ``estimate``.
    """
    frame = estimate[0, :, 0].numel()
    gradient = 2 * spatial / (frame * estimate.shape[2]) * (estimate - encoded)
    if not temporal:
        return gradient
    assert flow is not None
    batch, count = estimate.shape[0], estimate.shape[2] - 1
    pairs = flow.transpose(1, 2).flatten(0, 1)
    with torch.no_grad():  # the sign's derivative is zero almost everywhere
        later = estimate[:, :, 1:].transpose(1, 2).flatten(0, 1)
        warped = warp(later, pairs).unflatten(0, (batch, count)).transpose(1, 2)
        sign = (warped - estimate[:, :, :-1]).sign() * (temporal / frame)
    gradient = gradient + F.pad(sign, (0, 0, 0, 0, 0, 1))
    if detach:
        return gradient
    back = splat(sign.transpose(1, 2).flatten(0, 1), pairs).unflatten(0, (batch, count)).transpose(1, 2)
    return gradient - F.pad(back, (0, 0, 0, 0, 1, 0))


def log_variance(backbone: DiffusionBackbone, t: int, before: int) -> float:
    """``sigma_t^2`` of the paper, which is a logarithm: that of a DDIM step's variance from ``t`` to ``before``."""
    level, after = backbone.level(t), float(backbone.alphas_cumprod[max(before, 0)])
    return math.log(max((1 - after) / (1 - level) * (1 - level / after), _LEAST_VARIANCE))


@register(
    "videopure",
    source="Jiang et al., VideoPure: Diffusion-based Adversarial Purification for Video Recognition, IEEE TCSVT 2025 "
    "(arXiv 2501.14999)",
)
class VideoPure(InTurn, DiffusionPurifier):
    """Temporal DDIM inversion, then denoising; every step's estimate of the clean clip, optimised, is a vote.

    Inversion gives the noise predicted for the first frame to all frames. At each denoising step one closed-form
    gradient step (:func:`push_and_pull`) pushes the estimate away from the encoded clip and pulls neighbouring frames
    together along the optical flow of the clip as it came. The trajectory itself goes on from the latent as it was.
    The estimates of all steps and the final latent are decoded and vote; the judge asks for them one by one, and makes
    no more of them than decide. Nothing is random.

    The defaults are the paper's setting, but for the backbone and the flow. Its ablations: ``share_first``,
    ``optimise`` and ``candidate=0`` for the three parts (Table IV), ``candidate`` (VII), ``carry`` (VIII),
    ``temporal`` and ``spatial`` (IX).

    Args:
        backbone: a diffusion backbone: ``pixel_tiny``, ``latent_tiny``, ``image_tiny`` (shipped), ``modelscope``,
            ``stable_diffusion`` or ``guided_diffusion``.
        t_star: timestep of 1000 up to which the clip is carried (the paper counts steps: its 6 is 101).
        steps: network calls each way, spaced evenly between 1 and ``t_star``.
        mode: ``as_published`` does what the authors' code does: for the last vote, the clean latent is moved by the
            step of the last timestep, with its noise, level and variance, and decoded; the warped neighbour is held
            constant, the variance is that of the whole stride, and RAFT is fed frames in [0, 1]. ``as_described``
            follows the paper with the evident slips corrected: the losses of the last vote are those of the clean
            latent itself (Algorithm 1, line 13), both frames of a pair move, the variance is that of a single timestep,
            and RAFT is fed frames in [-1, 1].
        share_first: temporal inversion; without it, each frame keeps its own noise.
        optimise: the gradient step on every estimate.
        candidate: classify this estimate alone instead of voting, counted as in the paper: ``steps`` is the first,
            1 the last, 0 the final latent.
        carry: the optimised latent replaces the trajectory's.
        spatial, temporal: weights of the two losses.
        guidance: size of the gradient step, the paper's ``-a_s``.
        vote: how the candidates decide: ``plurality`` of their classes, or the largest ``mean`` probability.
        flow: ``flow_tiny`` (shipped), ``raft_large`` or ``raft_small``.
        flow_weights: of RAFT, a file or the name of one of torchvision's; C_T_V1, the authors' choice, if empty.
        weights: of a published backbone, a hub name or a folder in diffusers' layout.
        precision: of a published backbone's weights: fp32, fp16 or bf16.
    """

    def __init__(
        self,
        backbone: str = "pixel_tiny",
        t_star: int = 101,
        steps: int = 6,
        mode: Literal["as_published", "as_described"] = "as_published",
        share_first: bool = True,
        optimise: bool = True,
        candidate: int | None = None,
        carry: bool = False,
        spatial: float = 800.0,
        temporal: float = 5.0,
        guidance: float = 4.0,
        vote: Literal["plurality", "mean"] = "plurality",
        flow: str = "flow_tiny",
        flow_weights: str = "",
        weights: str = "",
        precision: Literal["fp32", "fp16", "bf16"] = "fp32",
    ) -> None:
        if mode not in ("as_published", "as_described"):
            raise ValueError(f"mode must be as_published or as_described, not {mode!r}")
        if vote not in ("plurality", "mean"):
            raise ValueError(f"vote must be plurality or mean, not {vote!r}")
        if candidate is not None:
            at_least("candidate", candidate, 0, f" and at most {steps}, or null to vote")
            if candidate > steps:
                raise ValueError(f"candidate must be at most {steps}, the number of steps, not {candidate}")
        if min(spatial, temporal, guidance) < 0:
            raise ValueError("spatial, temporal and guidance must not be negative")
        super().__init__(backbone, t_star, steps, weights, precision)
        self.published = mode == "as_published"
        self.share_first, self.optimise, self.candidate, self.carry = share_first, optimise, candidate, carry
        self.spatial, self.temporal, self.guidance = spatial, temporal, guidance
        self.vote = vote
        # Only the temporal loss looks at the flow.
        needed = optimise and temporal > 0
        self.flow = load_flow(flow, flow_weights, updates=10, unit_range=self.published) if needed else None

    def purify_latents(
        self, latents: Tensor, clips: Tensor, times: Sequence[int], rng: ClipRandom, path: Trajectory | None = None
    ) -> list[Tensor]:
        found = list(self._estimates(latents, clips, times, path or Trajectory()))
        return found if self.candidate is None else [found[-1 - self._index(len(found) - 1)]]

    @property
    def voters(self) -> int:
        return len(self.times) + 1 if self.candidate is None else 1

    def in_turn(self, clips: Tensor, rng: ClipRandom) -> Iterator[Tensor]:
        latents = self.backbone.encode(clips)
        if self.candidate is None:
            return map(self.backbone.decode, self._estimates(latents, clips, self.times, Trajectory()))
        return map(self.backbone.decode, self.purify_latents(latents, clips, self.times, rng))

    def _estimates(
        self, latents: Tensor, clips: Tensor, times: Sequence[int], path: Trajectory
    ) -> Generator[Tensor, None, None]:
        """Optimised latents of each step on the way down, and the final ones, each made when it is asked for."""
        flow = self._flow(clips, latents)
        z = invert_ddim(self.backbone, latents, times, share_first=self.share_first, up=path.up)
        for t, target in downward(times):
            level = self.backbone.level(t)
            noise = predict(self.backbone, z, t)
            estimate = predict_clean(z, noise, level)
            # A step on the latent moves the estimate by 1 / sqrt(abar) as much, and the chain rule has that factor too.
            gain = self._size(t, target) / level
            moved = self._step(estimate, latents, flow, gain)
            yield moved
            if self.carry:
                z = z + math.sqrt(level) * (moved - estimate)
            z = ddim_step(z, noise, level, self.backbone.level(target))
            path.down[target] = z
        yield self._last(z, noise, latents, flow, times[-1])

    def _index(self, steps: int) -> int:
        """The candidate asked for; in the surrogate, which has fewer, the one at the same part of the way."""
        assert self.candidate is not None
        return round(self.candidate * steps / len(self.times))

    def _last(self, z: Tensor, noise: Tensor, latents: Tensor, flow: Tensor | None, t: int) -> Tensor:
        """The final latent, optimised: a seventh vote beside six."""
        if not self.optimise:
            return z
        if not self.published:
            return self._step(z, latents, flow, self._size(t, -1))
        # The last timestep's formula, noise and variance, although z has left that level: the losses are those of the
        # estimate that would belong to it, the gradient is with respect to the latent, and the moved latent is decoded.
        level = self.backbone.level(t)
        gradient = self._gradient(predict_clean(z, noise, level), latents, flow) / math.sqrt(level)
        return z + self._size(t, -1) * gradient

    def _size(self, t: int, target: int) -> float:
        """Length of the gradient step at a timestep: ``a_s sigma_t^2``, both of which are negative."""
        before = target if self.published else t - 1
        return self.guidance * -log_variance(self.backbone, t, before)

    def _gradient(self, estimate: Tensor, latents: Tensor, flow: Tensor | None) -> Tensor:
        temporal = self.temporal if flow is not None else 0.0
        return push_and_pull(estimate, latents, flow, self.spatial, temporal, detach=self.published)

    def _step(self, estimate: Tensor, latents: Tensor, flow: Tensor | None, gain: float) -> Tensor:
        return estimate + gain * self._gradient(estimate, latents, flow) if self.optimise else estimate

    def push(self, latents: Tensor) -> float:
        if not self.optimise:
            return 0.0
        gains = [self._size(t, target) / self.backbone.level(t) for t, target in downward(self.times)]
        gains.append(gains[-1])  # the final latent is moved by the last timestep's formula, or by one much like it
        asked = gains if self.candidate is None else [gains[-1 - self.candidate]]
        return 2 * self.spatial / latents[0].numel() * sum(asked) / len(asked)

    def _flow(self, clips: Tensor, latents: Tensor) -> Tensor | None:
        if self.flow is None or clips.shape[2] < 2:
            return None
        # With the warped neighbour held constant, flow only enters a sign, and no gradient passes.
        shown = clips.detach() if self.published else clips
        return latent_flow(replayed(self.flow.clip_flow, shown), *latents.shape[-2:])
