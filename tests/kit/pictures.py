"""Clips for defences that treat pictures, and ways to ask such a defence."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bench import ClipRandom, Purifier
from bench.registry import DEFENSES


def scene(batch: int, frames: int, height: int, width: int, noise: float = 0.03, seed: int = 0) -> Tensor:
    """Smooth coloured waves with noise, ``(B, 3, T, H, W)`` in ``[0, 1]``."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = np.zeros((batch, 3, frames, height, width))
    for b, c, t in np.ndindex(batch, 3, frames):
        fx, fy, phase = rng.uniform((0.02, 0.02, 0), (0.15, 0.15, 6))
        waves[b, c, t] = 0.5 + 0.35 * np.sin(fx * x + fy * y + phase)
    waves += noise * rng.standard_normal(waves.shape)
    return torch.from_numpy(waves.clip(0, 1)).float()


def frames_of(clips: Tensor) -> np.ndarray:
    """Every frame of every clip, ``(H, W, 3)``."""
    return clips.permute(0, 2, 3, 4, 1).flatten(0, 1).numpy()


def planes(clips: Tensor) -> list[np.ndarray]:
    """Every channel of every frame, ``(H, W)``."""
    return list(clips.flatten(0, 2).double().numpy())


def apply(text: str, clips: Tensor) -> Tensor:
    """Clips as the named defence shows them."""
    defense: Purifier = DEFENSES.create(text)
    return defense.purify(clips, ClipRandom(range(len(clips))))
