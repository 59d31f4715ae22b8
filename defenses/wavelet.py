"""Wavelet denoising of every frame."""

from __future__ import annotations

import numpy as np
import pywt
import torch
from torch import Tensor

from bench import ClipRandom, Purifier, register

# ITU-R BT.601 studio-range conversion, RGB in [0, 1] to YCbCr in [16, 240].
_YCBCR = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]])
_OFFSET = np.array([16.0, 128.0, 128.0])


@register(
    "wavelet",
    source="Mustafa et al., Image Super-Resolution as a Defense Against Adversarial Attacks, IEEE TIP 2020, wavelet "
    "step; BayesShrink: Chang, Yu and Vetterli, Adaptive Wavelet Thresholding for Image Denoising and Compression, "
    "IEEE TIP 2000",
)
class Wavelet(Purifier):
    """BayesShrink soft thresholding of each frame's YCbCr wavelet coefficients (PyWavelets).

    The threshold of a sub-band with coefficients ``w`` is ``s^2 / sqrt(max(mean(w^2) - s^2, 0))``, where ``s``
    is the assumed noise level in that colour channel.

    Args:
        sigma: assumed standard deviation of the noise in RGB, in units of ``[0, 1]``. The released script uses
            0.01 and lists values up to 0.04; the smaller, the weaker the perturbation it is meant for.
        wavelet: a discrete wavelet of PyWavelets; ``db1`` is Haar. The noise level of a sub-band is that of an
            orthogonal one.
    """

    differentiable = False

    def __init__(self, sigma: float = 0.01, wavelet: str = "db1") -> None:
        super().__init__()
        if not sigma > 0:
            raise ValueError(f"sigma must be positive, not {sigma}")
        if wavelet not in pywt.wavelist(kind="discrete"):
            raise ValueError(f"wavelet must be a discrete wavelet of PyWavelets such as db1, not {wavelet!r}")
        self.sigma, self.wavelet = sigma, pywt.Wavelet(wavelet)

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        rgb = clips.detach().cpu().double().permute(0, 2, 3, 4, 1).numpy()  # (B, T, H, W, 3)
        ycbcr = rgb @ _YCBCR.T + _OFFSET
        for channel in range(3):
            ycbcr[..., channel] = self._shrink(ycbcr[..., channel], self.sigma * float(np.linalg.norm(_YCBCR[channel])))
        denoised = (ycbcr - _OFFSET) @ np.linalg.inv(_YCBCR).T
        return torch.from_numpy(denoised).permute(0, 4, 1, 2, 3).to(clips).clamp(0, 1)

    def _shrink(self, frames: np.ndarray, sigma: float) -> np.ndarray:
        """Denoises single-channel frames ``(..., H, W)``, each sub-band of each frame by itself."""
        height, width = frames.shape[-2:]
        # The three coarsest scales are kept as they are: they hold the picture, not the noise.
        levels = max(pywt.dwtn_max_level((height, width), self.wavelet) - 3, 1)
        approximation, *details = pywt.wavedecn(frames, self.wavelet, level=levels, axes=(-2, -1))
        for level in details:
            for band, w in level.items():
                signal = np.maximum((w**2).mean(axis=(-2, -1), keepdims=True) - sigma**2, 1e-12)
                shrunk = np.maximum(np.abs(w) - sigma**2 / np.sqrt(signal), 0)
                level[band] = np.sign(w) * shrunk
        return pywt.waverecn([approximation, *details], self.wavelet, axes=(-2, -1))[..., :height, :width]
