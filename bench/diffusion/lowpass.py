"""What denoising leaves of a perturbation, without a network: the linear denoiser of the clip's own spectrum."""

from __future__ import annotations

import torch
from torch import Tensor


def wiener(latents: Tensor, level: float, *, per_frame: bool) -> Tensor:
    """Latents filtered as the best linear denoiser would filter them at a noise level; linear in the latents.

    Of a stationary Gaussian signal of spectrum ``S``, the posterior mean under noise keeps the share
    ``S / (S + noise)`` of every frequency (Wiener, Extrapolation, Interpolation, and Smoothing of Stationary Time
    Series, 1949), with the noise ``(1 - abar) / abar`` of a latent scaled back to size one. A purifier that denoises
    from there keeps about as much of whatever was added to the clip: nearly all of what is coarse and slow, nearly
    nothing of what is fine. The spectrum is that of the latents themselves, averaged over rings of one spatial
    frequency, for every channel and rate.

    Args:
        latents: ``(B, C, T, h, w)``. The gradient is that of a constant filter.
        level: ``abar`` of the timestep from which the purifier denoises.
        per_frame: whether the model knows frames alone: what is kept then does not depend on the rate.

    Returns:
        The shape of ``latents``.
    """
    height, width = latents.shape[-2:]
    rows, columns = (torch.fft.fftfreq(n, device=latents.device, dtype=torch.float32) for n in (height, width))
    rings = (torch.hypot(rows[:, None], columns) * max(height, width)).round().long().flatten()
    size = int(rings.max()) + 1
    counts = torch.bincount(rings, minlength=size).to(latents)
    spectrum = torch.fft.fftn(latents, dim=(-3, -2, -1), norm="ortho")
    power = spectrum.detach().abs().square().flatten(-2)  # (B, C, T, hw), the rate in place of T
    means = power.new_zeros(*power.shape[:-1], size).index_add_(-1, rings, power) / counts.clamp_min(1)
    if per_frame:
        means = means.mean(2, keepdim=True)
    kept = (means / (means + (1 - level) / level))[..., rings].unflatten(-1, (height, width))
    return torch.fft.ifftn(spectrum * kept, dim=(-3, -2, -1), norm="ortho").real
