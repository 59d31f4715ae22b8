"""Random diffusion pipelines of toy width, saved exactly as published ones are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DConditionModel, UNet2DModel
from diffusers import UNet3DConditionModel as UNet3D
from transformers import CLIPTextConfig, CLIPTextModel

WIDTH = 16

SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "clip_sample": False,
}


def _save_text_encoder(folder: Path) -> None:
    """CLIP's text encoder, and its tokenizer with a vocabulary of letters."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    tokens = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir(parents=True)
    (tokenizer / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (tokenizer / "merges.txt").write_text("#version: 0.2\n")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 7,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(config))
    CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokens),
            hidden_size=WIDTH,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=7,
            bos_token_id=len(tokens) - 2,
            eos_token_id=len(tokens) - 1,
            pad_token_id=len(tokens) - 1,
        )
    ).save_pretrained(folder / "text_encoder")


def _save_autoencoder(folder: Path) -> None:
    AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.18215,
    ).save_pretrained(folder / "vae")


def save_modelscope(folder: Path, seed: int = 0, widths: tuple[int, int] = (16, 32), **schedule: Any) -> Path:
    """A random text-to-video pipeline in ModelScope's layout; ``widths`` are the U-Net's."""
    torch.manual_seed(seed)
    _save_text_encoder(folder)
    _save_autoencoder(folder)
    UNet3D(
        block_out_channels=widths,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=WIDTH,
        attention_head_dim=8,
    ).save_pretrained(folder / "unet")
    DDIMScheduler(**{**SCHEDULE, **schedule}).save_pretrained(folder / "scheduler")
    return folder


def save_stable_diffusion(folder: Path, seed: int = 0) -> Path:
    """A random text-to-image pipeline in the layout of Stable Diffusion 1.5."""
    torch.manual_seed(seed)
    _save_text_encoder(folder)
    _save_autoencoder(folder)
    UNet2DConditionModel(
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=WIDTH,
        attention_head_dim=8,
    ).save_pretrained(folder / "unet")
    DDIMScheduler(**SCHEDULE).save_pretrained(folder / "scheduler")
    return folder


def save_guided_diffusion(folder: Path, seed: int = 0) -> Path:
    """A random pixel-space image model with learned variances, as Guided Diffusion has."""
    torch.manual_seed(seed)
    UNet2DModel(
        in_channels=3,
        out_channels=6,
        block_out_channels=(16, 32),
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=8,
        resnet_time_scale_shift="scale_shift",
    ).save_pretrained(folder / "unet")
    DDPMScheduler(num_train_timesteps=1000, variance_type="learned_range").save_pretrained(folder / "scheduler")
    return folder
