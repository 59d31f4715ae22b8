"""3D ResNet, ResNeXt and wide ResNet: the classifiers of MultiBN, MultAV and OUDefend.

Source: Hara, Kataoka and Satoh, Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet?, CVPR 2018.

The parameter layout is that of the CVPR 2018 branch of ``kenshohara/3D-ResNets-PyTorch``. The ResNeXt and wide ResNets
of its master branch are others: their first convolution has 128 channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import BenchError, at_least, nearest
from bench.models.base import VideoClassifier
from bench.registry import register
from bench.weights.files import load_strictly, load_with_arch, rows_of

Block = Literal["basic", "bottleneck", "resnext", "wide"]
Shortcut = Literal["A", "B"]
Inputs = Literal["unit", "mean_subtracted", "standardised"]

_STEM = 64
# Output over inner width of a block.
_EXPANSION: dict[Block, int] = {"basic": 1, "bottleneck": 4, "resnext": 2, "wide": 2}
# Mean and standard deviation, in units of [0, 1] intensities.
_SCALINGS: dict[Inputs, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "mean_subtracted": ((114.7748 / 255, 107.7354 / 255, 99.4750 / 255), (1 / 255, 1 / 255, 1 / 255)),
    "standardised": ((0.4345, 0.4051, 0.3775), (0.2768, 0.2713, 0.2737)),
}


class PaddedShortcut(nn.Module):
    """Shortcut A: every ``stride``-th position, and zeros for the channels that are not there yet.

    Args:
        outputs: channels.
        stride: the same in time, height and width.
        detach: cut the gradient off.
    """

    def __init__(self, outputs: int, stride: int, detach: bool = False) -> None:
        super().__init__()
        self.outputs, self.stride, self.detach = outputs, stride, detach

    def forward(self, x: Tensor) -> Tensor:
        s = self.stride
        x = x.detach() if self.detach else x
        return F.pad(x[:, :, ::s, ::s, ::s], (0,) * 6 + (0, self.outputs - x.shape[1]))


class BasicBlock(nn.Module):
    """Two 3x3x3 convolutions with a shortcut around them.

    Args:
        inputs, outputs: channels.
        stride: of the first convolution, the same in time, height and width.
        downsample: the shortcut, or ``None`` for the identity.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(outputs)
        self.conv2 = nn.Conv3d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm3d(outputs)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


class Bottleneck(nn.Module):
    """1x1x1, (grouped) 3x3x3 and 1x1x1 convolutions with a shortcut around them.

    Args:
        inputs, inner, outputs: channels.
        stride: of the second convolution, the same in time, height and width.
        groups: of the second convolution: the cardinality of a ResNeXt.
        downsample: the shortcut, or ``None`` for the identity.
    """

    def __init__(
        self,
        inputs: int,
        inner: int,
        outputs: int,
        stride: int = 1,
        groups: int = 1,
        downsample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(inner)
        self.conv2 = nn.Conv3d(inner, inner, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm3d(inner)
        self.conv3 = nn.Conv3d(inner, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(outputs)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(x)) + shortcut)


class HaraResNet(VideoClassifier):
    """Residual network of 3x3x3 convolutions; frames shrink 16 times, height and width 32 times.

    The published code averages over a window that fits one clip size; here it is the whole clip at any size.

    Args:
        num_classes: rows of the final layer.
        block: ``basic``, ``bottleneck``, ``resnext`` (twice as wide, grouped) or ``wide`` (``k`` times as wide).
        blocks: per stage; every stage but the first halves frames, height and width.
        shortcut: where the shape changes: ``A``, strided and padded with zero channels, or ``B``, a convolution.
        width: channels of the stem; the published networks have 64. At least 16 for ``resnext``.
        cardinality: groups of a ``resnext`` block.
        k: of a ``wide`` block.
        inputs: what the weights were trained on: ``unit``, colours from 0 to 1; ``mean_subtracted``, from 0 to 255
            less the mean 114.7748, 107.7354, 99.4750; ``standardised``, from 0 to 1 less the mean 0.4345, 0.4051,
            0.3775 and over the deviation 0.2768, 0.2713, 0.2737.
        legacy_detach: cut the gradient of every shortcut A, as the published code does: logits are the same, and their
            gradient is wrong. White-box attacks look weaker then than they are.

    Raises:
        BenchError: a choice is unknown, a width is too small, or ``legacy_detach`` has no shortcut A to work on.
    """

    def __init__(
        self,
        num_classes: int = 400,
        *,
        block: Block = "basic",
        blocks: Sequence[int] = (2, 2, 2, 2),
        shortcut: Shortcut = "B",
        width: int = _STEM,
        cardinality: int = 32,
        k: int = 2,
        inputs: Inputs = "unit",
        legacy_detach: bool = False,
    ) -> None:
        for name, value, known in (
            ("block", block, Block),
            ("shortcut", shortcut, Shortcut),
            ("inputs", inputs, Inputs),
        ):
            if value not in get_args(known):
                choices = ", ".join(get_args(known))
                raise BenchError(f"Unknown {name} {value!r}{nearest(value, get_args(known))}: choose one of {choices}.")
        if legacy_detach and shortcut != "A":
            raise BenchError("legacy_detach cuts the gradient of shortcut A: leave it out with shortcut B.")
        at_least("width", width, 16 if block == "resnext" else 1, " for this block")
        super().__init__(*_SCALINGS[inputs])
        self.shortcut = shortcut
        self.conv1 = nn.Conv3d(3, width, 7, (1, 2, 2), 3, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.maxpool = nn.MaxPool3d(3, 2, 1)
        factor, groups = {"resnext": (2, cardinality), "wide": (k, 1)}.get(block, (1, 1))
        channels = width
        for stage, count in enumerate(blocks):
            planes = width * factor * 2**stage
            inner = cardinality * (planes // 32) if block == "resnext" else planes
            outputs = planes * _EXPANSION[block]
            stage_blocks = nn.Sequential()
            for b in range(count):
                stride = 2 if stage > 0 and b == 0 else 1
                downsample: nn.Module | None = None
                if (stride != 1 or channels != outputs) and shortcut == "A":
                    downsample = PaddedShortcut(outputs, stride, legacy_detach)
                elif stride != 1 or channels != outputs:
                    downsample = nn.Sequential(
                        nn.Conv3d(channels, outputs, 1, stride, bias=False), nn.BatchNorm3d(outputs)
                    )
                stage_blocks.append(
                    BasicBlock(channels, outputs, stride, downsample)
                    if block == "basic"
                    else Bottleneck(channels, inner, outputs, stride, groups, downsample)
                )
                channels = outputs
            self.add_module(f"layer{stage + 1}", stage_blocks)
        self.stages = len(blocks)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def logits(self, normalised: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(normalised))))
        for stage in range(self.stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return self.fc(x.mean(dim=(2, 3, 4)))


def load_published(
    checkpoint: Path,
    arch: str,
    num_classes: int | None,
    build: Callable[[int], HaraResNet],
    width: int = _STEM,
) -> HaraResNet:
    """A network with the weights of a file ``{epoch, arch, state_dict, optimizer}``, or of a bare state dict.

    Args:
        checkpoint: the file; its keys may begin with ``module.``.
        arch: what the file must call its network, if anything: ``resnext-101``.
        num_classes: rows that the final layer must have, or ``None`` for any number.
        build: makes the network for a number of classes.
        width: channels of the network's stem.

    Raises:
        BenchError: the file is absent, unsafe, damaged, or of another network, generation, shortcut or number of
            classes.
    """
    state, stated_arch = load_with_arch(checkpoint)
    if stated_arch not in ("", arch):
        raise BenchError(
            f"The checkpoint {checkpoint} is of {stated_arch!r}, not of {arch!r}: give that of this architecture."
        )
    stem = state.get("conv1.weight")
    if stem is not None and stem.ndim == 5 and len(stem) != width:
        raise BenchError(
            f"The checkpoint {checkpoint} has {len(stem)} channels after its first convolution, not {width}: give one "
            "of the CVPR 2018 branch of 3D-ResNets-PyTorch (ResNeXt and wide ResNets of its master branch have 128)."
        )
    rows = rows_of(state, "fc.weight", num_classes or 400, checkpoint)
    if num_classes not in (None, rows):
        raise BenchError(f"The checkpoint {checkpoint} has {rows} classes, not {num_classes}.")
    network = build(rows)
    kind = "B" if any(".downsample." in name for name in state) else "A"
    if stem is not None and kind != network.shortcut:
        raise BenchError(
            f"The checkpoint {checkpoint} has shortcuts of type {kind}, not {network.shortcut}: give shortcut={kind!r} "
            "where the model takes it, or another file."
        )
    load_strictly(network, state, checkpoint)
    return network


def _made(
    build: Callable[[int], HaraResNet], arch: str, checkpoint: Path | None, num_classes: int | None
) -> HaraResNet:
    if checkpoint is None:
        return build(num_classes or 400)
    return load_published(checkpoint, arch, num_classes, build)


@register(
    "r3d18_hara",
    kind="model",
    source="Hara, Kataoka and Satoh, Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet?, CVPR "
    "2018; the classifier of Lo, Valanarasu and Patel, Overcomplete Representations Against Adversarial Videos, ICIP "
    "2021, and of Lo and Patel, MultAV: Multiplicative Adversarial Videos, AVSS 2021",
)
def r3d18_hara(
    checkpoint: Path | None = None,
    num_classes: int | None = None,
    shortcut: Shortcut = "A",
    inputs: Inputs = "unit",
    legacy_detach: bool = False,
) -> HaraResNet:
    """3D ResNet-18 of Hara et al., for clips of 40x112x112 and any other size.

    Args:
        checkpoint: file in the layout of kenshohara/3D-ResNets-PyTorch (``resnet-18-kinetics.pth``).
        num_classes: rows of the final layer; read from the checkpoint if there is one.
        shortcut: ``A``, padded with zero channels (33.08 M parameters at 101 classes), of the CVPR 2018 branch and of
            Lo and Patel; or ``B``, a convolution (33.26 M), of the master branch.
        inputs: what the weights were trained on. ``unit``: colours from 0 to 1, as Lo and Patel feed them;
            ``mean_subtracted``: 0 to 255 less the mean, the Kinetics weights of the CVPR 2018 branch;
            ``standardised``: those of the master branch.
        legacy_detach: cut the gradient of the three strided shortcuts, as the published code does; it breaks gradients
            and so weakens white-box attacks, and only serves to reproduce old figures.
    """

    def build(rows: int) -> HaraResNet:
        return HaraResNet(rows, shortcut=shortcut, inputs=inputs, legacy_detach=legacy_detach)

    return _made(build, "resnet-18", checkpoint, num_classes)


@register(
    "resnext3d101",
    kind="model",
    source="Hara, Kataoka and Satoh, Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet?, CVPR "
    "2018; the classifier of Lo and Patel, Defending Against Multiple and Unforeseen Adversarial Videos, IEEE TIP 2022",
)
def resnext3d101(checkpoint: Path | None = None, num_classes: int | None = None, inputs: Inputs = "unit") -> HaraResNet:
    """3D ResNeXt-101 of Hara et al. (cardinality 32, shortcut B), for clips of 40x112x112 and any other size.

    Args:
        checkpoint: file in the layout of the CVPR 2018 branch of kenshohara/3D-ResNets-PyTorch
            (``resnext-101-kinetics.pth``).
        num_classes: rows of the final layer; read from the checkpoint if there is one.
        inputs: what the weights were trained on. ``unit``: colours from 0 to 1, as Lo and Patel feed them;
            ``mean_subtracted``: 0 to 255 less the mean, all files of the CVPR 2018 branch; ``standardised``: 0 to 1,
            less the mean and over the deviation of the master branch.
    """
    return _made(
        lambda rows: HaraResNet(rows, block="resnext", blocks=(3, 4, 23, 3), inputs=inputs),
        "resnext-101",
        checkpoint,
        num_classes,
    )


@register(
    "wrn3d50",
    kind="model",
    source="Hara, Kataoka and Satoh, Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet?, CVPR "
    "2018",
)
def wrn3d50(checkpoint: Path | None = None, num_classes: int | None = None, inputs: Inputs = "unit") -> HaraResNet:
    """Wide 3D ResNet-50 of Hara et al. (k = 2, shortcut B), for clips of 40x112x112 and any other size.

    Args:
        checkpoint: file in the layout of the CVPR 2018 branch of kenshohara/3D-ResNets-PyTorch
            (``wideresnet-50-kinetics.pth``).
        num_classes: rows of the final layer; read from the checkpoint if there is one.
        inputs: what the weights were trained on. ``unit``: colours from 0 to 1, as Lo and Patel feed them;
            ``mean_subtracted``: 0 to 255 less the mean, all files of the CVPR 2018 branch; ``standardised``: 0 to 1,
            less the mean and over the deviation of the master branch.
    """
    return _made(
        lambda rows: HaraResNet(rows, block="wide", blocks=(3, 4, 6, 3), inputs=inputs),
        "wideresnet-50",
        checkpoint,
        num_classes,
    )
