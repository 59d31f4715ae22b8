"""Guided Diffusion's network at a small width: computed plainly from a state dict, and as built here."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.diffusion.guided import build_guided

HEAD, GROUPS = 8, 4


class Plain:
    """Guided Diffusion's U-Net from its state dict: two levels of 16 and 32 channels, the second attended, one residual
    block each; random weights are drawn as they are asked for."""

    def __init__(self) -> None:
        self.state: dict[str, Tensor] = {}
        self.generator = torch.Generator().manual_seed(0)

    def weight(self, name: str, *shape: int) -> Tensor:
        if name not in self.state:
            fan = math.prod(shape[1:]) if len(shape) > 1 else 4
            self.state[name] = torch.randn(shape, generator=self.generator) / fan**0.5
        return self.state[name]

    def conv(self, name: str, x: Tensor, outputs: int, kernel: int = 3) -> Tensor:
        weight = self.weight(f"{name}.weight", outputs, x.shape[1], kernel, kernel)
        return F.conv2d(x, weight, self.weight(f"{name}.bias", outputs), padding=kernel // 2)

    def linear(self, name: str, x: Tensor, outputs: int) -> Tensor:
        return F.linear(x, self.weight(f"{name}.weight", outputs, x.shape[1]), self.weight(f"{name}.bias", outputs))

    def norm(self, name: str, x: Tensor) -> Tensor:
        channels = x.shape[1]
        return F.group_norm(x, GROUPS, self.weight(f"{name}.weight", channels), self.weight(f"{name}.bias", channels))

    def resnet(self, name: str, x: Tensor, time: Tensor, outputs: int, resize: str = "") -> Tensor:
        hidden = F.silu(self.norm(f"{name}.in_layers.0", x))
        if resize == "down":
            hidden, x = F.avg_pool2d(hidden, 2), F.avg_pool2d(x, 2)
        if resize == "up":
            hidden, x = (F.interpolate(v, scale_factor=2, mode="nearest") for v in (hidden, x))
        hidden = self.conv(f"{name}.in_layers.2", hidden, outputs)
        scale, shift = self.linear(f"{name}.emb_layers.1", F.silu(time), 2 * outputs)[..., None, None].chunk(2, 1)
        hidden = self.norm(f"{name}.out_layers.0", hidden) * (1 + scale) + shift
        hidden = self.conv(f"{name}.out_layers.3", F.silu(hidden), outputs)
        if x.shape[1] != outputs:
            x = self.conv(f"{name}.skip_connection", x, outputs, 1)
        return x + hidden

    def attention(self, name: str, x: Tensor) -> Tensor:
        batch, channels = x.shape[:2]
        flat = self.norm(f"{name}.norm", x).flatten(2)
        weight = self.weight(f"{name}.qkv.weight", 3 * channels, channels, 1)
        qkv = F.conv1d(flat, weight, self.weight(f"{name}.qkv.bias", 3 * channels))
        # One head after the other, each with its queries, keys and values.
        q, k, v = qkv.reshape(batch * (channels // HEAD), 3 * HEAD, -1).split(HEAD, 1)
        seen = torch.softmax(q.transpose(1, 2) @ k / HEAD**0.5, -1)
        mixed = (v @ seen.transpose(1, 2)).reshape(batch, channels, -1)
        weight = self.weight(f"{name}.proj_out.weight", channels, channels, 1)
        return x + F.conv1d(mixed, weight, self.weight(f"{name}.proj_out.bias", channels)).view_as(x)

    def __call__(self, x: Tensor, t: int) -> Tensor:
        angles = t * torch.exp(-math.log(10000) * torch.arange(8) / 8)
        time = torch.cat([angles.cos(), angles.sin()]).expand(len(x), 16)
        time = self.linear("time_embed.2", F.silu(self.linear("time_embed.0", time, 64)), 64)
        x = self.conv("input_blocks.0.0", x, 16)
        kept = [x]
        x = self.resnet("input_blocks.1.0", x, time, 16)
        kept.append(x)
        x = self.resnet("input_blocks.2.0", x, time, 16, "down")
        kept.append(x)
        x = self.attention("input_blocks.3.1", self.resnet("input_blocks.3.0", x, time, 32))
        kept.append(x)
        x = self.resnet("middle_block.0", x, time, 32)
        x = self.resnet("middle_block.2", self.attention("middle_block.1", x), time, 32)
        for number in (0, 1):
            x = self.resnet(f"output_blocks.{number}.0", torch.cat([x, kept.pop()], 1), time, 32)
            x = self.attention(f"output_blocks.{number}.1", x)
        x = self.resnet("output_blocks.1.2", x, time, 32, "up")
        for number in (2, 3):
            x = self.resnet(f"output_blocks.{number}.0", torch.cat([x, kept.pop()], 1), time, 16)
        return self.conv("out.2", F.silu(self.norm("out.0", x)), 6)


def small() -> Any:
    """The network that :class:`Plain` computes, as built here."""
    return build_guided((16, 32), 1, (False, True), HEAD, GROUPS).eval()
