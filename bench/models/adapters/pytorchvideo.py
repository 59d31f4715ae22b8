"""``pytorchvideo:NAME``: the networks that PyTorchVideo builds for its hub (Fan et al., PyTorchVideo: A Deep Learning
Library for Video Understanding, ACM Multimedia 2021)."""

from __future__ import annotations

import warnings
from typing import Any

from bench.errors import BenchError, nearest
from bench.models.adapters._wrapped import Factory, Wrapped
from bench.models.base import build_seeded

# Frames and side, in pixels, of the clips on which the hub's weights are evaluated (PyTorchVideo's hub pages).
_CLIPS = {
    "c2d_r50": (8, 256),
    "csn_r101": (32, 256),
    "i3d_r50": (8, 256),
    "mvit_base_16x4": (16, 224),
    "mvit_base_32x3": (32, 224),
    "r2plus1d_r50": (16, 256),
    "slow_r50": (8, 256),
    "slowfast_16x8_r101_50_50": (64, 256),
    "slowfast_r101": (32, 256),
    "slowfast_r50": (32, 256),
    "x3d_l": (16, 312),
    "x3d_m": (16, 224),
    "x3d_s": (13, 160),
    "x3d_xs": (4, 160),
}


def factory(name: str) -> Factory:
    """The factory of one of PyTorchVideo's networks.

    Raises:
        BenchError: its hub has none of that name.
    """
    if name not in _CLIPS:
        raise BenchError(
            f"PyTorchVideo's hub has no classifier {name!r}{nearest(name, _CLIPS)}; it has: {', '.join(_CLIPS)}."
        )
    frames, side = _CLIPS[name]
    is_mvit = name.startswith("mvit")

    def make(num_classes: int = 400, seed: int = 0, options: Any = None) -> Wrapped:
        """A network of PyTorchVideo's hub, of random weights unless a checkpoint is given.

        Args:
            num_classes: rows of the final layer.
            seed: of random weights.
            options: further arguments of PyTorchVideo's builder, as a mapping.
        """
        with warnings.catch_warnings():  # importing PyTorchVideo compiles two swish kernels, loudly
            warnings.simplefilter("ignore")
            from pytorchvideo.models import hub
        classes = {"head_num_classes" if is_mvit else "model_num_class": num_classes}
        network: Any = build_seeded(
            lambda: getattr(hub, name)(pretrained=False, **{**classes, **(options or {})}), seed
        )
        head: Any = network.blocks[-1] if hasattr(network, "blocks") else None
        if hasattr(head, "activation"):  # X3D's puts out probabilities, through whose rounding no gradient passes
            head.activation = None
        return Wrapped(
            network,
            mean=(0.45, 0.45, 0.45),
            std=(0.225, 0.225, 0.225),
            size=side,
            frames=frames,
            layout="pathways" if name.startswith("slowfast") else "BCTHW",
        )

    return make
