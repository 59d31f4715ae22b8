"""A small video transformer: tubelet embedding (Arnab et al., ViViT, ICCV 2021) and divided space-time attention
(Bertasius et al., TimeSformer, ICML 2021)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import BenchError
from bench.models.base import VideoClassifier, build_seeded
from bench.registry import register


class Attention(nn.Module):
    """Multi-head self-attention over the second axis of ``(N, L, C)``.

    Args:
        width: channels ``C``.
        heads: a divisor of the width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        n, length, width = tokens.shape
        q, k, v = self.qkv(tokens).view(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(n, length, width))


class DividedBlock(nn.Module):
    """Attention over time at each place, then over space in each frame, then an MLP; each adds to its input.

    Args:
        width: channels of a token.
        heads: of both attentions.
        expansion: of the MLP's hidden layer.
    """

    def __init__(self, width: int, heads: int, expansion: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.time, self.space = Attention(width, heads), Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, expansion * width), nn.GELU(), nn.Linear(expansion * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``(B, T, S, C)`` to tokens of the same shape."""
        b, t, s, c = x.shape
        along_time = self.time(self.norms[0](x).transpose(1, 2).reshape(b * s, t, c))
        x = x + along_time.view(b, s, t, c).transpose(1, 2)
        x = x + self.space(self.norms[1](x).reshape(b * t, s, c)).view(b, t, s, c)
        return x + self.mlp(self.norms[2](x))


class VideoTransformer(VideoClassifier):
    """Tubelets of two frames and eight by eight pixels become tokens; the logits come from their mean.

    The tubelets are cut after one convolution rather than from bare pixels: small transformers train far better
    behind a convolutional stem (Xiao et al., NeurIPS 2021). Positions in space and time are learned separately.

    Args:
        num_classes: rows of the final layer.
        frames, size: of the clips; other shapes are refused, because positions are learned.
        stem_width, width: channels of the stem and of a token.
        depth, heads, expansion: of the blocks.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        frames: int = 16,
        size: int = 64,
        stem_width: int = 32,
        width: int = 96,
        depth: int = 3,
        heads: int = 4,
        expansion: int = 2,
    ) -> None:
        super().__init__()
        self.frames, self.size = frames, size
        self.stem = nn.Sequential(
            nn.Conv3d(3, stem_width, (5, 7, 7), (1, 4, 4), (2, 3, 3), bias=False), nn.BatchNorm3d(stem_width), nn.ReLU()
        )
        self.embed = nn.Conv3d(stem_width, width, 2, 2)
        self.place = nn.Parameter(0.02 * torch.randn(1, 1, (size // 8) ** 2, width))
        self.moment = nn.Parameter(0.02 * torch.randn(1, frames // 2, 1, width))
        self.blocks = nn.Sequential(*(DividedBlock(width, heads, expansion) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, num_classes)

    def logits(self, normalised: Tensor) -> Tensor:
        shape = tuple(normalised.shape[2:])
        if shape != (self.frames, self.size, self.size):
            raise BenchError(
                f"This video transformer takes clips of {self.frames}x{self.size}x{self.size} (frames, height, width), "
                f"not {'x'.join(map(str, shape))}."
            )
        tubelets = self.embed(self.stem(normalised)).permute(0, 2, 3, 4, 1)
        x = tubelets.flatten(2, 3) + self.place + self.moment
        return self.fc(self.norm(self.blocks(x)).mean(dim=(1, 2)))


@register(
    "transformer_tiny",
    kind="model",
    source="Bertasius, Wang and Torresani, Is Space-Time Attention All You Need for Video Understanding? "
    "(TimeSformer), ICML 2021; Arnab et al., ViViT: A Video Vision Transformer, ICCV 2021 (architecture)",
)
def transformer_tiny(num_classes: int = 12, seed: int = 0) -> VideoTransformer:
    """A video transformer with divided space-time attention at 0.4 M parameters, for clips of 16x64x64.

    Args:
        num_classes: rows of the final layer.
        seed: of the initial weights, moving Gabor filters in the stem.
    """
    return build_seeded(lambda: VideoTransformer(num_classes), seed, stems=["stem.0"])
