"""What the training of flow minimises."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kit.draws import generator
from torch import Tensor, nn

from bench.flow.tiny import TinyFlow
from bench.training.objectives.motion import FlowSupervision


class Known(TinyFlow):
    """Answers the same displacement everywhere, at every level."""

    def __init__(self, x: float, y: float) -> None:
        super().__init__()
        self.answer = nn.Parameter(torch.tensor([x, y]))

    def levels(self, first: Any, second: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        count, size = len(first[0]), int(first[4][0, 0])
        full = self.answer.view(1, 2, 1, 1).expand(count, 2, size, size)
        coarse = full[..., : size // 4, : size // 4] / 4
        return coarse, coarse, full[..., : size // 2, : size // 2] / 2, full


def test_the_flow_loss_is_the_end_point_error_of_every_level() -> None:
    """A uniform flow of (3, -4) that is answered with zero is 5 px off; weights .1, .3, .5 and 1 sum to 1.9."""
    clips = torch.rand(2, 3, 4, 16, 16, generator=generator())
    flow = torch.tensor([3.0, -4.0]).view(1, 2, 1, 1, 1).expand(2, 2, 3, 16, 16)
    objective = FlowSupervision()
    loss, figures = objective.loss(Known(0.0, 0.0), (clips, flow), generator())
    assert float(loss.detach()) == pytest.approx(1.9 * 5, rel=1e-5)
    assert figures == pytest.approx({"epe": 5, "zero": 5})


def test_mirrored_and_transposed_pairs_keep_their_flow() -> None:
    """A clip that moves by whole pixels: rolling the first frame by the pair's own flow gives the second."""
    frame = torch.rand(3, 12, 12, generator=generator())
    clip = torch.stack([frame.roll((t, 2 * t), (1, 2)) for t in range(7)], 1)
    flow = torch.tensor([2.0, 1.0]).view(2, 1, 1, 1).expand(2, 6, 12, 12)
    first, second, truth = FlowSupervision()._pairs(clip[None], flow[None], generator())
    assert len({tuple(t[:, 0, 0].tolist()) for t in truth}) > 2  # mirrored, transposed, both, neither
    for a, b, t in zip(first, second, truth, strict=True):
        x, y = (int(v) for v in t[:, 0, 0])
        assert torch.equal(a.roll((y, x), (1, 2)), b)
