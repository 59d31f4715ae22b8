"""Balls in which some pixels of every frame are free and the rest stay as they are: rectangle, border, pixels."""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.errors import BenchError
from bench.seeds import ClipRandom
from bench.threat.norms import Norm, whole_sizes


class Region(Norm):
    """Pixels of every frame, in all colours, may take any value in ``[0, 1]``; the size says how many or which.

    The perturbed pixels of two frames are independent. A ball is the union over all regions of that size, and not
    convex. Sizes are whole numbers of pixels.
    """

    whole = True

    def words(self, size: float) -> str:
        return f"{size:g} px"

    @abstractmethod
    def best(self, worth: Tensor, size: int) -> Tensor:
        """``bool (N, H, W)``: the region of that size with the largest sum of ``worth (N, H, W)``, not negative."""

    @abstractmethod
    def random(self, clips: Tensor, size: int, rng: ClipRandom) -> Tensor:
        """``bool (B, T, H, W)``: a region drawn for every frame."""

    @abstractmethod
    def extent(self, changed: Tensor) -> Tensor:
        """``float64 (N,)``: the size of the smallest region that holds what is ``changed (N, H, W)``."""

    @abstractmethod
    def check(self, size: int, height: int, width: int) -> None:
        """Raises :class:`BenchError` if no frame of that height and width has such a region."""

    def sizes(self, size: Tensor | float, clips: Tensor) -> list[int]:
        """Whole sizes, one per clip.

        Raises:
            BenchError: a size is not whole, or larger than a frame.
        """
        values = whole_sizes(size, clips, self.name)
        for value in values:
            self.check(value, *clips.shape[3:])
        return values

    def masks(self, worth: Tensor, size: Tensor | float, clips: Tensor) -> Tensor:
        """``bool (B, 1, T, H, W)``: the best region of each frame by ``worth (B, T, H, W)``."""
        sizes = self.sizes(size, clips)
        chosen = [self.best(w, s) for w, s in zip(worth.double(), sizes, strict=True)]
        return torch.stack(chosen)[:, None] if chosen else torch.zeros_like(clips[:, :1], dtype=torch.bool)

    def random_masks(self, clips: Tensor, size: Tensor | float, rng: ClipRandom) -> Tensor:
        """``bool (B, 1, T, H, W)``: a region drawn for each frame of each clip."""
        drawn = [
            self.random(clip[None], s, rng.select([i]))
            for i, (clip, s) in enumerate(zip(clips, self.sizes(size, clips), strict=True))
        ]
        return torch.cat(drawn)[:, None] if drawn else torch.zeros_like(clips[:, :1], dtype=torch.bool)

    def random_start(self, clips: Tensor, size: Tensor | float, rng: ClipRandom) -> Tensor:
        """A region drawn for every frame, filled with values uniform in ``[0, 1]``."""
        mask = self.random_masks(clips, size, rng)
        return torch.where(mask, rng.uniform(*clips.shape[1:], device=clips.device).to(clips.dtype), clips)

    def project(self, points: Tensor, clips: Tensor, size: Tensor | float) -> Tensor:
        """The nearest point of ball and cube: in every frame the region is kept that is dearest to give up."""
        within = points.clamp(0, 1)
        sizes = torch.tensor(self.sizes(size, clips), dtype=torch.float64, device=clips.device)
        if bool((self.distance(within, clips) <= sizes).all()):  # nothing to choose, as in every step of an attack
            return within
        dropped, kept = ((points - other).double().square().sum(1) for other in (clips, within))
        # A clip outside the cube, if there were one, would make giving up a pixel a gain.
        return torch.where(self.masks((dropped - kept).clamp_min(0), size, clips), within, clips)

    def direction(self, gradient: Tensor) -> Tensor:
        """The sign: where is what :meth:`project`, or the attack, decides."""
        return gradient.sign()

    def distance(self, points: Tensor, clips: Tensor) -> Tensor:
        """``float64 (B,)``: the size of the smallest region that holds all changes, of the frame that needs most."""
        changed = (points.double() != clips.double()).any(1)
        return self.extent(changed.flatten(0, 1)).unflatten(0, changed.shape[:2]).amax(1)


class Rectangle(Region):
    """One rectangle in every frame, no side longer than the size (Wu, Tong and Vorobeychik, ICLR 2020)."""

    name = "rectangle"

    def best(self, worth: Tensor, size: int) -> Tensor:
        if size == 0:
            return torch.zeros_like(worth, dtype=torch.bool)
        # Two passes of sums: along the columns, then along the rows.
        rows = F.avg_pool2d(worth[:, None], (size, 1), stride=1)
        sums = F.avg_pool2d(rows, (1, size), stride=1)[:, 0]
        corner = sums.flatten(1).argmax(1)
        return boxes(corner // sums.shape[2], corner % sums.shape[2], size, size, worth.shape[1:])

    def random(self, clips: Tensor, size: int, rng: ClipRandom) -> Tensor:
        height, width = clips.shape[3:]
        top = rng.integers(height - size + 1, clips.shape[2], device=clips.device)
        left = rng.integers(width - size + 1, clips.shape[2], device=clips.device)
        return boxes(top, left, size, size, (height, width))

    def extent(self, changed: Tensor) -> Tensor:
        return torch.stack([_span(changed.any(2)), _span(changed.any(1))]).amax(0)

    def check(self, size: int, height: int, width: int) -> None:
        if size > min(height, width):
            raise BenchError(f"A rectangle of {size} x {size} pixels is larger than the frames, {height} x {width}.")


class Border(Region):
    """The outermost pixels of every frame, as many deep as the size.

    Source: Zajac et al., Adversarial Framing for Image and Video Classification, AAAI 2019, whose border is outside.
    """

    name = "border"

    def best(self, worth: Tensor, size: int) -> Tensor:
        return (_depth(worth) <= size).expand(worth.shape)

    def random(self, clips: Tensor, size: int, rng: ClipRandom) -> Tensor:
        return (_depth(clips) <= size).expand(clips.shape[:1] + clips.shape[2:])

    def extent(self, changed: Tensor) -> Tensor:
        return (_depth(changed) * changed).flatten(1).amax(1).double()

    def check(self, size: int, height: int, width: int) -> None:
        if 2 * size >= min(height, width):
            raise BenchError(f"A border of {size} pixels on every side covers the whole frame of {height} x {width}.")


class Pixels(Region):
    """So many pixels of every frame (salt and pepper).

    Source: Lo and Patel, Defending Against Multiple and Unforeseen Adversarial Videos, IEEE TIP 2022, attack SPA.
    """

    name = "pixels"

    def best(self, worth: Tensor, size: int) -> Tensor:
        chosen = worth.flatten(1).topk(size).indices
        flat = torch.zeros_like(worth.flatten(1), dtype=torch.bool)
        return flat.scatter_(1, chosen, torch.ones_like(chosen, dtype=torch.bool)).view(worth.shape)

    def random(self, clips: Tensor, size: int, rng: ClipRandom) -> Tensor:
        """Drawn with replacement, as in the code of Lo and Patel (IEEE TIP 2022): two draws may fall on one pixel."""
        frames, height, width = clips.shape[2:]
        where = rng.integers(height * width, frames, size, device=clips.device)
        flat = torch.zeros(len(clips), frames, height * width, dtype=torch.bool, device=clips.device)
        return flat.scatter_(2, where, torch.ones_like(where, dtype=torch.bool)).unflatten(2, (height, width))

    def extent(self, changed: Tensor) -> Tensor:
        return changed.flatten(1).sum(1).double()

    def check(self, size: int, height: int, width: int) -> None:
        if size > height * width:
            raise BenchError(f"{size} pixels are more than a frame of {height} x {width} has.")


def boxes(top: Tensor, left: Tensor, height: int, width: int, frame: tuple[int, ...] | torch.Size) -> Tensor:
    """``bool (..., H, W)``: rectangles with their upper left corners at ``top``, ``left``, integers ``(...)``."""
    y = torch.arange(frame[0], device=top.device)
    x = torch.arange(frame[1], device=top.device)
    rows = (y >= top[..., None]) & (y < top[..., None] + height)
    columns = (x >= left[..., None]) & (x < left[..., None] + width)
    return rows[..., :, None] & columns[..., None, :]


def _depth(frames: Tensor) -> Tensor:
    """``int64 (H, W)``: which ring of the frame a pixel is in, 1 at the edge; of frames ``(..., H, W)``."""
    height, width = frames.shape[-2:]
    y, x = torch.arange(height, device=frames.device), torch.arange(width, device=frames.device)
    return torch.minimum(torch.minimum(y, height - 1 - y)[:, None], torch.minimum(x, width - 1 - x)) + 1


def _span(used: Tensor) -> Tensor:
    """``float64 (N,)``: from the first to the last true value of ``bool (N, L)``; 0 if there is none."""
    length = used.shape[1]
    first = used.int().argmax(1)
    last = length - 1 - used.flip(1).int().argmax(1)
    return torch.where(used.any(1), last - first + 1, 0).double()
