"""Wavelet denoising of every frame."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pywt
import torch
from torch import Tensor

from bench import ClipRandom, Filter, clip01, register

# ITU-R BT.601 studio-range conversion, RGB in [0, 1] to YCbCr in [16, 240].
_YCBCR = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]])
_OFFSET = np.array([16.0, 128.0, 128.0])


@register(
    "wavelet",
    source="Mustafa et al., Image Super-Resolution as a Defense Against Adversarial Attacks, IEEE TIP 2020, wavelet "
    "step; BayesShrink: Chang, Yu and Vetterli, Adaptive Wavelet Thresholding for Image Denoising and Compression, "
    "IEEE TIP 2000",
)
class Wavelet(Filter):
    """BayesShrink soft thresholding of each frame's YCbCr wavelet coefficients (transforms of PyWavelets).

    The threshold of a sub-band with coefficients ``w`` is ``s^2 / sqrt(max(mean(w^2) - s^2, 0))``, where ``s``
    is the assumed noise level in that colour channel.

    The transforms are linear and a soft threshold has a derivative almost everywhere, that of the threshold itself
    included, so the exact gradient exists. The identity would send it to coefficients that are cut off: here ``bpda``
    is exact, too.

    Args:
        sigma: assumed standard deviation of the noise in RGB, in units of ``[0, 1]``. The released script uses
            0.01 and lists values up to 0.04; the smaller, the weaker the perturbation it is meant for.
        wavelet: a discrete wavelet of PyWavelets; ``db1`` is Haar. The noise level of a sub-band is that of an
            orthogonal one.
    """

    def __init__(self, sigma: float = 0.01, wavelet: str = "db1") -> None:
        super().__init__()
        if not sigma > 0:
            raise ValueError(f"sigma must be positive, not {sigma}")
        if wavelet not in pywt.wavelist(kind="discrete"):
            raise ValueError(f"wavelet must be a discrete wavelet of PyWavelets such as db1, not {wavelet!r}")
        self.sigma, self.wavelet = sigma, pywt.Wavelet(wavelet)

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        colours, offset = (torch.from_numpy(array).to(clips.device) for array in (_YCBCR, _OFFSET[:, None, None, None]))
        ycbcr = torch.einsum("cd,bdthw->bcthw", colours, clips.double()) + offset
        levels = [self.sigma * float(np.linalg.norm(row)) for row in _YCBCR]
        planes = [self._shrink(plane, level) for plane, level in zip(ycbcr.unbind(1), levels, strict=True)]
        denoised = torch.einsum("cd,bdthw->bcthw", torch.linalg.inv(colours), torch.stack(planes, dim=1) - offset)
        return clip01(denoised.to(clips.dtype))

    def _shrink(self, frames: Tensor, sigma: float) -> Tensor:
        """Denoises single-channel frames ``(..., H, W)``, each sub-band of each frame by itself."""
        height, width = frames.shape[-2:]
        # The three coarsest scales are kept as they are: they hold the picture, not the noise.
        levels = max(pywt.dwtn_max_level((height, width), self.wavelet) - 3, 1)
        return self._denoised(frames, sigma, levels)

    def _denoised(self, frames: Tensor, sigma: float, levels: int) -> Tensor:
        """Shrinks the details of this level and of ``levels - 1`` coarser ones."""
        if not levels:
            return frames
        height, width = frames.shape[-2:]
        down, right = (_matrices(self.wavelet.name, side) for side in (height, width))
        split = [[rows @ frames @ columns.T for columns in right[0].to(frames)] for rows in down[0].to(frames)]
        ((coarse, _), _) = split
        bands = [[_soft(w, sigma) for w in row] for row in split]
        bands[0][0] = self._denoised(coarse, sigma, levels - 1)
        joined = frames.new_zeros(())
        for rows, line in zip(down[1].to(frames), bands, strict=True):
            for columns, band in zip(right[1].to(frames), line, strict=True):
                joined = joined + rows @ band @ columns.T
        return joined


def _soft(w: Tensor, sigma: float) -> Tensor:
    """Soft threshold of the coefficients of sub-bands, ``(..., h, w)``, each with its own."""
    signal = (w.square().mean(dim=(-2, -1), keepdim=True) - sigma**2).clamp_min(1e-12)
    return w.sign() * (w.abs() - sigma**2 / signal.sqrt()).clamp_min(0)


@lru_cache(maxsize=64)
def _matrices(wavelet: str, side: int) -> tuple[Tensor, Tensor]:
    """One level of the transform of ``side`` values as matrices, low and high pass, and back.

    Returns:
        ``float64 (2, n, side)`` and ``(2, side, n)``.
    """
    forth = pywt.dwt(np.eye(side), wavelet, axis=0)
    none = np.zeros((len(forth[0]),) * 2)
    one = np.eye(len(forth[0]))
    back = [pywt.idwt(*pair, wavelet, axis=0)[:side] for pair in ((one, none), (none, one))]
    return torch.from_numpy(np.stack(forth)), torch.from_numpy(np.stack(back))
