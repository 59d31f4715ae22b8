"""The JPEG codec on tensors against Pillow, SciPy and by hand."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from kit.pictures import scene
from PIL import Image
from scipy.fft import dctn, idctn
from torch import Tensor

from bench.defense.codec import PIXELS_PER_CHROMA, cosines, jpeg, quanta
from bench.defense.rounding import cubic, straight_through


def saved(frame: Tensor, quality: int, subsampling: str) -> Image.Image:
    """A frame ``(3, H, W)`` as Pillow reads what it has written."""
    buffer = io.BytesIO()
    picture = Image.fromarray(np.rint(frame.permute(1, 2, 0).numpy() * 255).astype(np.uint8))
    picture.save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return Image.open(buffer)


def gradient(clips: Tensor, weights: Tensor, *how: object) -> Tensor:
    """Of the weighted sum of what is decoded."""
    leaf = clips.clone().requires_grad_(True)
    return torch.autograd.grad((weights * jpeg(leaf, *how)).sum(), leaf)[0]  # type: ignore[arg-type]


def test_cosines_are_scipys() -> None:
    block = np.random.default_rng(0).normal(size=(8, 8))
    waves = cosines().numpy()
    np.testing.assert_allclose(waves @ block @ waves.T, dctn(block, norm="ortho"), rtol=0, atol=1e-12)


@pytest.mark.parametrize("quality", [1, 10, 25, 49, 50, 75, 90, 95])
def test_quanta_are_those_of_pillows_files(quality: int) -> None:
    tables = saved(scene(1, 1, 16, 16)[0, :, 0], quality, "4:2:0").quantization  # type: ignore[attr-defined]
    for ours, theirs in zip(quanta(quality), (tables[0], tables[1]), strict=True):
        assert ours.flatten().int().tolist() == list(theirs)


@pytest.mark.parametrize("subsampling", list(PIXELS_PER_CHROMA))
@pytest.mark.parametrize("quality", [25, 50, 75, 95])
@pytest.mark.parametrize("size", [(64, 64), (33, 50)])
def test_the_codec_decodes_what_pillow_decodes(quality: int, subsampling: str, size: tuple[int, int]) -> None:
    """libjpeg computes in whole numbers: where a coefficient lies between two levels, it may round to the other."""
    clips = scene(1, 2, *size)
    found = jpeg(clips, quality, subsampling, torch.round)
    frames = [np.asarray(saved(clips[0, :, t], quality, subsampling)) for t in range(2)]
    theirs = torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2)[None] / 255
    assert found.shape == clips.shape
    off = 255 * (found - theirs).abs()
    assert float((off < 1.5).double().mean()) > 0.75
    assert float((off < 2.5).double().mean()) > 0.9
    assert float(off.mean()) < 0.3 * float(255 * (theirs - clips).abs().mean())


@pytest.mark.parametrize("level", [0.0, 100 / 255, 1.0])
def test_a_flat_gray_clip_is_decoded_as_it_is(level: float) -> None:
    clips = torch.full((1, 3, 1, 9, 7), level)
    torch.testing.assert_close(jpeg(clips, 95, "4:2:0", torch.round), clips, rtol=0, atol=1e-6)


def test_with_straight_through_rounding_the_gradient_is_the_identitys() -> None:
    """Without sub-sampling, the way back undoes the way there."""
    clips, weights = scene(1, 2, 16, 21).double(), scene(1, 2, 16, 21, seed=1).double()
    found = gradient(clips, weights, 75, "4:4:4", straight_through)
    # Where a frame is continued by its last pixels, those have a share in what is cut off, which weighs nothing.
    torch.testing.assert_close(found, weights, rtol=0, atol=1e-5)
    none = gradient(clips, weights, 75, "4:4:4", torch.round)
    assert not none.any()


def test_colour_that_alternates_gets_no_gradient_under_subsampling() -> None:
    clips = scene(1, 1, 16, 16).double()
    board = (torch.arange(16)[:, None] + torch.arange(16)) % 2 * 2.0 - 1
    gray = board.double().expand(1, 3, 1, 16, 16)
    red = torch.zeros(1, 3, 1, 16, 16, dtype=torch.float64)
    red[0, 0, 0], red[0, 1, 0] = board, -0.299 / 0.587 * board  # no luma
    for weights, kept in ((gray, 1.0), (red, 0.0)):
        found = gradient(clips, weights, 75, "4:2:0", straight_through)
        share = float((found * weights).sum() / weights.square().sum())
        assert share == pytest.approx(kept, abs=1e-5)


def test_the_cubic_gradient_is_that_of_scipys_transform() -> None:
    """One gray block: chroma is 0, in the middle of its level; each luma coefficient has the slope 3 (x - r)^2."""
    rng = np.random.default_rng(3)
    block, weights = rng.integers(40, 200, (8, 8)), rng.normal(size=(8, 8))
    clips = torch.from_numpy(block / 255).expand(1, 3, 1, 8, 8)
    found = gradient(clips, torch.from_numpy(weights).expand(1, 3, 1, 8, 8), 50, "4:4:4", cubic)
    table = quanta(50)[0].numpy()
    coefficients = dctn(block - 128.0, norm="ortho") / table
    slope = 3 * (coefficients - np.rint(coefficients)) ** 2
    through = idctn(slope * dctn(3 * weights, norm="ortho"), norm="ortho")  # three channels show one luma
    for channel, share in enumerate((0.299, 0.587, 0.114)):
        np.testing.assert_allclose(found[0, channel, 0].numpy(), share * through, rtol=0, atol=1e-6)
