"""libjpeg's arithmetic against Pillow's files, value by value."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from kit.draws import draw
from kit.pictures import scene
from PIL import Image
from torch import Tensor

from bench.data.procedural import render
from bench.defense.libjpeg import transcoded

SUBSAMPLING = ("4:4:4", "4:2:2", "4:2:0")


def pillows(frames: Tensor, quality: int, subsampling: str) -> Tensor:
    """Frames ``(N, 3, H, W)`` of bytes as Pillow reads what it has written."""
    found = []
    for frame in frames.byte().permute(0, 2, 3, 1).numpy():
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
        found.append(np.asarray(Image.open(buffer)))
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).float()


def frames_like(kind: str, height: int, width: int) -> Tensor:
    if kind == "noise":
        return (255 * draw(1, 3, 2, height, width)[0].transpose(0, 1)).round()
    if kind == "extremes":  # what overshoots most
        return 255 * (draw(1, 3, 2, height, width)[0].transpose(0, 1) > 0.5).float()
    if kind == "waves":
        return (255 * scene(1, 2, height, width)[0].transpose(0, 1)).round()
    clip = render("test", 3, frames=2, size=64).clip.transpose(0, 1)
    return (255 * clip[..., :height, :width]).round()


@pytest.mark.parametrize("kind", ["noise", "extremes", "waves", "rendered"])
@pytest.mark.parametrize("subsampling", SUBSAMPLING)
@pytest.mark.parametrize("quality", [1, 10, 30, 50, 75, 95, 100])
def test_every_value_is_pillows(kind: str, subsampling: str, quality: int) -> None:
    """Also where a side is no multiple of a block, of two blocks, or of two pixels."""
    for height, width in ((48, 32), (33, 50), (17, 39), (8, 23)):
        frames = frames_like(kind, height, width)
        assert torch.equal(transcoded(frames, quality, subsampling), pillows(frames, quality, subsampling))


@pytest.mark.parametrize("subsampling", SUBSAMPLING)
def test_frames_too_narrow_for_the_interpolation(subsampling: str) -> None:
    """Chroma of one or two columns is repeated, that of three is interpolated."""
    for height, width in ((1, 1), (5, 2), (6, 4), (3, 5), (4, 6)):
        frames = frames_like("noise", height, width)
        assert torch.equal(transcoded(frames, 75, subsampling), pillows(frames, 75, subsampling))
