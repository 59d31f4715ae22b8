"""JPEG against Pillow."""

from __future__ import annotations

import io
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from kit.pictures import frames_of, scene
from PIL import Image

from bench import BenchError, ClipRandom
from bench.defenses.jpeg import JPEG
from bench.registry import DEFENSES


@pytest.mark.parametrize(
    ("quality", "subsampling"), [(75, "4:2:0"), (30, "4:4:4"), (90, "4:2:2"), (1, "4:2:0"), (95, "4:4:4")]
)
def test_jpeg_is_pillow_frame_by_frame(quality: int, subsampling: Any) -> None:
    clips = scene(2, 3, 20, 27)
    found = JPEG(quality, subsampling).purify(clips, ClipRandom([0, 1]))
    expected = []
    for frame in frames_of(clips):
        buffer = io.BytesIO()
        picture = Image.fromarray(np.rint(frame * 255).astype(np.uint8))
        picture.save(buffer, "JPEG", quality=quality, subsampling=subsampling)
        expected.append(np.asarray(Image.open(buffer), dtype=np.float32) / 255)
    assert found.dtype == torch.float32
    assert found.shape == clips.shape
    np.testing.assert_array_equal(frames_of(found), np.stack(expected))


def test_jpeg_error_grows_as_quality_falls() -> None:
    clips = scene(1, 2, 32, 32)
    errors = [float((JPEG(q).purify(clips, ClipRandom([0])) - clips).square().mean()) for q in (5, 20, 50, 80, 95)]
    assert all(worse > 1.1 * better for worse, better in pairwise(errors))


def test_jpeg_rounding() -> None:
    """A gray frame of 100.6 / 255 becomes byte 101 or 100, which quality 95 keeps exactly (DC quantum 2)."""
    clips = torch.full((1, 3, 1, 16, 16), 100.6 / 255)
    nearest = JPEG(95, rounding="nearest").purify(clips, ClipRandom([0]))
    truncated = JPEG(95, rounding="truncate").purify(clips, ClipRandom([0]))
    torch.testing.assert_close(nearest, torch.full_like(clips, 101 / 255))
    torch.testing.assert_close(truncated, torch.full_like(clips, 100 / 255))


def test_jpeg_subsampling_costs_chroma() -> None:
    """Columns that alternate in colour but not in luma survive 4:4:4 and are averaged away by 4:2:0."""
    clips = torch.zeros(1, 3, 1, 32, 32)
    for column in range(32):
        # Luma is .299 R + .587 G + .114 B = .5 for both colours.
        red = 0.5 + (0.2 if column % 2 else -0.2)
        clips[0, :, 0, :, column] = torch.tensor([red, 0.5 - 0.299 / 0.587 * (red - 0.5), 0.5])[:, None]
    error = {s: float((JPEG(95, s).purify(clips, ClipRandom([0])) - clips).abs().mean()) for s in ("4:4:4", "4:2:0")}
    assert error["4:4:4"] < 0.03
    assert error["4:2:0"] > 0.08
    flat = JPEG(95, "4:2:0").purify(clips, ClipRandom([0]))[0, 0, 0]
    assert float((flat[:, 0::2].mean() - flat[:, 1::2].mean()).abs()) < 0.02


def test_jpeg_treats_each_frame_by_itself() -> None:
    clips = scene(2, 3, 16, 16)
    other = clips.clone()
    other[1, :, 2] = 0.5
    before, after = (JPEG().purify(c, ClipRandom([0, 1])) for c in (clips, other))
    changed = (before != after).int().amax(dim=(1, 3, 4)).bool()
    assert changed.tolist() == [[False, False, False], [False, False, True]]


def test_jpeg_stand_in_shows_nearly_what_the_defence_shows() -> None:
    """A cubic is off by an eighth of a quantum at most; the way back spends nothing on what is cut off."""
    clips = scene(2, 2, 32, 32)
    for text in ("jpeg(quality=50)", "jpeg(quality=50, rounding='truncate')"):
        defense = DEFENSES.create(text)
        leaf = clips.clone().requires_grad_(True)
        stand_in, shown = defense.bpda(leaf, ClipRandom([0, 1])), defense.purify(clips, ClipRandom([0, 1]))
        assert float((stand_in.detach() - shown).abs().mean()) < 0.2 * float((shown - clips).abs().mean())
        board = ((torch.arange(32)[:, None] + torch.arange(32)) % 2 * 2.0 - 1).expand_as(clips)
        (back,) = torch.autograd.grad((board * stand_in).sum(), leaf)
        assert float((back * board).mean()) < 0.3  # the identity has 1


@pytest.mark.parametrize(
    "text", ["jpeg(quality=0)", "jpeg(quality=96)", "jpeg(subsampling='4:1:1')", "jpeg(rounding='up')"]
)
def test_jpeg_refuses(text: str) -> None:
    with pytest.raises(BenchError, match=r"defense 'jpeg' refuses its parameters: (quality|subsampling|rounding)"):
        DEFENSES.create(text)
