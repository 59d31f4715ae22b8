"""Image networks on every frame: for clips of one frame, such as those of CIFAR-10."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from bench.models.base import VideoClassifier
from bench.registry import register


def over_frames(network: Callable[[Tensor], Tensor], clips: Tensor) -> Tensor:
    """Logits ``(B, K)`` of an image network that is asked about each frame of clips ``(B, 3, T, H, W)``: their mean."""
    logits = network(clips.transpose(1, 2).flatten(0, 1))
    return logits.unflatten(0, (clips.shape[0], clips.shape[2])).mean(1)


class FrameResNet(VideoClassifier):
    """A 2-D ResNet-18 on each frame, logits averaged over time.

    The stem is the one usual for frames of 32x32: a 3x3 convolution without stride, and no pooling. Modules are named
    as in torchvision, below ``frames``.

    Args:
        num_classes: rows of the final layer.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
        from torchvision.models import resnet18

        self.frames = resnet18(num_classes=num_classes)
        self.frames.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.frames.maxpool = nn.Identity()

    def logits(self, normalised: Tensor) -> Tensor:
        return over_frames(self.frames, normalised)


@register(
    "resnet18_frames",
    kind="model",
    source="He, Zhang, Ren and Sun, Deep Residual Learning for Image Recognition, CVPR 2016, with the stem usual for "
    "CIFAR-10",
)
def resnet18_frames(num_classes: int = 10) -> FrameResNet:
    """ResNet-18 on every frame, for ``cifar10``.

    Args:
        num_classes: rows of the final layer.
    """
    return FrameResNet(num_classes)
