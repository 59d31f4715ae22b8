"""3D residual networks, of torchvision's blocks.

Source: Tran et al., A Closer Look at Spatiotemporal Convolutions for Action Recognition, CVPR 2018.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from bench.models.base import VideoClassifier, build_seeded
from bench.registry import register

# torchvision's statistics of Kinetics-400.
_KINETICS_MEAN = (0.43216, 0.394666, 0.37645)
_KINETICS_STD = (0.22803, 0.22145, 0.216989)


class ResNet3D(VideoClassifier):
    """R3D: a residual network of 3x3x3 convolutions throughout.

    Modules are named as in torchvision, whose ``r3d_18`` is the default shape, so that its weights load.

    Args:
        num_classes: rows of the final layer.
        width: channels of the stem; stage ``i`` puts out ``width * 2^i``.
        blocks: per stage; every stage but the first halves frames, height and width.
        stem_kernel, stem_stride: of the first convolution.
        channels: of the input of :meth:`logits`; 3, unless it is a part of another network.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        width: int = 64,
        blocks: Sequence[int] = (2, 2, 2, 2),
        stem_kernel: tuple[int, int, int] = (3, 7, 7),
        stem_stride: tuple[int, int, int] = (1, 2, 2),
        channels: int = 3,
    ) -> None:
        super().__init__(_KINETICS_MEAN, _KINETICS_STD)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torchvision.models.video.resnet import BasicBlock, Conv3DSimple

        def block(inner: int, outer: int, stride: int) -> nn.Module:
            shortcut: Any = None
            if stride > 1 or inner != outer:
                shortcut = nn.Sequential(nn.Conv3d(inner, outer, 1, stride, bias=False), nn.BatchNorm3d(outer))
            residual: nn.Module = BasicBlock(inner, outer, Conv3DSimple, stride, shortcut)
            return residual

        kt, kh, kw = stem_kernel
        padding = (kt // 2, kh // 2, kw // 2)
        self.stem = nn.Sequential(
            nn.Conv3d(channels, width, stem_kernel, stem_stride, padding, bias=False), nn.BatchNorm3d(width), nn.ReLU()
        )
        inner = width
        self.stages = len(blocks)
        for stage, count in enumerate(blocks):
            outer = width * 2**stage
            first = block(inner, outer, 1 if stage == 0 else 2)
            self.add_module(
                f"layer{stage + 1}", nn.Sequential(first, *(block(outer, outer, 1) for _ in range(count - 1)))
            )
            inner = outer
        self.fc = nn.Linear(inner, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def logits(self, normalised: Tensor) -> Tensor:
        x = self.stem(normalised)
        for stage in range(self.stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return self.fc(x.mean(dim=(2, 3, 4)))


@register(
    "r3d_18",
    kind="model",
    source="Tran et al., A Closer Look at Spatiotemporal Convolutions for Action Recognition, CVPR 2018",
)
def r3d_18(num_classes: int = 400) -> ResNet3D:
    """The R3D-18 network of torchvision, whose Kinetics-400 weights it takes, for clips of 16x112x112.

    Args:
        num_classes: rows of the final layer.
    """
    return ResNet3D(num_classes)


@register(
    "resnet3d_tiny",
    kind="model",
    source="Tran et al., A Closer Look at Spatiotemporal Convolutions for Action Recognition, CVPR 2018 (architecture)",
)
def resnet3d_tiny(num_classes: int = 12, seed: int = 0) -> ResNet3D:
    """A 3D residual network of torchvision's blocks at 0.52 M parameters, for clips of 16x64x64.

    Args:
        num_classes: rows of the final layer.
        seed: of the initial weights, moving Gabor filters in the stem.
    """
    return build_seeded(
        lambda: ResNet3D(num_classes, width=24, blocks=(1, 1, 1), stem_kernel=(5, 7, 7), stem_stride=(1, 4, 4)),
        seed,
        stems=["stem.0"],
    )
