"""Training the tiny flow network on the analytic flow of the embedded clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.data.base import ClipRef, Dataset
from bench.data.procedural import RECIPES, render
from bench.errors import BenchError, nearest
from bench.flow.base import endpoint_error
from bench.flow.estimators import ESTIMATORS
from bench.flow.tiny import TinyFlow
from bench.training.objective import Objective
from bench.training.objectives.mixture import rendered_mixed


class FlowSupervision(Objective):
    """End-point error against the analytic flow, at every level of the network.

    Attributes:
        pairs: neighbouring frames drawn from each clip of a batch.
        noise: largest standard deviation of the noise that is added to the frames: flow must also be found in clips
            that have been attacked or purified.
    """

    kind = "flow"
    pairs: ClassVar[int] = 6
    noise: ClassVar[float] = 0.012

    def build(self, model: str, dataset: str, seed: int = 0) -> nn.Module:
        if model not in ESTIMATORS:
            raise BenchError(f"Recipe flow trains {', '.join(ESTIMATORS)}, not {model!r}{nearest(model, ESTIMATORS)}.")
        return ESTIMATORS[model]().train()

    def batch(self, data: Dataset, refs: Sequence[ClipRef]) -> tuple[Tensor, ...]:
        rendered = rendered_mixed(data, refs)
        return torch.stack([r.clip for r in rendered]), torch.stack([r.flow for r in rendered])

    def loss(
        self, network: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, float]]:
        net = cast(TinyFlow, network)
        clips, flow = batch
        first, second, truth = self._pairs(clips, flow, generator)
        amount = self.noise * float(torch.rand((), generator=generator))
        first, second = (f + amount * torch.randn(f.shape, generator=generator).to(f.device) for f in (first, second))
        estimates = net.levels(net.features(first), net.features(second))
        # The coarser estimates only steer the start; each is compared in pixels of the full frame.
        loss = torch.zeros((), device=truth.device)
        for estimate, weight in zip(estimates, (0.1, 0.3, 0.5, 1.0), strict=True):
            scale = truth.shape[-1] // estimate.shape[-1]
            loss = loss + weight * endpoint_error(scale * estimate, F.avg_pool2d(truth, scale)).mean()
        error = endpoint_error(estimates[-1].detach(), truth)
        return loss, {"epe": float(error.mean()), "zero": float(truth.norm(dim=1).mean())}

    def _pairs(self, clips: Tensor, flow: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draws frame pairs, mirrored and transposed at random: ``(N, 3, H, W)`` twice and ``(N, 2, H, W)``."""
        firsts, seconds, flows = [], [], []
        for clip, clip_flow in zip(clips, flow, strict=True):
            for t in torch.randperm(clip_flow.shape[1], generator=generator)[: self.pairs].tolist():
                first, second, truth = clip[:, t], clip[:, t + 1], clip_flow[:, t]
                mirror, transpose = (torch.rand(2, generator=generator) < 0.5).tolist()
                if mirror:
                    first, second, truth = first.flip(-1), second.flip(-1), truth.flip(-1)
                    truth = torch.stack([-truth[0], truth[1]])
                if transpose:
                    first, second, truth = first.mT, second.mT, truth.mT.flip(0)
                firsts.append(first)
                seconds.append(second)
                flows.append(truth)
        return torch.stack(firsts), torch.stack(seconds), torch.stack(flows)

    @torch.no_grad()
    def measure(self, network: nn.Module, dataset: str, device: torch.device) -> dict[str, Any]:
        """End-point error in pixels on the sprite and over the whole frame, beside that of zero flow, on test clips
        of both embedded data sets."""
        net = cast(TinyFlow, network)
        return {recipe: self._errors(net, recipe, device) for recipe in RECIPES}

    def _errors(self, net: TinyFlow, recipe: str, device: torch.device, clips: int = 96) -> dict[str, Any]:
        sums = {"moving": torch.zeros(3), "all": torch.zeros(3)}  # error, error of zero flow, pixels
        for index in range(clips):
            clip = render("test", index, recipe=recipe)
            estimate = net.clip_flow(clip.clip[None].to(device)).cpu()
            truth, moving = clip.flow[None], clip.mask[None, :-1]
            error, zero = endpoint_error(estimate, truth), truth.norm(dim=1)
            for name, where in (("moving", moving), ("all", torch.ones_like(moving))):
                sums[name] += torch.stack([error[where].sum(), zero[where].sum(), where.sum()])
        figures: dict[str, Any] = {"clips": clips}
        for name, (error_sum, zero_sum, count) in ((n, s.tolist()) for n, s in sums.items()):
            figures[f"epe_{name}_px"] = round(error_sum / count, 3)
            figures[f"zero_flow_{name}_px"] = round(zero_sum / count, 3)
        return figures
