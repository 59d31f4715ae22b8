"""Blocks that are put behind the stages of a 3D ResNet: OUDefend and feature denoising."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import BenchError


class OUDefend(nn.Module):
    """Over- and undercomplete restoration of feature maps.

    Source: Lo, Valanarasu and Patel, Overcomplete Representations Against Adversarial Videos, ICIP 2021.

    One branch looks at the features enlarged up to eightfold, the other reduced; their sum, brought back to all
    channels, is added to the features. There is no bias and no normalisation. Time is never resized.

    Args:
        channels: of the features.
        base_width: channels of both branches at the size of the features; 8 in the published code.
        depth: halvings in the undercomplete branch: 3, 2, 1 or 0 behind the first to the fourth stage.
    """

    def __init__(self, channels: int, base_width: int = 8, depth: int = 1) -> None:
        super().__init__()
        c = base_width

        def point(inputs: int, outputs: int) -> nn.Conv3d:
            return nn.Conv3d(inputs, outputs, 1, bias=False)

        def conv(inputs: int, outputs: int) -> nn.Conv3d:
            return nn.Conv3d(inputs, outputs, 3, padding=1, bias=False)

        self.reduce = point(channels, c)
        self.over_encode = nn.ModuleList([conv(c, 2 * c), conv(2 * c, 4 * c), conv(4 * c, 8 * c)])
        self.over_decode = nn.ModuleList([conv(8 * c, 4 * c), conv(4 * c, 2 * c), conv(2 * c, c)])
        self.skips = nn.ModuleList([point(4 * c, 4 * c), point(2 * c, 2 * c)])
        self.under_encode = nn.ModuleList([conv(c * 2**i, c * 2 ** (i + 1)) for i in range(depth)])
        self.under_decode = nn.ModuleList([conv(c * 2 ** (i + 1), c * 2**i) for i in reversed(range(depth))])
        self.under_out = point(c, c)
        self.expand = point(c, channels)
        self.restore = point(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` to the same shape."""
        narrow = F.relu(self.reduce(x))
        both = self._over(narrow) + self._under(narrow)
        return F.relu(x + self.restore(F.relu(self.expand(both))))

    def _over(self, x: Tensor) -> Tensor:
        encoded = []
        for conv in self.over_encode:
            x = F.relu(_resized(conv(x), x.shape[2], 2 * x.shape[3], 2 * x.shape[4]))
            encoded.append(x)
        for i, conv in enumerate(self.over_decode):
            x = F.relu(F.max_pool3d(conv(x), (1, 2, 2)))
            if i < 2:
                x = x + F.relu(self.skips[i](encoded[1 - i]))
        return x

    def _under(self, x: Tensor) -> Tensor:
        sizes = []
        for conv in self.under_encode:
            sizes.append(x.shape[2:])
            x = F.relu(F.max_pool3d(conv(x), (1, 2, 2), ceil_mode=True))
        for conv in self.under_decode:
            x = F.relu(_resized(conv(x), *sizes.pop()))
        return F.relu(self.under_out(x))


def _resized(x: Tensor, frames: int, height: int, width: int) -> Tensor:
    return F.interpolate(x, size=(frames, height, width), mode="trilinear", align_corners=False)


class FeatureDenoising(nn.Module):
    """Non-local means on feature maps with a residual connection, as ported to video.

    Source: Xie et al., Feature Denoising for Improving Adversarial Robustness, CVPR 2019; the ports are those of Lo,
    Valanarasu and Patel, Overcomplete Representations Against Adversarial Videos, ICIP 2021.

    ``x + conv(y)`` with ``y_i = sum_j w_ij x_j`` and ``w`` the softmax over ``j`` of embedded dot products divided by
    the root of their length. There is no value convolution.

    Args:
        channels: of the features; the embeddings have half as many.
        variant: ``a``: one embedding for all frames, attention inside each frame, a ReLU at the end; ``b``: an
            embedding for every frame of its own, no ReLU; ``spacetime``: one embedding, attention over all
            positions of the clip, no ReLU, which neither port has.
        frames: of the features; only ``b`` must know.
        zero_init: whether the last convolution starts at zero, so that a pretrained network is left as it was at first.
            Xie et al. get the same from a batch normalisation, which both ports leave out.
    """

    def __init__(
        self, channels: int, variant: Literal["a", "b", "spacetime"] = "a", frames: int = 1, zero_init: bool = True
    ) -> None:
        super().__init__()
        if variant not in ("a", "b", "spacetime"):
            raise ValueError(f"variant must be a, b or spacetime, not {variant!r}")
        self.variant, self.inner = variant, max(1, channels // 2)
        copies = frames if variant == "b" else 1
        self.theta = nn.ModuleList([nn.Conv2d(channels, self.inner, 1) for _ in range(copies)])
        self.phi = nn.ModuleList([nn.Conv2d(channels, self.inner, 1) for _ in range(copies)])
        self.out = nn.Conv3d(channels, channels, 1)
        for name, value in self.named_parameters():
            if name.endswith("bias") or (zero_init and name.startswith("out")):
                nn.init.zeros_(value)
            elif not name.startswith("out"):
                nn.init.normal_(value, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` to the same shape; memory grows with ``T (H W)^2``, or ``(T H W)^2`` for ``spacetime``.

        Raises:
            BenchError: variant ``b`` was built for another number of frames.
        """
        b, c, t, h, w = x.shape
        if self.variant == "b" and t != len(self.theta):
            raise BenchError(
                f"Feature denoising b has embeddings for {len(self.theta)} frames of features, and there are {t}: "
                "build it for clips of this length."
            )
        query, key = (self._embedded(x, layers) for layers in (self.theta, self.phi))
        if self.variant == "spacetime":
            shape, values = (b, t * h * w), x.flatten(2)
        else:
            shape, values = (b * t, h * w), x.transpose(1, 2).flatten(0, 1).flatten(2)
        # (N, positions, channels); the attention divides by the root of the embeddings' length itself
        query, key = (e.transpose(1, 2).reshape(*shape, self.inner) for e in (query, key))
        mixed = F.scaled_dot_product_attention(query, key, values.transpose(1, 2)).transpose(1, 2)
        whole = self.variant == "spacetime"
        denoised = x + self.out(mixed.view(b, c, t, h, w) if whole else mixed.view(b, t, c, h, w).transpose(1, 2))
        return F.relu(denoised) if self.variant == "a" else denoised

    def _embedded(self, x: Tensor, layers: nn.ModuleList) -> Tensor:
        """``(B, C / 2, T * H * W)``."""
        frames = x.unbind(2)
        per_frame = [(layers[i] if self.variant == "b" else layers[0])(frame) for i, frame in enumerate(frames)]
        return torch.stack(per_frame, 2).flatten(2)


def stages_of(network: nn.Module) -> list[str]:
    """Names of the stages of a 3D ResNet: ``layer1``, ``layer2``, ...

    Raises:
        BenchError: it has none.
    """
    names = [name for name, _ in network.named_children() if name.removeprefix("layer").isdigit()]
    if not names:
        raise BenchError(
            f"{type(network).__name__} has no stages named layer1, layer2, ...: this defence wraps 3D ResNets."
        )
    return names


def insert(network: nn.Module, stages: list[str], make: Callable[[int, int], nn.Module], sample: Tensor) -> nn.Module:
    """Puts a block behind stages of a network, in place.

    Args:
        make: channels and frames of a stage's features to its block.
        sample: a clip ``(1, 3, T, H, W)``, of the length that will be used; it tells the size of the features.

    Raises:
        BenchError: there is no such stage.
    """
    known = stages_of(network)
    for name in stages:
        if name not in known:
            raise BenchError(f"{type(network).__name__} has no stage {name!r}: it has {', '.join(known)}.")
    sizes: dict[str, torch.Size] = {}

    def note(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            sizes[name] = output.shape

        return hook

    hooks = [network.get_submodule(name).register_forward_hook(note(name)) for name in stages]
    training = network.training
    with torch.no_grad():
        network.eval()(sample)
    network.train(training)
    for handle in hooks:
        handle.remove()
    for name in stages:
        block = make(sizes[name][1], sizes[name][2]).to(sample.device).train(training)
        stage = OrderedDict(stage=network.get_submodule(name), defence=block)
        setattr(network, name, nn.Sequential(stage))
    return network
