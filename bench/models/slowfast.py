"""SlowFast networks (Feichtenhofer et al., SlowFast Networks for Video Recognition, ICCV 2019), of PyTorchVideo."""

from __future__ import annotations

import warnings

from torch import Tensor, nn

from bench.errors import BenchError
from bench.models.base import VideoClassifier, build_seeded
from bench.registry import register


class SlowFast(VideoClassifier):
    """A slow pathway on every ``alpha``-th frame and a fast one on all of them.

    Args:
        num_classes: rows of the final layer.
        alpha: frame-rate ratio of the pathways; the clip length must be a multiple of it.
        beta: channel ratio slow : fast.
        width: channels of the slow stem; stage ``i`` puts out ``width * 4 * 2^i``.
        depth: 18, 50, 101 or 152 layers.
        dropout: probability before the final layer.
        stem_stride: of both stem convolutions, in height and width.
        stem_pool: whether a 3x3 max-pooling of stride 2 follows them.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        alpha: int = 4,
        beta: int = 8,
        width: int = 64,
        depth: int = 50,
        dropout: float = 0.5,
        stem_stride: int = 2,
        stem_pool: bool = True,
    ) -> None:
        super().__init__()
        with warnings.catch_warnings():  # importing PyTorchVideo compiles two swish kernels, loudly
            warnings.simplefilter("ignore")
            from pytorchvideo.models.slowfast import create_slowfast
        self.alpha = alpha
        self.net: nn.Module = create_slowfast(
            slowfast_channel_reduction_ratio=(beta,),
            slowfast_fusion_conv_kernel_size=(7 if alpha == 4 else 5, 1, 1),
            slowfast_fusion_conv_stride=(alpha, 1, 1),
            model_depth=depth,
            model_num_class=num_classes,
            dropout_rate=dropout,
            stem_dim_outs=(width, width // beta),
            stem_conv_strides=((1, stem_stride, stem_stride),) * 2,
            stem_pool=(nn.MaxPool3d if stem_pool else None,) * 2,
            head_pool=nn.AdaptiveAvgPool3d,
        )

    def logits(self, normalised: Tensor) -> Tensor:
        if normalised.shape[2] % self.alpha:
            raise BenchError(
                f"SlowFast needs a clip length that is a multiple of {self.alpha}, not {normalised.shape[2]} frames."
            )
        return self.net([normalised[:, :, :: self.alpha], normalised])


@register(
    "slowfast_tiny",
    kind="model",
    source="Feichtenhofer, Fan, Malik and He, SlowFast Networks for Video Recognition, ICCV 2019 (architecture)",
)
def slowfast_tiny(num_classes: int = 12, seed: int = 0) -> SlowFast:
    """A SlowFast network of 0.77 M parameters, for clips of 16x64x64.

    Args:
        num_classes: rows of the final layer.
        seed: of the initial weights, moving Gabor filters in both stems.
    """
    return build_seeded(
        lambda: SlowFast(num_classes, alpha=4, beta=2, width=12, depth=18, dropout=0.0, stem_stride=4, stem_pool=False),
        seed,
        stems=[f"net.blocks.0.multipathway_blocks.{pathway}.conv" for pathway in (1, 0)],
    )
