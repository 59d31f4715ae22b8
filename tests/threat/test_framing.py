"""Universal framing: the geometry and the judge."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.draws import draw
from PIL import Image

from bench import Budget, ClipRandom
from bench.run.judge import violation
from bench.threat.budgets import norm_of
from bench.threat.framing import framed

few = settings(max_examples=20, deadline=None, derandomize=True, database=None)


def test_a_framed_clip_is_the_shrunken_one_with_a_border() -> None:
    clips, picture = draw(2, 3, 2, 12, 12), torch.full((3, 1, 12, 12), 0.25)
    found = framed(clips, picture, 3)
    border = torch.ones(12, 12, dtype=torch.bool)
    border[3:-3, 3:-3] = False
    assert (found[..., border] == 0.25).all()
    # Half the size: every new pixel is the mean of the four it covers.
    expected = clips.unflatten(3, (6, 2)).unflatten(5, (6, 2)).mean((4, 6))
    torch.testing.assert_close(found[..., 3:-3, 3:-3], expected)
    assert torch.equal(framed(clips, picture, 0), clips)


@few
@given(st.integers(5, 9), st.integers(5, 9), st.integers(0, 2), st.integers(0, 1000))
def test_starts_and_projections_satisfy_the_judge_and_one_pixel_more_does_not(
    height: int, breadth: int, width: int, seed: int
) -> None:
    clips = draw(2, 3, 2, height, breadth, seed=seed)
    geometry = norm_of("framing")
    start = geometry.random_start(clips, width, ClipRandom([seed + 5000, seed + 5001]))
    for found in (start, geometry.project(2 * draw(*clips.shape, seed=seed + 1) - 0.5, clips, width)):
        assert geometry.distance(found, clips).tolist() == [width, width]
        for clean, adversarial in zip(clips, found, strict=True):
            assert violation(clean, adversarial, Budget("framing", float(width))) is None
            wrong = adversarial.clone()
            wrong[0, 0, height // 2, breadth // 2] += 1e-3 if wrong[0, 0, height // 2, breadth // 2] < 0.5 else -1e-3
            assert violation(clean, wrong, Budget("framing", float(width))) is not None


def test_shrinking_is_that_of_pillow_up_to_its_rounding() -> None:
    """Pillow smooths where it shrinks, so a picture without fine detail is compared."""
    ramp = torch.linspace(0, 1, 40)[None, :].expand(40, 40)
    clip = ramp[None, None, None].expand(1, 3, 1, 40, 40).contiguous()
    inner = framed(clip, torch.zeros(3, 1, 40, 40), 4)[0, 0, 0, 4:-4, 4:-4]
    small = Image.fromarray((255 * ramp).numpy()).resize((32, 32), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(inner[4:-4, 4:-4], np.asarray(small)[4:-4, 4:-4] / 255, atol=2e-3)
