"""Randomness that belongs to a clip: the same draws whatever the batch, the order, the engine or the device."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def seed_of(*key: object) -> int:
    """Derives a 63-bit seed from any printable key, the same on every machine and in every process."""
    digest = hashlib.sha256("\x1f".join(str(k) for k in key).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class ClipRandom:
    """One random generator per clip of a batch.

    Numbers are drawn on the CPU, clip by clip, and then moved, so a clip's stream depends on its seed and on
    what was drawn for it before, and on nothing else.

    Args:
        seeds: one integer per clip.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(int(s)) for s in seeds]

    @classmethod
    def for_clips(cls, ids: Sequence[str], *key: object) -> ClipRandom:
        """Seeds one stream per clip id; ``key`` tells streams of the same clip apart."""
        return cls([seed_of(*key, clip_id) for clip_id in ids])

    def __len__(self) -> int:
        return len(self._generators)

    def select(self, rows: Sequence[int] | Tensor) -> ClipRandom:
        """The streams of some clips. They are shared, not copied: drawing from either advances both."""
        picked = ClipRandom(())
        picked._generators = [self._generators[int(r)] for r in rows]
        return picked

    def clone(self) -> ClipRandom:
        """Independent copies at the present state: used to replay the same draws."""
        copies = {id(g): g.clone_state() for g in self._generators}
        copy = ClipRandom(())
        # A clip that is there several times draws from one stream in turn, and so must its copy.
        copy._generators = [copies[id(g)] for g in self._generators]
        return copy

    def uniform(self, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        """``float32 (B, *shape)``, uniform in ``[0, 1)``."""
        return torch.stack([torch.rand(shape, generator=g, dtype=torch.float32) for g in self._generators]).to(device)

    def normal(self, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        """``float32 (B, *shape)``, standard normal."""
        return torch.stack([torch.randn(shape, generator=g, dtype=torch.float32) for g in self._generators]).to(device)

    def integers(self, high: int, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        """``int64 (B, *shape)``, uniform in ``0 .. high - 1``."""
        return torch.stack([torch.randint(high, shape, generator=g) for g in self._generators]).to(device)

    def permutation(self, n: int, device: torch.device | str = "cpu") -> Tensor:
        """``int64 (B, n)``, one random order of ``0 .. n - 1`` per clip."""
        return torch.stack([torch.randperm(n, generator=g) for g in self._generators]).to(device)
