"""Framing: a border around the clip, which shrinks to make room for it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import BenchError
from bench.seeds import ClipRandom
from bench.threat.norms import Norm, whole_sizes

_NEAR = 1e-5  # resizing rounds


def framed(clips: Tensor, picture: Tensor, width: int) -> Tensor:
    """Clips ``(B, 3, T, H, W)`` shrunk bilinearly to leave ``width`` pixels on every side, where ``picture`` shows.

    Args:
        picture: broadcast to the clips; only its border is used.

    Raises:
        BenchError: nothing of the clip would be left.
    """
    height, breadth = clips.shape[3:]
    if 2 * width >= min(height, breadth):
        raise BenchError(f"A framing of {width} pixels on every side leaves nothing of frames of {height} x {breadth}.")
    if width == 0:
        return clips
    frames = clips.transpose(1, 2).flatten(0, 1)
    small = F.interpolate(frames, (height - 2 * width, breadth - 2 * width), mode="bilinear", align_corners=False)
    inner = small.unflatten(0, (clips.shape[0], clips.shape[2])).transpose(1, 2)
    inside = F.pad(torch.ones_like(inner[:1, :1, :1], dtype=torch.bool), [width] * 4)
    return torch.where(inside, F.pad(inner, [width] * 4), picture.to(clips))


class Framing(Norm):
    """A border of any values, as wide as the size in pixels, around the shrunken clip.

    Source: Zajac et al., Adversarial Framing for Image and Video Classification, AAAI 2019.
    """

    name = "framing"
    whole = True

    def words(self, size: float) -> str:
        return f"{size:g} px"

    @staticmethod
    def _each(picture: Tensor, clips: Tensor, size: Tensor | float) -> Tensor:
        parts = zip(clips.split(1), picture.split(1), whole_sizes(size, clips, Framing.name), strict=True)
        return torch.cat([framed(clip, shown, width) for clip, shown, width in parts])

    def random_start(self, clips: Tensor, size: Tensor | float, rng: ClipRandom) -> Tensor:
        """A border uniform in ``[0, 1]``."""
        return self._each(rng.uniform(*clips.shape[1:], device=clips.device).to(clips.dtype), clips, size)

    def project(self, points: Tensor, clips: Tensor, size: Tensor | float) -> Tensor:
        """The border of the points, clamped to ``[0, 1]``, around the shrunken clips."""
        return self._each(points.clamp(0, 1), clips, size)

    def direction(self, gradient: Tensor) -> Tensor:
        """The sign."""
        return gradient.sign()

    def distance(self, points: Tensor, clips: Tensor) -> Tensor:
        """``float64 (B,)``: the narrowest border that explains the points, infinite if none does."""
        widest = (min(clips.shape[3:]) - 1) // 2
        found = torch.full((len(clips),), float("inf"), dtype=torch.float64)
        for width in range(widest, -1, -1):
            same = (framed(clips.double(), points.double(), width) - points.double()).abs().flatten(1).amax(1) < _NEAR
            found[same.cpu()] = width
        return found


class UniversalFraming(nn.Module):
    """One border for all clips and all frames, in front of a classifier that is left as it is.

    Args:
        classifier: clips to logits; not part of the state.
        width: of the border, in pixels.
        height, breadth: of the frames.
    """

    picture: nn.Parameter
    width: Tensor

    def __init__(self, classifier: nn.Module | None, width: int, height: int, breadth: int) -> None:
        super().__init__()
        self._classifier = (classifier,)  # in a tuple, so that its weights are not this module's
        self.picture = nn.Parameter(torch.zeros(3, 1, height, breadth))
        self.register_buffer("width", torch.tensor(width))

    def forward(self, clips: Tensor) -> Tensor:
        """Logits ``(B, K)`` of the framed clips."""
        (classifier,) = self._classifier
        assert classifier is not None
        logits: Tensor = classifier.to(clips.device)(self.frame(clips))
        return logits

    def frame(self, clips: Tensor) -> Tensor:
        """Framed clips, of the same shape. The border is the sigmoid of :attr:`picture`."""
        return framed(clips, self.picture.sigmoid(), int(self.width))
