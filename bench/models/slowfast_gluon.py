"""SlowFast in the parameter layout of the GluonCV checkpoints that TT and VideoPure attack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import BenchError
from bench.models.base import VideoClassifier
from bench.models.nl import Bottleneck
from bench.registry import register
from bench.weights.files import load_checkpoint, load_strictly, rows_of

_EXPANSION = 4


def _stage(inputs: int, planes: int, blocks: int, stride: int, inflate: bool) -> nn.Sequential:
    stage = nn.Sequential()
    for b in range(blocks):
        stage.append(Bottleneck(inputs, planes, _EXPANSION, stride if b == 0 else 1, inflate, non_local=False))
        inputs = planes * _EXPANSION
    return stage


class GluonSlowFast(VideoClassifier):
    """SlowFast with a ResNet of bottlenecks in both pathways (Feichtenhofer et al., ICCV 2019).

    The defaults are the 50-layer 8x8 network (``slowfast_8x8_resnet50_kinetics400``); 4x16 has ``alpha=8, taps=5``, and
    the 101-layer 8x8 network ``taps=5, blocks=(3, 4, 23, 3)``.

    Args:
        num_classes: rows of the final layer.
        alpha: the slow pathway sees every ``alpha``-th frame; the clip length must be a multiple of it.
        taps: frames that a lateral connection looks at.
        blocks: bottlenecks per stage.
        width: channels of the slow stem; the fast one has an eighth.
        dropout: probability before the final layer.
    """

    def __init__(
        self,
        num_classes: int = 400,
        *,
        alpha: int = 4,
        taps: int = 7,
        blocks: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.alpha = alpha
        fast = width // 8
        self.fast_conv1 = nn.Conv3d(3, fast, (5, 7, 7), (1, 2, 2), (2, 3, 3), bias=False)
        self.fast_bn1 = nn.BatchNorm3d(fast)
        self.slow_conv1 = nn.Conv3d(3, width, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False)
        self.slow_bn1 = nn.BatchNorm3d(width)
        self.pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        slow_in, fast_in = width, fast
        for s, count in enumerate(blocks):
            lateral = nn.Sequential(
                nn.Conv3d(fast_in, 2 * fast_in, (taps, 1, 1), (alpha, 1, 1), (taps // 2, 0, 0), bias=False),
                nn.BatchNorm3d(2 * fast_in),
                nn.ReLU(inplace=True),
            )
            self.add_module("lateral_p1" if s == 0 else f"lateral_res{s + 1}", lateral)
            stride = 1 if s == 0 else 2
            # The slow pathway looks along time in its last two stages only.
            self.add_module(f"slow_res{s + 2}", _stage(slow_in + 2 * fast_in, width * 2**s, count, stride, s > 1))
            self.add_module(f"fast_res{s + 2}", _stage(fast_in, fast * 2**s, count, stride, True))
            slow_in, fast_in = width * 2**s * _EXPANSION, fast * 2**s * _EXPANSION
        self.stages = len(blocks)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(slow_in + fast_in, num_classes)

    def logits(self, normalised: Tensor) -> Tensor:
        if normalised.shape[2] % self.alpha:
            raise BenchError(
                f"SlowFast needs a clip length that is a multiple of {self.alpha}, not {normalised.shape[2]} frames."
            )
        fast = self.pool(F.relu(self.fast_bn1(self.fast_conv1(normalised))))
        slow = self.pool(F.relu(self.slow_bn1(self.slow_conv1(normalised[:, :, :: self.alpha]))))
        for s in range(self.stages):
            lateral = self.get_submodule("lateral_p1" if s == 0 else f"lateral_res{s + 1}")
            slow = self.get_submodule(f"slow_res{s + 2}")(torch.cat([slow, lateral(fast)], 1))
            fast = self.get_submodule(f"fast_res{s + 2}")(fast)
        pooled = torch.cat([slow.mean(dim=(2, 3, 4)), fast.mean(dim=(2, 3, 4))], 1)
        return self.fc(self.dropout(pooled))


@register(
    "slowfast_r50",
    kind="model",
    source="Feichtenhofer, Fan, Malik and He, SlowFast Networks for Video Recognition, ICCV 2019; weights of GluonCV, "
    "of Wei et al., Boosting the Transferability of Video Adversarial Examples via Temporal Translation, AAAI 2022, "
    "and of Jiang et al., VideoPure: Diffusion-based Adversarial Purification for Video Recognition, IEEE TCSVT 2025",
)
def slowfast_r50(checkpoint: Path | None = None, num_classes: int | None = None) -> GluonSlowFast:
    """SlowFast 8x8 with ResNet-50: the second classifier of TT and VideoPure, for clips of 32x224x224.

    VideoPure does not say which variant it attacks; TT attacks this one.

    Args:
        checkpoint: file in GluonCV's layout (``slowfast_8x8_resnet50_kinetics400``, TT's ``slowfast_resnet50.pth``).
        num_classes: rows of the final layer; read from the checkpoint if there is one.
    """
    if checkpoint is None:
        return GluonSlowFast(num_classes or 400)
    state = load_checkpoint(checkpoint)
    rows = rows_of(state, "fc.weight", 400, checkpoint)
    if num_classes not in (None, rows):
        raise BenchError(f"The checkpoint {checkpoint} has {rows} classes, not {num_classes}.")
    classifier = GluonSlowFast(rows)
    load_strictly(classifier, state, checkpoint)
    return classifier
