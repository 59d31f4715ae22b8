"""JPEG compression of every frame."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from bench import ClipRandom, Purifier, register
from bench.defense.codec import PIXELS_PER_CHROMA, jpeg
from bench.defense.frames import by_frames
from bench.defense.libjpeg import transcoded
from bench.defense.rounding import cubic, with_value


@register(
    "jpeg",
    source="Das et al., SHIELD: Fast, Practical Defense and Vaccination for Deep Learning using JPEG Compression, KDD "
    "2018, section 3.1 (without the re-trained classifier)",
)
class JPEG(Purifier):
    """Compresses and decompresses every frame with the arithmetic of libjpeg, on the device of the clip.

    It equals what Pillow reads of its own files, to the last bit (:mod:`bench.defense.libjpeg`).

    Quantisation has no exact gradient. ``bpda`` goes back through the same codec in real numbers, whose coefficients
    are rounded with the derivative ``3 (x - round(x))^2`` (Shin and Song, JPEG-resistant Adversarial Images, NIPS
    Workshop 2017): it spends the budget on coefficients that can change, where the identity spends it on those that are
    cut off.

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
        if subsampling not in PIXELS_PER_CHROMA:
            raise ValueError(f"subsampling must be one of {', '.join(PIXELS_PER_CHROMA)}, not {subsampling!r}")
        if rounding not in ("nearest", "truncate"):
            raise ValueError(f"rounding must be nearest or truncate, not {rounding!r}")
        self.quality, self.subsampling, self.rounding = quality, subsampling, rounding

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return by_frames(self._coded, clips.detach())

    def _coded(self, frames: Tensor) -> Tensor:
        scaled = frames * 255 + (0.5 if self.rounding == "nearest" else 0.0)
        return transcoded(scaled.clamp_(0, 255).floor_(), self.quality, self.subsampling).to(frames.dtype).div_(255)

    def bpda(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        pixels = with_value(clips, (255 * clips).floor() / 255) if self.rounding == "truncate" else clips
        return jpeg(pixels, self.quality, self.subsampling, cubic)
