"""Low-pass filter of every frame by Fourier transform."""

from __future__ import annotations

import torch
from torch import Tensor

from bench import ClipRandom, Filter, clip01, register


@register(
    "fft",
    source="Raff, Sylvester, Forsyth and McLean, Barrage of Random Transforms for Adversarially Robust Defense, CVPR "
    "2019, with a fixed cut-off",
)
class FFT(Filter):
    """Removes the high frequencies of every frame and clamps the rest to ``[0, 1]``.

    The barrage draws the cut-off per channel and scales what is left by up to 2 %; here all channels and frames have
    the same, and nothing is scaled. It is linear up to the clamp, so its exact gradient
    exists, and ``bpda`` is exact, too.

    Args:
        keep: share of the frequencies kept along each axis, above 0, at most 1: waves longer than ``2 / keep`` pixels.
    """

    def __init__(self, keep: float = 0.5) -> None:
        super().__init__()
        if not 0 < keep <= 1:
            raise ValueError(f"keep must be above 0 and at most 1, not {keep}")
        self.keep = keep

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        height, width = clips.shape[-2:]
        rows = torch.fft.fftfreq(height, device=clips.device).abs() <= self.keep / 2  # cycles per pixel, up to 1/2
        columns = torch.fft.rfftfreq(width, device=clips.device) <= self.keep / 2
        spectrum = torch.fft.rfft2(clips) * (rows[:, None] & columns)
        return clip01(torch.fft.irfft2(spectrum, s=(height, width)))
