"""Rectangular occlusion attack: a rectangle in every frame is repainted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bench import (
    BenchError,
    Budget,
    ClipRandom,
    MaskedAttack,
    Run,
    Target,
    at_least,
    cross_entropy,
    region_of,
    register,
)
from bench.threat.regions import boxes

_GREY = 0.5
_WHERE = ("random", "fixed", "gradient", "gradient-per-frame", "exhaustive")


@register(
    "roa",
    source="Wu, Tong and Vorobeychik, Defending Against Physically Realizable Attacks on Image Classification, ICLR "
    "2020; variant random: Lo and Patel, Defending Against Multiple and Unforeseen Adversarial Videos, IEEE TIP 2022, "
    "slides",
)
class RectangularOcclusion(MaskedAttack):
    """Finds a place for a rectangle, paints it grey, then runs iterative FGSM inside it.

    Lo and Patel take 30 x 30 pixels in frames of 112 x 112 and 5 steps of 70/255 at a random place of every frame,
    without a search. Wu et al. search: a box is worth the cross-entropy of the clip with that box painted grey, the
    same in all frames. Where nine tenths of the places are worth the same, the place is drawn at random. In their code
    it is drawn, too, where all are worth nothing, as single precision has it of a confident classifier: here that does
    not happen. Unlike their code, the last row and column of places are tried too.

    Args:
        location: ``random``, in every frame anew (our default, as in their code); ``fixed``, a random one
            for all frames; ``exhaustive``, the best of all places ``stride`` apart; ``gradient``, the best of the
            ``candidates`` boxes that hold most of the squared gradient at the clean clip, summed over all frames;
            ``gradient-per-frame``, in each frame the box that holds most of it, with no second look. Of several
            restarts each takes the next best place.
        stride: pixels between places that a search considers.
        candidates: of ``gradient``.
        frame_size: of ``exhaustive``, height and width of the frames, without which its cost could not be planned.
        aspect: height over width. The longer side is the budget's size.
        loss: of the steps; ``ce``, ``margin`` or ``dlr``.
        keep: ``worst`` iterate, or the ``last`` one, as in the published code.
    """

    norms = ("rectangle",)

    def __init__(
        self,
        location: Literal["random", "fixed", "gradient", "gradient-per-frame", "exhaustive"] = "random",
        stride: int = 10,
        candidates: int = 20,
        frame_size: Sequence[int] = (64, 64),
        aspect: float = 1.0,
        loss: str = "ce",
        keep: Literal["worst", "last"] = "worst",
    ) -> None:
        super().__init__(loss, keep)
        if location not in _WHERE:
            raise ValueError(f"location must be one of {', '.join(_WHERE)}, not {location!r}")
        at_least("stride", stride, 1)
        at_least("candidates", candidates, 1)
        if not aspect > 0:
            raise ValueError(f"aspect must be positive, not {aspect!r}")
        if len(frame_size) != 2:
            raise ValueError(f"frame_size must be height and width, not {frame_size!r}")
        self.location, self.stride, self.candidates, self.aspect = location, stride, candidates, aspect
        self.frame_size = tuple(frame_size)

    def sides(self, size: int) -> tuple[int, int]:
        """Height and width of the rectangle, in pixels, at a budget's size."""
        narrow = round(size * min(self.aspect, 1 / self.aspect))
        return (size, narrow) if self.aspect > 1 else (narrow, size)

    def places(self, size: int, frame: Sequence[int]) -> Tensor:
        """``int64 (P, 2)``: upper left corners that a search considers, the last row and column included."""
        axes = []
        for side, length in zip(self.sides(size), frame, strict=True):
            last = length - side
            axes.append(sorted({*range(0, last + 1, self.stride), last}))
        return torch.cartesian_prod(*(torch.tensor(a) for a in axes)).view(-1, 2)

    def passes(self, budget: Budget) -> tuple[int, int]:
        forwards, backwards = super().passes(budget)
        if self.location == "exhaustive":
            sizes = torch.as_tensor(budget.size).reshape(-1).tolist()
            forwards += max(len(self.places(int(s), self.frame_size)) for s in sizes)
        if self.location == "gradient":
            forwards += 1 + self.candidates
        if self.location == "gradient-per-frame":
            forwards += 1
        return forwards, backwards + self.location.startswith("gradient")

    def choose(self, run: Run, count: int) -> list[Tensor]:
        clips, labels, rng = run.clips, run.labels, run.rng
        sizes = region_of(run.budget).sizes(run.budget.size, clips)
        frame = tuple(clips.shape[3:])
        if self.location == "exhaustive" and frame != self.frame_size:
            raise BenchError(
                f"The search was planned for frames of {self.frame_size[0]} x {self.frame_size[1]}, but they are "
                f"{frame[0]} x {frame[1]}: say frame_size=[{frame[0]}, {frame[1]}]."
            )
        if self.location in ("random", "fixed"):
            return [self._drawn(clips, sizes, rng) for _ in range(count)]
        worth = None
        if self.location != "exhaustive":
            gradient = run.target.gradient(clips, None, labels, self._loss).gradient
            peak = gradient.abs().flatten(1).amax(1).clamp_min(1e-30).view(-1, 1, 1, 1, 1)
            worth = (gradient / peak).double().square().sum(1)
        found = [
            self._found(run.target, clips[i : i + 1], labels[i : i + 1], i, size, worth, count, rng.select([i]))
            for i, size in enumerate(sizes)
        ]
        return [torch.cat(masks) for masks in zip(*found, strict=True)]

    def _drawn(self, clips: Tensor, sizes: Sequence[int], rng: ClipRandom) -> Tensor:
        frames, *frame = clips.shape[2:]
        draws = 1 if self.location == "fixed" else frames
        masks = []
        for i, size in enumerate(sizes):
            height, width = self.sides(size)
            one = rng.select([i])
            top = one.integers(frame[0] - height + 1, draws, device=clips.device)
            left = one.integers(frame[1] - width + 1, draws, device=clips.device)
            masks.append(boxes(top, left, height, width, tuple(frame)).expand(1, frames, *frame))
        return torch.stack(masks)

    def _found(
        self,
        target: Target,
        clip: Tensor,
        label: Tensor,
        row: int,
        size: int,
        worth: Tensor | None,
        count: int,
        rng: ClipRandom,
    ) -> list[Tensor]:
        """The ``count`` best masks ``(1, 1, T, H, W)`` of one clip by a search, the first one first."""
        frames, *frame = clip.shape[2:]
        height, width = self.sides(size)
        corners = self.places(size, frame).to(clip.device)
        masks = boxes(corners[:, 0], corners[:, 1], height, width, tuple(frame))  # (P, H, W)
        if worth is not None:
            held = _window_sums(worth[row], height, width)[:, corners[:, 0], corners[:, 1]]  # (T, P)
            if self.location == "gradient-per-frame":
                order = held.argsort(dim=1, descending=True, stable=True)
                return [masks[order[:, k % len(corners)]][None, None] for k in range(count)]
            kept = held.sum(0).topk(min(self.candidates, len(corners))).indices
            masks = masks[kept]
        scores = []
        with torch.no_grad():
            for mask in masks:
                painted = torch.where(mask, _GREY, clip)
                logits = target(painted, torch.tensor([row]))
                scores.append(cross_entropy(logits, label)[0])
        ranked = _ranked(torch.stack(scores), rng)
        return [masks[ranked[k % len(masks)]].expand(1, 1, frames, *frame) for k in range(count)]

    def fill(self, clips: Tensor, budget: Budget, rng: ClipRandom) -> Tensor:
        return torch.full_like(clips, _GREY)


def _window_sums(worth: Tensor, height: int, width: int) -> Tensor:
    """Sums of ``worth (T, H, W)`` over all boxes, ``(T, H - height + 1, W - width + 1)``."""
    if not height * width:
        return worth.new_zeros(len(worth), worth.shape[1] - height + 1, worth.shape[2] - width + 1)
    pooled = F.avg_pool2d(F.avg_pool2d(worth[:, None], (height, 1), stride=1), (1, width), stride=1)
    return pooled[:, 0] * height * width


def _ranked(scores: Tensor, rng: ClipRandom) -> list[int]:
    """The places, best first by scores ``(P,)``; the first one a random one where the scores say nothing (Wu et al.,
    released code), and else of the best."""
    highest = scores == scores.max()
    among = torch.arange(len(scores)) if int(highest.sum()) >= 0.9 * len(scores) else highest.nonzero()[:, 0].cpu()
    first = int(among[int(rng.integers(len(among), 1)[0, 0])]) if len(among) > 1 else int(among[0])
    rest = scores.argsort(dim=0, descending=True, stable=True).tolist()
    return [first, *(place for place in rest if place != first)]
