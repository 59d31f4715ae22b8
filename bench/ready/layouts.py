"""Weights of random values in the layouts of published files, of the published size or narrower."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bench.data.base import Missing
from bench.defense.trained import TrainedDefense
from bench.errors import BenchError
from bench.models.base import build_seeded
from bench.registry import DEFENSES, MODELS, Spec
from bench.weights.places import GUIDED, folder_name
from bench.weights.zoo import PUBLISHED, build_classifier

# Networks of Hara et al. are stored with what their training keeps beside them, and TT's as state dicts in a wrapper.
_WRAPPED = ("nl_r50", "slowfast_r50")
_WITH_OPTIMISER = {"resnext3d101": "resnext-101", "wrn3d50": "wideresnet-50", "r3d18_hara": "resnet-18"}
_BIAS = 5.0


def write_classifier(spec: Spec, dataset: str, classes: int, folder: Path, seed: int = 0) -> Path | None:
    """A published classifier's file, with random weights that answer class 0, so that an attack has work to do.

    Args:
        folder: the data root; the file goes where it is looked for below it.

    Returns:
        The file; ``None`` if nothing is published for this classifier and data set.
    """
    published = PUBLISHED.get((spec.name, dataset))
    if published is None:
        return None
    path = folder / published.put
    if path.is_file():
        return path
    entry = MODELS.get(spec.name)
    takes = {p.name for p in entry.parameters}
    params = {"num_classes": classes, **({"flow": "flow_tiny", "flow_weights": ""} if "flow" in takes else {})}
    network: nn.Module = build_seeded(lambda: entry.create(params), seed)
    network = getattr(network, "stream", network)
    state = _preferring(network.state_dict(), classes)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(state, path)
    elif spec.name in _WITH_OPTIMISER:
        wrapped = {f"module.{key}": value for key, value in state.items()}
        torch.save({"epoch": 1, "arch": _WITH_OPTIMISER[spec.name], "state_dict": wrapped, "optimizer": {}}, path)
    else:
        torch.save({"state_dict": state} if spec.name in _WRAPPED and dataset == "ucf101" else state, path)
    return path


def _preferring(state: Mapping[str, Tensor], classes: int) -> dict[str, Tensor]:
    """A state dict whose final layer answers class 0."""
    changed = {key: value.clone() for key, value in state.items()}
    final = [key for key, value in changed.items() if key.endswith(".bias") and tuple(value.shape) == (classes,)]
    if final:
        weight = changed[final[-1].removesuffix("bias") + "weight"]
        weight.mul_(0.1)
        changed[final[-1]][0] += _BIAS
    return changed


def write_trained(defense: Spec, model: Spec, dataset: str, classes: int, folder: Path) -> Path:
    """Weights of a trained defence around a classifier that is there, random in what the defence adds."""
    made: TrainedDefense = DEFENSES.create(defense)
    place = made.find(model.name, dataset, folder)
    if isinstance(place, Path):
        return place
    takes = {p.name for p in MODELS.get(model.name).parameters}
    own = Spec(model.name, {**model.params, **({"num_classes": classes} if "num_classes" in takes else {})})
    network = build_seeded(lambda: made.network(copy.deepcopy(build_classifier(own, None))), 0)
    path = Path(str(place.put).partition(", or")[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in _preferring(network.state_dict(), classes).items()}, path)
    return path


def write_flow(missing: Missing) -> Path:
    """RAFT's file of torchvision, where it is looked for."""
    from torchvision.models import get_model

    path = Path(missing.put)
    size = "raft_large" if path.name.startswith("raft_large") else "raft_small"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(build_seeded(lambda: get_model(size, weights=None), 0).state_dict(), path)
    return path


def _width(published: int, width: float) -> int:
    """A number of channels, narrower: a multiple of 32, or a power of two where it is less."""
    wanted = int(published * width)
    return 32 * round(wanted / 32) if wanted >= 32 else max(8, 2 ** (wanted.bit_length() - 1))


def write_pipeline(kind: str, folder: Path, width: float = 1.0, seed: int = 0) -> Path:
    """A diffusion model in diffusers' layout with random weights in half precision.

    The text encoder is small whatever the width: its output for the empty prompt is a constant of the right shape.

    Args:
        kind: ``modelscope``, ``stable_diffusion`` or ``guided_diffusion``, which is written in diffusers' layout, too.
        folder: of the pipeline.
        width: share of the published number of channels.

    Raises:
        BenchError: there is no such model.
    """
    if kind not in _UNETS:
        raise BenchError(f"There is no layout of {kind!r}; known: {', '.join(_UNETS)}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _UNETS[kind](folder, width)
    return folder


def _channels(width: float) -> tuple[tuple[int, ...], int]:
    """Channels of Stable Diffusion's U-Net, and groups of its normalisation."""
    widths = tuple(_width(channels, width) for channels in (320, 640, 1280, 1280))
    return widths, min(32, widths[0])


def _modelscope(folder: Path, width: float) -> None:
    from diffusers import UNet3DConditionModel

    widths, groups = _channels(width)
    text = _width(1024, width)
    build: Any = UNet3DConditionModel
    build(
        block_out_channels=widths,
        norm_num_groups=groups,
        cross_attention_dim=text,
        attention_head_dim=min(64, widths[0]),
    ).half().save_pretrained(folder / "unet")
    _latent_parts(folder, width, text)


def _stable_diffusion(folder: Path, width: float) -> None:
    from diffusers import UNet2DConditionModel

    widths, groups = _channels(width)
    text = _width(768, width)
    build: Any = UNet2DConditionModel
    build(
        block_out_channels=widths, norm_num_groups=groups, cross_attention_dim=text, attention_head_dim=min(8, groups)
    ).half().save_pretrained(folder / "unet")
    _latent_parts(folder, width, text)


def _guided_diffusion(folder: Path, width: float) -> None:
    from diffusers import DDPMScheduler

    from bench.diffusion.guided import build_guided

    widths = tuple(_width(channels, width) for channels in (256, 256, 512, 512, 1024, 1024))
    network = build_guided(widths, head=min(64, widths[0]), groups=min(32, widths[0]))
    network.half().save_pretrained(folder / "unet")
    scheduler: Any = DDPMScheduler
    scheduler(num_train_timesteps=1000, variance_type="learned_range").save_pretrained(folder / "scheduler")


_UNETS = {"modelscope": _modelscope, "stable_diffusion": _stable_diffusion, "guided_diffusion": _guided_diffusion}


def _latent_parts(folder: Path, width: float, text: int) -> None:
    """What stands beside the U-Net: autoencoder, text encoder, tokenizer, schedule."""
    from diffusers import AutoencoderKL, DDIMScheduler

    channels = tuple(_width(count, width) for count in (128, 256, 512, 512))
    build: Any = AutoencoderKL
    build(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=min(32, channels[0]),
        scaling_factor=0.18215,
    ).half().save_pretrained(folder / "vae")
    scheduler: Any = DDIMScheduler
    scheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        set_alpha_to_one=False,
        steps_offset=1,
        clip_sample=False,
    ).save_pretrained(folder / "scheduler")
    _text_encoder(folder, text)


def _text_encoder(folder: Path, width: int) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir(parents=True, exist_ok=True)
    (tokenizer / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (tokenizer / "merges.txt").write_text("#version: 0.2\n")
    ends = {"bos_token": tokens[-2], "eos_token": tokens[-1], "unk_token": tokens[-1], "pad_token": tokens[-1]}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **ends}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(config))
    last = len(tokens) - 1
    described: Any = CLIPTextConfig
    encoder: Any = CLIPTextModel
    encoder(
        described(
            vocab_size=len(tokens),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=1,
            num_attention_heads=min(8, width),
            max_position_embeddings=77,
            bos_token_id=last - 1,
            eos_token_id=last,
            pad_token_id=last,
        )
    ).save_pretrained(folder / "text_encoder")


def pipeline_folder(kind: str, hub: str, weights: Path) -> Path:
    """Where a pipeline is looked for in the folder of weights."""
    return weights / (GUIDED if kind == "guided_diffusion" else folder_name(hub))
