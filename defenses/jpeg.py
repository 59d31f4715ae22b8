"""JPEG compression of every frame."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench import ClipRandom, Purifier, register
from bench.defense.codec import jpeg
from bench.defense.rounding import cubic, with_value

_SUBSAMPLING = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}  # Pillow's codes


@register(
    "jpeg",
    source="Das et al., SHIELD: Fast, Practical Defense and Vaccination for Deep Learning using JPEG Compression, KDD "
    "2018, section 3.1 (without the re-trained classifier)",
)
class JPEG(Purifier):
    """Compresses and decompresses every frame with a standard JPEG encoder.

    Quantisation has no exact gradient. ``bpda`` goes back through the same codec on tensors, whose coefficients are
    rounded with the derivative ``3 (x - round(x))^2`` (Shin and Song, JPEG-resistant Adversarial Images, NIPS Workshop
    2017): it spends the budget on coefficients that can change, where the identity spends it on those that are cut off.

    Args:
        quality: 1 to 95; SHIELD's code offers 80 and 75, VideoPure's table does not say.
        subsampling: chroma sub-sampling: ``4:4:4``, ``4:2:2`` or ``4:2:0``.
        rounding: how intensities become bytes before encoding: ``nearest``, or ``truncate`` as common
            image-conversion code does.
    """

    differentiable = False

    def __init__(
        self,
        quality: int = 75,
        subsampling: Literal["4:4:4", "4:2:2", "4:2:0"] = "4:2:0",
        rounding: Literal["nearest", "truncate"] = "nearest",
    ) -> None:
        super().__init__()
        if not isinstance(quality, int) or not 1 <= quality <= 95:
            raise ValueError(f"quality must be a whole number, 1 to 95, not {quality}")
        if subsampling not in _SUBSAMPLING:
            raise ValueError(f"subsampling must be one of {', '.join(_SUBSAMPLING)}, not {subsampling!r}")
        if rounding not in ("nearest", "truncate"):
            raise ValueError(f"rounding must be nearest or truncate, not {rounding!r}")
        self.quality, self.subsampling, self.rounding = quality, subsampling, rounding

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        scaled = clips.detach() * 255 + (0.5 if self.rounding == "nearest" else 0.0)
        frames = scaled.clamp(0, 255).byte().permute(0, 2, 3, 4, 1).cpu().numpy()  # (B, T, H, W, 3)
        decoded = np.stack([[self._roundtrip(frame) for frame in clip] for clip in frames])
        return torch.from_numpy(decoded).to(clips.device).permute(0, 4, 1, 2, 3).to(clips.dtype) / 255

    def bpda(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        pixels = with_value(clips, (255 * clips).floor() / 255) if self.rounding == "truncate" else clips
        return jpeg(pixels, self.quality, self.subsampling, cubic)

    def _roundtrip(self, frame: np.ndarray) -> np.ndarray:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=self.quality, subsampling=_SUBSAMPLING[self.subsampling])
        return np.asarray(Image.open(buffer))
