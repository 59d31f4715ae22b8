"""Classification by motion alone: optical flow, then a 3D network on it.

The flow stream of two-stream networks (Simonyan and Zisserman, Two-Stream Convolutional Networks for Action Recognition
in Videos, NeurIPS 2014; Carreira and Zisserman, Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset,
CVPR 2017), differentiable from the logits to the pixels, as the motion-consistency defence needs it.
"""

from __future__ import annotations

from torch import Tensor

from bench.flow.base import FlowEstimator
from bench.flow.pairs import clip_flow
from bench.models.base import VideoClassifier, build_seeded
from bench.models.resnet3d import ResNet3D
from bench.registry import register


class FlowStream(VideoClassifier):
    """Flow between neighbouring frames, scaled to ``[-1, 1]``, then a 3D network on its two channels.

    Flow longer than ``limit`` is cut off, but lets the gradient through, so that an attack is not blinded. Nothing
    is rounded, and zero flow stays zero.

    Args:
        estimator: frozen; its weights are part of this network's.
        stream: takes ``(B, 2, T-1, H, W)``.
        limit: speed in pixels per frame that becomes 1. 20 is that of I3D's own flow (``docs/decisions.md``), at 224
            pixels; 8 is as much for the shipped clips of 64.
        pairs_at_once: pairs of frames whose flow is in memory together, 0 for all.
    """

    frozen = ("estimator",)

    def __init__(self, estimator: FlowEstimator, stream: ResNet3D, limit: float = 8.0, pairs_at_once: int = 0) -> None:
        # The estimator normalises by itself: it takes frames in [0, 1].
        super().__init__(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        self.estimator, self.stream, self.limit = estimator, stream, limit
        self.pairs_at_once = pairs_at_once

    def scaled_flow(self, clips: Tensor) -> Tensor:
        """Clips ``(B, 3, T, H, W)`` to what the stream sees, ``(B, 2, T-1, H, W)`` in ``[-1, 1]``."""
        return self._scaled(clips, self.estimator)

    def _scaled(self, clips: Tensor, estimator: FlowEstimator) -> Tensor:
        flow = clip_flow(estimator, clips, self.pairs_at_once) / self.limit
        return flow + (flow.clamp(-1, 1) - flow).detach()

    def logits(self, normalised: Tensor) -> Tensor:
        return self.stream.logits(self.scaled_flow(normalised))

    def train(self, mode: bool = True) -> FlowStream:
        super().train(mode)
        self.estimator.eval()
        return self


@register(
    "flow_stream_tiny",
    kind="model",
    source="Simonyan and Zisserman, Two-Stream Convolutional Networks for Action Recognition in Videos, NeurIPS 2014; "
    "Carreira and Zisserman, Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset, CVPR 2017 (flow "
    "stream)",
)
def flow_stream_tiny(num_classes: int = 12, seed: int = 0) -> FlowStream:
    """A flow-stream classifier: the shipped flow network, frozen, and a 3D residual network, for clips of 16x64x64.

    Args:
        num_classes: rows of the final layer.
        seed: of the initial weights of the 3D network.
    """
    from bench.flow.estimators import load_flow

    stream = build_seeded(
        lambda: ResNet3D(
            num_classes, width=16, blocks=(1, 1, 1), stem_kernel=(3, 7, 7), stem_stride=(1, 4, 4), channels=2
        ),
        seed,
    )
    return FlowStream(load_flow("tiny"), stream)
