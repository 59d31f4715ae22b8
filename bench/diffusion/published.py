"""Published diffusion models through diffusers: ModelScope's text-to-video, Stable Diffusion, Guided Diffusion.

They are read from this machine and never from a hub (:mod:`bench.weights.places`).

The prompt is always empty. Its embedding is a constant, computed once, after which the text encoder is dropped; and
since the unconditional prompt is empty too, classifier-free guidance adds a multiple of zero and is left out: half the
network calls for the same result, whatever the guidance scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel, UNet2DModel, UNet3DConditionModel
from safetensors import SafetensorError
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from bench.diffusion.base import DiffusionBackbone
from bench.diffusion.guided import load_guided
from bench.diffusion.replay import replayed
from bench.errors import BenchError

# diffusers and transformers are only partly typed.
_AutoencoderKL: Any = AutoencoderKL
_UNet2D: Any = UNet2DModel
_UNet2DCondition: Any = UNet2DConditionModel
_UNet3DCondition: Any = UNet3DConditionModel
_Scheduler: Any = DDIMScheduler
_TextModel: Any = CLIPTextModel
_Tokenizer: Any = CLIPTokenizer

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class LatentDiffusion(DiffusionBackbone):
    """A denoiser of the latents of an image autoencoder, with an empty prompt.

    Latents stay in single precision between the calls of the networks, which work in that of their weights.

    Args:
        autoencoder: diffusers' ``AutoencoderKL``; the posterior's mean is taken, scaled by its ``scaling_factor``.
        denoiser: a U-Net that predicts the noise.
        prompt: embedding of the empty prompt, ``(1, tokens, width)``.
        schedule: diffusers' scheduler, for its levels.
    """

    prompt: Tensor
    frames_at_once = 8

    def __init__(self, autoencoder: Any, denoiser: Any, prompt: Tensor, schedule: Any) -> None:
        super().__init__(schedule.alphas_cumprod, float(schedule.final_alpha_cumprod))
        self.autoencoder, self.denoiser = autoencoder, denoiser
        self.register_buffer("prompt", prompt)
        self.size_multiple = 2 ** (len(autoencoder.config.block_out_channels) - 1)

    def encode_frames(self, frames: Tensor) -> Tensor:
        code = self.autoencoder.encode(frames.to(self.autoencoder.dtype)).latent_dist
        mean: Tensor = code.mode()
        return mean.to(frames.dtype) * self.autoencoder.config.scaling_factor

    def decode_frames(self, latents: Tensor) -> Tensor:
        code = (latents / self.autoencoder.config.scaling_factor).to(self.autoencoder.dtype)
        frames: Tensor = self.autoencoder.decode(code).sample
        return frames.to(latents.dtype)

    def _denoise(self, latents: Tensor, t: Tensor) -> Tensor:
        prompt = self.prompt.expand(len(latents), -1, -1)
        noise: Tensor = self.denoiser(latents.to(self.denoiser.dtype), t, encoder_hidden_states=prompt).sample
        return noise.to(latents.dtype)


class ModelScope(LatentDiffusion):
    """ModelScope's text-to-video model: a 3-D U-Net on the latents of whole clips.

    Source: Wang et al., ModelScope Text-to-Video Technical Report, arXiv 2308.06571, 2023.
    """

    def noise(self, latents: Tensor, t: Tensor) -> Tensor:
        return self._denoise(latents, t)


class StableDiffusion(LatentDiffusion):
    """Stable Diffusion, frame by frame.

    Source: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, CVPR 2022.
    """

    per_frame = True

    def noise(self, latents: Tensor, t: Tensor) -> Tensor:
        return _by_frame(self._denoise, latents, t, self.frames_at_once)


class GuidedDiffusion(DiffusionBackbone):
    """An unconditional image model in pixel space (Dhariwal and Nichol, NeurIPS 2021), frame by frame.

    Of a network with learned variances only the noise is used.

    Args:
        denoiser: diffusers' ``UNet2DModel``.
        schedule: diffusers' scheduler, for its levels.
    """

    per_frame = True
    pixel_space: ClassVar[bool] = True

    def __init__(self, denoiser: Any, schedule: Any) -> None:
        super().__init__(schedule.alphas_cumprod, clean_level=1.0)
        self.denoiser = denoiser
        self.size_multiple = 2 ** (len(denoiser.config.block_out_channels) - 1)

    def encode_frames(self, frames: Tensor) -> Tensor:
        return frames

    def decode_frames(self, latents: Tensor) -> Tensor:
        return latents

    def noise(self, latents: Tensor, t: Tensor) -> Tensor:
        def denoise(frames: Tensor, t: Tensor) -> Tensor:
            noise: Tensor = self.denoiser(frames.to(self.denoiser.dtype), t).sample[:, :3]
            return noise.to(frames.dtype)

        return _by_frame(denoise, latents, t, self.frames_at_once)


def _by_frame(denoise: Callable[..., Tensor], latents: Tensor, t: Tensor, at_once: int) -> Tensor:
    """Applies an image model to clips, a bounded number of frames at a time, with gradients too."""
    frames = latents.transpose(1, 2)
    parts = zip(frames.flatten(0, 1).split(at_once), t.repeat_interleave(frames.shape[1]).split(at_once), strict=True)
    noises = torch.cat([replayed(partial(denoise, t=times), part) for part, times in parts])
    return noises.unflatten(0, frames.shape[:2]).transpose(1, 2)


def load_modelscope(weights: str, precision: str) -> ModelScope:
    """ModelScope's text-to-video model from a folder with ``unet``, ``vae``, ``text_encoder``,
    ``tokenizer`` and ``scheduler``.

    Raises:
        BenchError: a part is absent, unreadable or of another architecture, or predicts something else than noise.
    """
    return ModelScope(*_latent_parts(weights, precision, _UNet3DCondition))


def load_stable_diffusion(weights: str, precision: str) -> StableDiffusion:
    """Stable Diffusion from a folder, as :func:`load_modelscope`."""
    return StableDiffusion(*_latent_parts(weights, precision, _UNet2DCondition))


def load_guided_diffusion(weights: str, precision: str) -> GuidedDiffusion:
    """A pixel-space image model: OpenAI's ``256x256_diffusion_uncond.pt``, or a folder with ``unet`` and
    ``scheduler`` (diffusers' layout of DDPM pipelines).

    Raises:
        BenchError: as :func:`load_modelscope`.
    """
    if Path(weights).is_file():
        return GuidedDiffusion(load_guided(Path(weights)).to(_DTYPES[precision]), _Scheduler(beta_schedule="linear"))
    return GuidedDiffusion(_load(_UNet2D, weights, "unet", precision), _schedule(weights))


def _latent_parts(weights: str, precision: str, unet: Any) -> tuple[Any, Any, Tensor, Any]:
    denoiser = _load(unet, weights, "unet", precision)
    autoencoder = _load(_AutoencoderKL, weights, "vae", precision)
    return autoencoder, denoiser, _empty_prompt(weights, denoiser.dtype), _schedule(weights)


def _load(kind: Any, weights: str, part: str, precision: str) -> Any:
    """One network of a pipeline, after a look at what its description says it is."""
    with _explained(weights, part):
        stated = kind.load_config(weights, subfolder=part, local_files_only=True).get("_class_name", kind.__name__)
    if stated != kind.__name__:
        raise BenchError(f"The part {part!r} of {weights} is a {stated}, but a {kind.__name__} is wanted.")
    with _explained(weights, part):
        # Without low_cpu_mem_usage diffusers recommends another package, at length.
        network, report = kind.from_pretrained(
            weights,
            subfolder=part,
            torch_dtype=_DTYPES[precision],
            low_cpu_mem_usage=False,
            output_loading_info=True,
            local_files_only=True,
        )
    _complete(report, weights, part)
    return network


def _complete(report: Mapping[str, Any], weights: str, part: str) -> None:
    """Refuses files that lack weights, in whose place the libraries would put random ones."""
    for what in ("missing_keys", "mismatched_keys"):
        keys = sorted(map(str, report.get(what, ())))
        if keys:
            raise BenchError(
                f"The part {part!r} of {weights} is incomplete: {len(keys)} {what.replace('_', ' ')}, such as "
                f"{keys[0]}; get it again."
            )


def _empty_prompt(weights: str, dtype: torch.dtype) -> Tensor:
    """The text encoder's output for the empty prompt, ``(1, tokens, width)``."""
    with _explained(weights, "tokenizer"):
        tokenizer = _Tokenizer.from_pretrained(weights, subfolder="tokenizer", local_files_only=True)
    with _explained(weights, "text_encoder"):
        encoder, report = _TextModel.from_pretrained(
            weights, subfolder="text_encoder", output_loading_info=True, local_files_only=True
        )
    _complete(report, weights, "text_encoder")
    if len(tokenizer) != encoder.config.vocab_size:  # of an absent vocabulary, transformers makes an empty one
        raise BenchError(
            f"Cannot load 'tokenizer' of the folder {weights}: its vocabulary has {len(tokenizer)} words, the text "
            f"encoder's {encoder.config.vocab_size}; get both again."
        )
    length = encoder.config.max_position_embeddings
    tokens = tokenizer("", padding="max_length", max_length=length, return_tensors="pt")
    with torch.no_grad():
        embedding: Tensor = encoder.eval()(tokens.input_ids).last_hidden_state
    return embedding.to(dtype)


def _schedule(weights: str) -> Any:
    with _explained(weights, "scheduler"):
        scheduler = _Scheduler.from_pretrained(weights, subfolder="scheduler", local_files_only=True)
    predicts = scheduler.config.prediction_type
    if predicts != "epsilon":
        raise BenchError(f"The model in {weights} predicts {predicts}, but purifiers need one that predicts epsilon.")
    return scheduler


# What diffusers, transformers and the readers beneath them raise on files that are not what they should be.
_UNREADABLE = (
    SafetensorError,
    UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    OSError,
    LookupError,
    AttributeError,
    TypeError,
)


@contextmanager
def _explained(weights: str, part: str) -> Iterator[None]:
    """Turns what diffusers and transformers raise on bad files into one sentence."""
    try:
        yield
    except _UNREADABLE as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BenchError(
            f"Cannot load {part!r} of the folder {weights}: {reason} (give 'weights', a folder in diffusers' layout)."
        ) from error


LOADERS: dict[str, Callable[[str, str], DiffusionBackbone]] = {
    "modelscope": load_modelscope,
    "stable_diffusion": load_stable_diffusion,
    "guided_diffusion": load_guided_diffusion,
}
"""By name: weights and precision to the model."""
