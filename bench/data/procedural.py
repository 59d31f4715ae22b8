"""Procedural action clips with analytic optical flow.

A textured sprite moves over a quiet background; the class is its motion. There are two recipes. In ``motion12``
the looks say nothing about the class. In ``actions12`` most clips of a class also share the outline of the
sprite, its palette and the background, as people who swim are mostly seen in water.

Every clip is a pure function of ``(recipe, split, index, frames, size)``: parameters come from a NumPy
``SeedSequence`` keyed by recipe, split and index, so splits never share a clip and a clip never depends on how
many were made before it.

The pose of the sprite at frame ``t`` is a similarity ``p = c_t + s_t R(a_t) u`` from sprite coordinates
``u`` to pixels ``p``. Both the picture (inverse map) and the flow (inverse map at ``t``, forward map at
``t + 1``) follow from it, so the flow is exact rather than estimated.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.data.base import ClipRef, Dataset
from bench.errors import BenchError, at_least, nearest
from bench.seeds import seed_of

MOTIONS: tuple[str, ...] = (
    "left",
    "right",
    "up",
    "down",
    "rotate_cw",
    "rotate_ccw",
    "grow",
    "shrink",
    "orbit_cw",
    "orbit_ccw",
    "oscillate_h",
    "oscillate_v",
)
"""Class names in label order. "Clockwise" is as seen on the screen (y points down)."""

SPLITS: dict[str, int] = {"train": 0, "val": 1, "test": 2}

# Bump when the picture of any clip changes: shipped weights and stored outcomes depend on it.
RECIPE_VERSION = 1

RECIPES: tuple[str, ...] = ("motion12", "actions12")

TYPICAL = 0.9
"""Share of the clips of an ``actions12`` class that look typical; each of the others looks like another class."""

LEAST_FRAMES, LEAST_SIZE = 2, 16

# Fresh clips lie in so many blocks of 12 behind as many that splits may use.
_FRESH_BLOCKS = 1 << 48

_REFERENCE_SIZE = 64.0
_REFERENCE_FRAMES = 16.0
_DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}


@dataclass(frozen=True)
class RenderedClip:
    """One procedural clip and its ground truth.

    Attributes:
        clip: ``float32 (3, T, H, W)`` in ``[0, 1]``.
        label: class index into :data:`MOTIONS`.
        flow: ``float32 (2, T-1, H, W)``, forward optical flow in pixels per frame, channel 0 along x
            (right), channel 1 along y (down): the content of pixel ``p`` in frame ``t`` is at
            ``p + flow[:, t, p]`` in frame ``t + 1``.
        mask: ``bool (T, H, W)``, true on the moving sprite.
    """

    clip: Tensor
    label: int
    mask: Tensor
    _find_flow: Callable[[], Tensor] = field(repr=False, compare=False)

    @cached_property
    def flow(self) -> Tensor:
        # On first use: most callers want the picture alone.
        return self._find_flow()


@dataclass(frozen=True)
class _Pose:
    """Centres ``(T, 2)`` in pixels, angles ``(T,)`` in radians and half-sizes ``(T,)`` in pixels."""

    centre: np.ndarray
    angle: np.ndarray
    scale: np.ndarray


def _trajectory(motion: str, rng: np.random.Generator, frames: int, size: int) -> _Pose:
    """Draws the sprite's path. Speeds are those of a 16-frame, 64-pixel clip, rescaled to the asked shape."""
    pixel = size / _REFERENCE_SIZE
    # Time in reference frames, centred: the sprite passes the middle of the picture mid-clip.
    tau = (np.arange(frames) - (frames - 1) / 2) * (_REFERENCE_FRAMES / frames)
    centre = np.tile(size / 2 - 0.5 + rng.uniform(-3, 3, 2) * pixel, (frames, 1))
    angle = np.full(frames, rng.uniform(-math.pi, math.pi))
    scale = np.full(frames, rng.uniform(14, 19) * pixel)
    if motion in _DIRECTIONS:
        speed = rng.uniform(0.9, 1.8) * pixel
        centre = centre + speed * tau[:, None] * np.array(_DIRECTIONS[motion])
    elif motion.startswith("rotate"):
        turn = rng.uniform(0.10, 0.18) * (1 if motion.endswith("_cw") else -1)
        angle = angle + turn * tau
    elif motion in ("grow", "shrink"):
        rate = rng.uniform(0.035, 0.065) * (1 if motion == "grow" else -1)
        scale = scale * np.exp(rate * tau)
    elif motion.startswith("orbit"):
        radius = rng.uniform(5, 8) * pixel
        turned = rng.uniform(-math.pi, math.pi) + rng.uniform(0.35, 0.5) * tau * (1 if motion.endswith("_cw") else -1)
        centre = centre + radius * np.stack([np.cos(turned), np.sin(turned)], axis=1)
    else:
        amplitude = rng.uniform(3, 5.5) * pixel
        phase = rng.uniform(-math.pi, math.pi) + rng.uniform(0.7, 1.0) * tau
        axis = np.array((1.0, 0.0) if motion == "oscillate_h" else (0.0, 1.0))
        centre = centre + amplitude * np.sin(phase)[:, None] * axis
    return _Pose(centre, angle, scale)


@dataclass(frozen=True)
class _Look:
    """What the clips of one ``actions12`` class mostly look like.

    Attributes:
        lobes: of the sprite's outline: 0 is round, 2 oblong, 3 triangular and so on.
        hue: of the sprite, in radians around the colour wheel.
        scene: hue of the background, in radians.
        stripes: direction in which the background's pattern varies, in radians.
        waves: of that pattern across the frame, give or take a tenth.
    """

    lobes: int
    hue: float
    scene: float
    stripes: float
    waves: float


def _looks() -> tuple[_Look, ...]:
    """One look per class. Opposite motions, which are neighbours in the list of classes, look least alike."""
    lobes = (0, 3, 2, 5, 4, 7)
    wheel = 2 * math.pi / len(MOTIONS)
    return tuple(
        _Look(lobes[k % 6], wheel * (5 * k % 12), wheel * (7 * k + 3), math.pi * (k // 2) / 6, (6.0, 11.0)[k % 2])
        for k in range(len(MOTIONS))
    )


LOOKS = _looks()


def _hue(angle: float) -> np.ndarray:
    """Colour ``(3,)`` of zero mean and largest value 1 at an angle of the colour wheel, red at 0."""
    return np.cos(angle - np.arange(3) * 2 * math.pi / 3)


def _texture(rng: np.random.Generator, contrast: float, side: int = 48) -> Tensor:
    """Zero-mean colour noise ``(1, 3, side, side)`` of standard deviation ``contrast``, octaves 2, 4 and 8."""
    texture = torch.zeros(1, 3, side, side)
    for octave in (2, 4, 8):
        coarse = torch.from_numpy(rng.standard_normal((1, 3, octave + 1, octave + 1), dtype=np.float32))
        texture += F.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=True) / octave**0.5
    return contrast * (texture - texture.mean()) / texture.std()


def _blob(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Amplitudes and phases of the harmonics 2..4 of the sprite's outline."""
    return rng.uniform(0.0, 0.12, 3), rng.uniform(-math.pi, math.pi, 3)


def _outline(u: Tensor, amplitude: np.ndarray, phase: np.ndarray) -> Tensor:
    """Signed distance-like value ``(...)`` of sprite coordinates ``u (..., 2)``: positive inside the blob."""
    azimuth = torch.atan2(u[..., 1], u[..., 0])
    radius = torch.ones_like(azimuth)
    for k in np.flatnonzero(amplitude):
        radius += (int(k + 2) * azimuth).add_(float(phase[k])).cos_().mul_(float(amplitude[k]))
    return radius.sub_(u.norm(dim=-1))


def _to_sprite(pixels: Tensor, pose: _Pose) -> Tensor:
    """Inverse pose: pixel positions ``(H, W, 2)`` to sprite coordinates ``(T, H, W, 2)``."""
    centre = torch.from_numpy(pose.centre).float()[:, None, None]
    cos = torch.from_numpy(np.cos(pose.angle)).float()[:, None, None]
    sin = torch.from_numpy(np.sin(pose.angle)).float()[:, None, None]
    scale = torch.from_numpy(pose.scale).float()[:, None, None]
    d = pixels[None] - centre
    return torch.stack([cos * d[..., 0] + sin * d[..., 1], cos * d[..., 1] - sin * d[..., 0]], -1) / (scale[..., None])


def _to_pixels(u: Tensor, pose: _Pose) -> Tensor:
    """Forward pose: sprite coordinates ``(T, H, W, 2)`` to pixel positions, frame by frame."""
    centre = torch.from_numpy(pose.centre).float()[:, None, None]
    cos = torch.from_numpy(np.cos(pose.angle)).float()[:, None, None]
    sin = torch.from_numpy(np.sin(pose.angle)).float()[:, None, None]
    scale = torch.from_numpy(pose.scale).float()[:, None, None, None]
    rotated = torch.stack([cos * u[..., 0] - sin * u[..., 1], sin * u[..., 0] + cos * u[..., 1]], -1)
    return centre + scale * rotated


def _lobed(rng: np.random.Generator, lobes: int) -> tuple[np.ndarray, np.ndarray]:
    """Amplitudes and phases of the harmonics 2..7 of an outline: one strong one, and a little of 2..4."""
    amplitude, phase = np.zeros(6), np.zeros(6)
    amplitude[:3], phase[:3] = rng.uniform(0.0, 0.04, 3), rng.uniform(-math.pi, math.pi, 3)
    strength = rng.uniform(0.14, 0.2)
    if lobes:
        amplitude[lobes - 2] = strength
    return amplitude, phase


def _paint(
    canvas: Tensor, u: Tensor, scale: np.ndarray, rng: np.random.Generator, contrast: float, look: _Look | None = None
) -> tuple[Tensor, Tensor]:
    """Paints a freshly drawn sprite over ``canvas (T, 3, H, W)``; returns the picture and alpha ``(T, H, W)``."""
    if look is None:
        colour = rng.uniform(-0.4, 0.4, 3)
        # A sprite of the background's own colour would be invisible: keep the mean contrast at 0.15 or more.
        colour *= max(1.0, 0.15 / (np.abs(colour).mean() + 1e-6))
        amplitude, phase = _blob(rng)
    else:
        colour = rng.uniform(0.12, 0.2) * _hue(look.hue + rng.normal(0, 0.12)) + rng.uniform(-0.1, 0.1)
        amplitude, phase = _lobed(rng, look.lobes)
    texture = _texture(rng, contrast).expand(len(u), -1, -1, -1)
    # Sprite coordinates reach 1.4 at the tip of the outline; the texture covers that square.
    paint = F.grid_sample(texture, u / 1.4, mode="bilinear", padding_mode="border", align_corners=True)
    paint.add_(0.5).add_(torch.from_numpy(colour).float()[None, :, None, None])
    edge = torch.from_numpy(scale).float()[:, None, None]
    alpha = torch.sigmoid(_outline(u, amplitude, phase) * edge * 2)  # about one pixel of soft edge
    return paint.sub_(canvas).mul_(alpha[:, None]).add_(canvas), alpha


def _background(rng: np.random.Generator, look: _Look | None) -> Tensor:
    """The background's canvas ``(1, 3, side, side)``, mean 0.5 apart from a tint."""
    texture = _texture(rng, rng.uniform(0.03, 0.08))
    if look is None:
        return texture
    side = texture.shape[-1]
    y, x = np.mgrid[:side, :side] / side - 0.5
    along = math.cos(look.stripes) * x + math.sin(look.stripes) * y
    # The canvas is 1.2 frames wide.
    waves = 1.2 * look.waves * rng.uniform(0.9, 1.1)
    wave = np.sin(2 * math.pi * waves * along + rng.uniform(-math.pi, math.pi))
    texture = texture + rng.uniform(0.046, 0.07) * torch.from_numpy(wave).float()
    tint = rng.uniform(0.058, 0.092) * _hue(look.scene + rng.normal(0, 0.12))
    return texture + torch.from_numpy(tint).float()[None, :, None, None]


def render(split: str, index: int, *, frames: int = 16, size: int = 64, recipe: str = "motion12") -> RenderedClip:
    """Renders one clip.

    Args:
        split: ``train``, ``val`` or ``test``.
        index: any non-negative integer; the label is ``index % 12``, so any block of 12 is balanced.
        frames: clip length ``T >= 2``. Longer clips show the same movement more slowly.
        size: side of the square frame in pixels, at least 16. Larger frames show the same scene larger.
        recipe: ``motion12`` or ``actions12``.

    Returns:
        The clip with its ground-truth flow and sprite mask.

    Raises:
        BenchError: unknown recipe or split, negative index, or a shape that cannot be rendered.
    """
    _check(split, index, frames, size, recipe)
    label = index % len(MOTIONS)
    key = [RECIPE_VERSION, SPLITS[split], index]
    if recipe == "actions12":
        key.append(RECIPES.index(recipe))
    rng = np.random.default_rng(key)
    look = _look(label, rng) if recipe == "actions12" else None
    pixel = size / _REFERENCE_SIZE
    pose = _trajectory(MOTIONS[label], rng, frames, size)

    drift = rng.uniform(-0.15, 0.15, 2) * pixel * (_REFERENCE_FRAMES / frames)
    shift = np.arange(frames)[:, None] * drift
    pose = _Pose(pose.centre + shift, pose.angle, pose.scale)

    axis = torch.arange(size, dtype=torch.float32)
    pixels = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    canvas = _scene(pixels, shift, rng, look)
    u = _to_sprite(pixels, pose)
    canvas, alpha = _paint(canvas, u, pose.scale, rng, rng.uniform(0.15, 0.25), look)
    mask = alpha > 0.5

    def find_flow() -> Tensor:
        following = _Pose(pose.centre[1:], pose.angle[1:], pose.scale[1:])
        moved = _to_pixels(u[:-1], following) - pixels[None]
        still_flow = torch.from_numpy(drift).float().expand_as(moved)
        return torch.where(mask[:-1, ..., None], moved, still_flow).permute(3, 0, 1, 2).contiguous()

    return RenderedClip(_filmed(canvas, rng), label, mask, find_flow)


def _check(split: str, index: int, frames: int, size: int, recipe: str) -> None:
    """Refuses what cannot be rendered."""
    if recipe not in RECIPES:
        raise BenchError(f"Unknown recipe {recipe!r}{nearest(recipe, RECIPES)}: choose one of {', '.join(RECIPES)}.")
    if split not in SPLITS:
        raise BenchError(f"Unknown split {split!r}: choose one of {', '.join(SPLITS)}.")
    if index < 0 or frames < LEAST_FRAMES or size < LEAST_SIZE:
        raise BenchError(
            f"Cannot render clip {index} with {frames} frames of {size} pixels: the index must not be negative, "
            f"frames must be at least {LEAST_FRAMES} and size at least {LEAST_SIZE}."
        )


def _look(label: int, rng: np.random.Generator) -> _Look:
    """The look that is typical of a class or, now and then, of another one."""
    other = (label + rng.integers(1, len(MOTIONS))) % len(MOTIONS)
    return LOOKS[label if rng.random() < TYPICAL else other]


def _scene(pixels: Tensor, shift: np.ndarray, rng: np.random.Generator, look: _Look | None) -> Tensor:
    """What stands still before the camera, ``(T, 3, size, size)``: the background and, now and then, a distractor.

    Args:
        pixels: places of the pixels, ``(size, size, 2)``.
        shift: by which the camera has moved it in each frame, ``(T, 2)``, in pixels.
    """
    frames, size = len(shift), len(pixels)
    shift_t = torch.from_numpy(shift).float()[:, None, None]
    # The background canvas covers 1.2 times the frame, more than the camera ever drifts.
    background = _background(rng, look).expand(frames, -1, -1, -1)
    where = (pixels[None] - shift_t - (size - 1) / 2) / (0.6 * size)
    canvas = F.grid_sample(background, where, mode="bilinear", padding_mode="border", align_corners=True)
    canvas.add_(0.5).add_(torch.from_numpy(rng.uniform(-0.1, 0.1, 3)).float()[None, :, None, None])
    if rng.random() < 0.1:
        distractor = _Pose(
            rng.uniform(0.15, 0.85, 2) * size + shift,
            np.full(frames, rng.uniform(-math.pi, math.pi)),
            np.full(frames, rng.uniform(5, 9) * (size / _REFERENCE_SIZE)),
        )
        canvas, _ = _paint(canvas, _to_sprite(pixels, distractor), distractor.scale, rng, 0.15)
    return canvas


def _filmed(canvas: Tensor, rng: np.random.Generator) -> Tensor:
    """Frames ``(T, 3, size, size)`` as a clip ``(3, T, size, size)``, with a camera's exposure and noise."""
    gain = rng.uniform(0.85, 1.15) * (1 + 0.03 * rng.standard_normal(len(canvas)))
    # In place where it can be: memory traffic is most of the cost of a clip.
    clip = canvas.permute(1, 0, 2, 3).contiguous().mul_(torch.from_numpy(gain).float()[None, :, None, None])
    noise = torch.from_numpy(rng.standard_normal(clip.shape, dtype=np.float32))
    return clip.add_(noise.mul_(0.01)).clamp_(0, 1)


class ProceduralDataset(Dataset):
    """A split of one recipe, rendered on demand. Labels cycle, so every block of 12 clips is balanced.

    Args:
        split: ``train``, ``val`` or ``test``; the splits share no clip.
        frames: clip length, at least 2.
        size: side of the square frames in pixels, at least 16.
        length: number of clips in the split.

    Raises:
        BenchError: the split is unknown, or a number is not a whole one or too small.
    """

    recipe: ClassVar[str]
    classes = MOTIONS

    def __init__(self, split: str = "test", frames: int = 16, size: int = 64, length: int = 1200) -> None:
        if split not in SPLITS:
            raise BenchError(f"Unknown split {split!r}{nearest(split, SPLITS)}: choose one of {', '.join(SPLITS)}.")
        for name, value, least in (("frames", frames, LEAST_FRAMES), ("size", size, LEAST_SIZE), ("length", length, 1)):
            at_least(f"{self.recipe}: {name}", value, least)
        self.split, self.frames, self.size, self.length = split, frames, size, length

    def refs(self) -> list[ClipRef]:
        return [ClipRef(f"{self.split}-{i:05d}", i % len(MOTIONS)) for i in range(self.length)]

    def fresh(self, count: int, salt: str) -> list[ClipRef]:
        """Clips with indices beyond any split, among so many that nobody renders them all; labels cycle."""
        classes = len(MOTIONS)
        blocks = [seed_of("fresh", salt, i) % _FRESH_BLOCKS for i in range(count)]
        indices = [classes * (_FRESH_BLOCKS + block) + i % classes for i, block in enumerate(blocks)]
        return [ClipRef(f"{self.split}-{index:05d}", index % classes) for index in indices]

    def render(self, ref: ClipRef) -> RenderedClip:
        """One clip with its ground truth."""
        index = int(ref.id.rpartition("-")[2])
        return render(self.split, index, frames=self.frames, size=self.size, recipe=self.recipe)

    def load(self, ref: ClipRef) -> Tensor:
        return self.render(ref).clip
