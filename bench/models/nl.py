"""NL: inflated 3-D ResNets with non-local blocks (Wang, Girshick, Gupta and He, Non-local Neural Networks, CVPR 2018).

One class serves two networks. With its defaults it is I3D-ResNet-50 with five non-local blocks in the
parameter layout of the GluonCV checkpoints that VideoPure and TT attack; with small widths it is the tiny
classifier shipped with the package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import BenchError
from bench.models.base import VideoClassifier, build_seeded
from bench.registry import register
from bench.weights.files import load_checkpoint, load_strictly, rows_of


class NonLocalBlock(nn.Module):
    """Embedded-Gaussian non-local block over all space-time positions (Wang et al., eq. 4 and 6).

    Args:
        channels: input and output channels; the embeddings have half as many.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 2
        self.theta = nn.Conv3d(channels, inner, 1)
        self.phi = nn.Conv3d(channels, inner, 1)
        self.g = nn.Conv3d(channels, inner, 1)
        self.W = nn.Conv3d(inner, channels, 1)
        self.bn = nn.BatchNorm3d(channels, momentum=0.9)
        nn.init.zeros_(self.bn.weight)  # the block starts as the identity

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` to the same shape; memory grows with ``(T H W)^2``."""
        query, key, value = (proj(x).flatten(2).transpose(1, 2) for proj in (self.theta, self.phi, self.g))
        # scaled_dot_product_attention divides by sqrt(C/2), as the published network does.
        mixed = F.scaled_dot_product_attention(query, key, value)
        mixed = mixed.transpose(1, 2).unflatten(2, x.shape[2:])
        return x + self.bn(self.W(mixed))


class Bottleneck(nn.Module):
    """1x1x1 (or 3x1x1 when inflated), 1x3x3, 1x1x1 convolutions with a shortcut, then a non-local block."""

    def __init__(self, inputs: int, planes: int, expansion: int, stride: int, inflate: bool, non_local: bool) -> None:
        super().__init__()
        outputs = planes * expansion
        kernel = 3 if inflate else 1
        self.conv1 = nn.Conv3d(inputs, planes, (kernel, 1, 1), padding=(kernel // 2, 0, 0), bias=False)
        self.bn1 = nn.BatchNorm3d(planes)
        self.conv2 = nn.Conv3d(planes, planes, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False)
        self.bn2 = nn.BatchNorm3d(planes)
        self.conv3 = nn.Conv3d(planes, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(outputs)
        self.downsample = (
            nn.Sequential(nn.Conv3d(inputs, outputs, 1, (1, stride, stride), bias=False), nn.BatchNorm3d(outputs))
            if stride != 1 or inputs != outputs
            else None
        )
        self.nonlocal_block = NonLocalBlock(outputs) if non_local else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.relu(self.bn3(self.conv3(x)) + shortcut)
        return x if self.nonlocal_block is None else self.nonlocal_block(x)


class NLResNet(VideoClassifier):
    """Inflated 3-D ResNet with non-local blocks.

    The defaults are the 50-layer network of the GluonCV zoo (``i3d_nl5_resnet50_v1_kinetics400``).

    Args:
        num_classes: rows of the final layer.
        blocks: bottlenecks per stage.
        planes: inner width of each stage; the output is ``expansion`` times as wide.
        expansion: output over inner width.
        inflate: for each stage, which bottlenecks have a 3x1x1 first convolution.
        non_local: for each stage, which bottlenecks end in a non-local block.
        stem_stride, stem_kernel: of the first convolution, in time, height and width.
        stem_pool_stride: stride of the 1x3x3 max-pooling after it; ``None`` for no pooling. (Stage 1 is followed by
            a pooling of its own, by 2 in time.)
        stem_width: channels of the first convolution.
        dropout: probability before the final layer.
    """

    def __init__(
        self,
        num_classes: int = 400,
        *,
        blocks: Sequence[int] = (3, 4, 6, 3),
        planes: Sequence[int] = (64, 128, 256, 512),
        expansion: int = 4,
        inflate: Sequence[Sequence[int]] = ((1, 1, 1), (1, 0, 1, 0), (1, 0, 1, 0, 1, 0), (0, 1, 0)),
        non_local: Sequence[Sequence[int]] = ((0, 0, 0), (0, 1, 0, 1), (0, 1, 0, 1, 0, 1), (0, 0, 0)),
        stem_stride: tuple[int, int, int] = (2, 2, 2),
        stem_kernel: tuple[int, int, int] = (5, 7, 7),
        stem_pool_stride: tuple[int, int, int] | None = (2, 2, 2),
        stem_width: int = 64,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        padding = (stem_kernel[0] // 2, stem_kernel[1] // 2, stem_kernel[2] // 2)
        self.first_stage = nn.Sequential(
            nn.Conv3d(3, stem_width, stem_kernel, stem_stride, padding, bias=False),
            nn.BatchNorm3d(stem_width),
            nn.ReLU(inplace=True),
            nn.Identity() if stem_pool_stride is None else nn.MaxPool3d((1, 3, 3), stem_pool_stride, (0, 1, 1)),
        )
        self.pool2 = nn.MaxPool3d((2, 1, 1), (2, 1, 1))
        self.res_layers = nn.ModuleList()
        width = stem_width
        for s, (count, inner) in enumerate(zip(blocks, planes, strict=True)):
            stage = nn.Sequential()
            for b in range(count):
                stride = 2 if s > 0 and b == 0 else 1
                stage.append(Bottleneck(width, inner, expansion, stride, bool(inflate[s][b]), bool(non_local[s][b])))
                width = inner * expansion
            self.res_layers.append(stage)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(width, num_classes)

    def logits(self, normalised: Tensor) -> Tensor:
        x = self.first_stage(normalised)
        for s, stage in enumerate(self.res_layers):
            x = stage(x)
            if s == 0:
                x = self.pool2(x)
        return self.fc(self.dropout(x.mean(dim=(2, 3, 4))))


# GluonCV registers the same modules twice, so its files hold the same tensors under two names.
_ALIASES = {".nonlocal_block.W_bn.0.": ".nonlocal_block.W.", ".nonlocal_block.W_bn.1.": ".nonlocal_block.bn."}


def drop_aliases(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Removes the second names of GluonCV's layout after checking that both hold the same values.

    Raises:
        BenchError: the two copies of a tensor differ, so it is unclear which one was trained.
    """
    kept: dict[str, Tensor] = {}
    for key, value in state.items():
        twin = "fc." + key.removeprefix("head.1.") if key.startswith("head.1.") else key
        for alias, name in _ALIASES.items():
            twin = twin.replace(alias, name)
        if twin == key:
            kept[key] = value
        elif twin not in state:
            kept[twin] = value
        elif not torch.equal(state[twin], value):
            raise BenchError(f"The checkpoint {path} holds two different tensors for {twin} and its alias {key}.")
    return kept


@register(
    "nl_r50",
    kind="model",
    source="Wang, Girshick, Gupta and He, Non-local Neural Networks, CVPR 2018; weights of GluonCV, of Wei et al., "
    "Boosting the Transferability of Video Adversarial Examples via Temporal Translation, AAAI 2022, and of Jiang et "
    "al., VideoPure: Diffusion-based Adversarial Purification for Video Recognition, IEEE TCSVT 2025",
)
def nl_r50(checkpoint: Path | None = None, num_classes: int | None = None) -> NLResNet:
    """I3D ResNet-50 with five non-local blocks: the NL classifier of TT and VideoPure, for clips of 32x224x224.

    Args:
        checkpoint: file in the authors' layout (``i3d_nl5_resnet50_v1_kinetics400``, ``NL_res50.pth``).
        num_classes: rows of the final layer; read from the checkpoint if there is one. (The published
            UCF-101 file has 400 rows, of which 0 to 100 are used.)
    """
    if checkpoint is None:
        return NLResNet(num_classes or 400)
    state = drop_aliases(load_checkpoint(checkpoint), checkpoint)
    rows = rows_of(state, "fc.weight", 400, checkpoint)
    if num_classes not in (None, rows):
        raise BenchError(f"The checkpoint {checkpoint} has {rows} classes, not {num_classes}.")
    classifier = NLResNet(rows)
    load_strictly(classifier, state, checkpoint)
    return classifier


@register(
    "nl_tiny",
    kind="model",
    source="Wang, Girshick, Gupta and He, Non-local Neural Networks, CVPR 2018 (architecture)",
)
def nl_tiny(num_classes: int = 12, seed: int = 0) -> NLResNet:
    """The NL architecture at 0.24 M parameters, for clips of 16x64x64.

    Args:
        num_classes: rows of the final layer.
        seed: of the initial weights, moving Gabor filters in the stem.
    """
    return build_seeded(
        lambda: NLResNet(
            num_classes,
            blocks=(1, 1, 2, 1),
            planes=(16, 24, 48, 64),
            expansion=2,
            inflate=((1,), (1,), (1, 1), (1,)),
            non_local=((0,), (0,), (0, 1), (1,)),
            stem_kernel=(5, 7, 7),
            stem_stride=(1, 4, 4),
            stem_pool_stride=None,
            stem_width=24,
            dropout=0.0,
        ),
        seed,
        stems=["first_stage.0"],
    )
