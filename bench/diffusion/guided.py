"""Guided Diffusion's own checkpoints (Dhariwal and Nichol, NeurIPS 2021) as diffusers' ``UNet2DModel``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusers import UNet2DModel
from torch import Tensor

from bench.errors import BenchError
from bench.weights.files import load_checkpoint, load_strictly

_UNet2D: Any = UNet2DModel  # only partly typed

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def build_guided(
    widths: Sequence[int] = (256, 256, 512, 512, 1024, 1024),
    layers: int = 2,
    attended: Sequence[bool] = (False, False, False, True, True, True),
    head: int = 64,
    groups: int = 32,
) -> Any:
    """The architecture of Guided Diffusion; the defaults are ``256x256_diffusion_uncond``.

    Args:
        widths: channels of each level.
        layers: residual blocks per level on the way down; there is one more on the way up.
        attended: whether a level has self-attention (at 32, 16 and 8 pixels of 256).
        head: channels of an attention head.
        groups: of the normalisation.
    """
    return _UNet2D(
        in_channels=3,
        out_channels=6,
        block_out_channels=tuple(widths),
        layers_per_block=layers,
        down_block_types=tuple("AttnDownBlock2D" if a else "ResnetDownsampleBlock2D" for a in attended),
        up_block_types=tuple("AttnUpBlock2D" if a else "ResnetUpsampleBlock2D" for a in reversed(attended)),
        downsample_type="resnet",
        upsample_type="resnet",
        resnet_time_scale_shift="scale_shift",
        attention_head_dim=head,
        norm_num_groups=groups,
        attn_norm_num_groups=groups,
        norm_eps=1e-5,
        flip_sin_to_cos=True,
        freq_shift=0,
    )


def _pairs(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names of modules: diffusers', and those of Guided Diffusion's checkpoint, which counts blocks in one row."""
    yield "time_embedding.linear_1", "time_embed.0"
    yield "time_embedding.linear_2", "time_embed.2"
    yield "conv_in", "input_blocks.0.0"
    levels, layers = len(config["block_out_channels"]), config["layers_per_block"]
    number = 1
    for level, kind in enumerate(config["down_block_types"]):
        for layer in range(layers):
            yield f"down_blocks.{level}.resnets.{layer}", f"input_blocks.{number}.0"
            if kind.startswith("Attn"):
                yield f"down_blocks.{level}.attentions.{layer}", f"input_blocks.{number}.1"
            number += 1
        if level < levels - 1:
            yield f"down_blocks.{level}.downsamplers.0", f"input_blocks.{number}.0"
            number += 1
    yield "mid_block.resnets.0", "middle_block.0"
    yield "mid_block.attentions.0", "middle_block.1"
    yield "mid_block.resnets.1", "middle_block.2"
    number = 0
    for level, kind in enumerate(config["up_block_types"]):
        attended = kind.startswith("Attn")
        for layer in range(layers + 1):
            yield f"up_blocks.{level}.resnets.{layer}", f"output_blocks.{number}.0"
            if attended:
                yield f"up_blocks.{level}.attentions.{layer}", f"output_blocks.{number}.1"
            if layer == layers and level < levels - 1:
                yield f"up_blocks.{level}.upsamplers.0", f"output_blocks.{number}.{1 + attended}"
            number += 1
    yield "conv_norm_out", "out.0"
    yield "conv_out", "out.2"


def convert(state: Mapping[str, Tensor], network: Any) -> dict[str, Tensor]:
    """Guided Diffusion's state dict under diffusers' names.

    Queries, keys and values of one head stand together in Guided Diffusion's file ("legacy" order), heads in a row.

    Args:
        state: as published.
        network: made by :func:`build_guided`; tells which module is which.

    Raises:
        BenchError: a module of the network has no weights in the file.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        module, _, kind = key.rpartition(".")
        parts.setdefault(module, {})[kind] = value
    converted: dict[str, Tensor] = {}

    def take(name: str, module: str) -> None:
        converted.update({f"{name}.{kind}": value for kind, value in parts.pop(module, {}).items()})

    for name, module in _pairs(network.config):
        if ".attentions." in name:
            take(f"{name}.group_norm", f"{module}.norm")
            for kind, value in parts.pop(f"{module}.qkv", {}).items():
                heads = value.shape[0] // (3 * network.config["attention_head_dim"])
                split = value.flatten(1) if kind == "weight" else value
                by_head = split.unflatten(0, (heads, 3, -1))
                for i, to in enumerate(("to_q", "to_k", "to_v")):
                    converted[f"{name}.{to}.{kind}"] = by_head[:, i].flatten(0, 1)
            for kind, value in parts.pop(f"{module}.proj_out", {}).items():
                converted[f"{name}.to_out.0.{kind}"] = value.flatten(1) if kind == "weight" else value
        elif any(f"{module}.{theirs}" in parts for theirs in _RESNET.values()):
            for ours, theirs in _RESNET.items():
                take(f"{name}.{ours}", f"{module}.{theirs}")
        else:
            take(name, module)
    if parts:
        raise BenchError(f"A checkpoint of Guided Diffusion has no {next(iter(parts))}: this one is another network's.")
    return converted


def load_guided(path: Path) -> Any:
    """``256x256_diffusion_uncond.pt`` as published by OpenAI.

    Raises:
        BenchError: the file is absent, unreadable or of another network.
    """
    network = build_guided()
    load_strictly(network, convert(load_checkpoint(path), network), path)
    return network
