"""Wavelet denoising of every frame."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import pywt
import torch
from torch import Tensor

from bench import ClipRandom, Filter, clip01, register
from bench.defense.frames import by_frames

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
        return clip01(by_frames(self._filtered, clips))

    def _filtered(self, frames: Tensor) -> Tensor:
        offset = frames.new_tensor(_OFFSET, dtype=torch.float64)[:, None, None]
        ycbcr = _mixed(_YCBCR, frames.double()) + offset
        levels = self.sigma * np.linalg.norm(_YCBCR, axis=1)
        noise = frames.new_tensor(levels, dtype=torch.float64)[:, None, None]
        denoised = self._denoised(ycbcr, noise, self._levels(*frames.shape[-2:]))
        return _mixed(np.linalg.inv(_YCBCR), denoised - offset)

    def _levels(self, height: int, width: int) -> int:
        """How many scales are shrunk: the three coarsest stay as they are, as they hold the picture, not the noise."""
        return max(pywt.dwtn_max_level((height, width), self.wavelet) - 3, 1)

    def _denoised(self, frames: Tensor, sigma: Tensor, levels: int) -> Tensor:
        """Shrinks the details of this level and of ``levels - 1`` coarser ones, each sub-band of each plane by itself.

        Args:
            frames: ``float64 (N, 3, H, W)``.
            sigma: level of the noise of each channel, ``(3, 1, 1)``.
        """
        if not levels:
            return frames
        height, width = frames.shape[-2:]
        (coarse, across), details = (_split(half, 3, self.wavelet) for half in _split(frames, 2, self.wavelet))
        coarse = self._denoised(coarse, sigma, levels - 1)
        upper = _joined(coarse, _soft(across, sigma), 3, self.wavelet, width)
        lower = _joined(_soft(details[0], sigma), _soft(details[1], sigma), 3, self.wavelet, width)
        return _joined(upper, lower, 2, self.wavelet, height)


def _mixed(matrix: np.ndarray, frames: Tensor) -> Tensor:
    """Colours ``(N, 3, H, W)`` after a matrix ``(3, 3)``."""
    return (frames.new_tensor(matrix) @ frames.flatten(2)).view_as(frames)


def _soft(w: Tensor, sigma: Tensor) -> Tensor:
    """Soft threshold of the coefficients of sub-bands, ``(..., h, w)``, each with its own."""
    signal = (w.square().mean(dim=(-2, -1), keepdim=True) - sigma**2).clamp_min(1e-12)
    threshold = sigma**2 / signal.sqrt()
    return w - torch.clamp(w, -threshold, threshold)


def _split(values: Tensor, axis: int, wavelet: pywt.Wavelet) -> tuple[Tensor, Tensor]:
    """One level of the transform along an axis: low and high pass, ``(side + taps - 1) // 2`` values each.

    Beyond the border, values go on as in a mirror that stands on it.
    """
    side, taps = values.shape[axis], wavelet.dec_len
    count = (side + taps - 1) // 2
    if 2 * count + taps - 2 > side:
        places = torch.arange(2 - taps, 2 * count, device=values.device) % (2 * side)
        values = values.index_select(axis, torch.where(places < side, places, 2 * side - 1 - places))
    phases = values.unflatten(axis, (-1, 2)).unbind(axis + 1)
    return _filtered(phases, axis, wavelet.dec_lo[::-1], count), _filtered(phases, axis, wavelet.dec_hi[::-1], count)


def _joined(low: Tensor, high: Tensor, axis: int, wavelet: pywt.Wavelet, side: int) -> Tensor:
    """The way back to ``side`` values."""
    count = low.shape[axis] - wavelet.rec_len // 2 + 1
    phases = [
        _filtered((low,), axis, wavelet.rec_lo[::-1][1 - parity :: 2], count)
        + _filtered((high,), axis, wavelet.rec_hi[::-1][1 - parity :: 2], count)
        for parity in range(2)
    ]
    return torch.stack(phases, axis + 1).flatten(axis, axis + 1).narrow(axis, 0, side)


def _filtered(phases: Sequence[Tensor], axis: int, taps: Sequence[float], count: int) -> Tensor:
    """The first ``count`` sums of neighbours along an axis, weighted by ``taps``; values are dealt out to phases."""
    terms = [tap * phases[k % len(phases)].narrow(axis, k // len(phases), count) for k, tap in enumerate(taps) if tap]
    return functools.reduce(torch.add, terms)
