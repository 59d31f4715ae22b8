"""Coded clips come back bit for bit, whatever is in them, and take little room where attacks leave little."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from bench.run.coding import Unreadable, decode, encode

EPS = 4 / 255
SHAPE = (3, 4, 16, 16)


def random(seed: int) -> Tensor:
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed))


def eight_bits(seed: int) -> Tensor:
    return (255 * random(seed)).round() / 255


def corners(clean: Tensor) -> Tensor:
    """A clip at the corners of the linf ball."""
    return (clean + EPS * torch.where(random(9) < 0.5, -1.0, 1.0)).clamp(0, 1)


def one_frame(clean: Tensor) -> Tensor:
    changed = clean.clone()
    changed[:, 2] = corners(clean)[:, 2]
    return changed


def bits(clip: Tensor) -> bytes:
    """Everything that a clip is."""
    return (
        f"{clip.dtype} {tuple(clip.shape)} ".encode()
        + clip.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    )


def ragged(clean: Tensor) -> Tensor:
    """Signed zeros, the smallest numbers, values outside of any budget."""
    changed = clean.clone()
    strange = [-0.0, 0.0, 1e-45, -1e-45, 1.1754944e-38, -1.0, 2.0, 3e38, -3e38, 0.99999994, 1.0000001]
    changed.view(-1)[: len(strange)] = torch.tensor(strange)
    return changed


ATTACKED = {
    "nothing": lambda clean: clean.clone(),
    "corners": corners,
    "inside": lambda clean: (clean + EPS * (2 * random(8) - 1)).clamp(0, 1),
    "steps": lambda clean: (clean + (random(7) * 80).floor() / 40 * EPS - EPS).clamp(0, 1),
    "many steps": lambda clean: (clean + (random(7) * 300).floor() / 3000).clamp(0, 1),
    "frame": one_frame,
    "elsewhere": lambda clean: random(6),
    "ragged": ragged,
    "transposed": lambda clean: corners(clean).transpose(2, 3),
    "double": lambda clean: corners(clean).double(),
    "half": lambda clean: corners(clean).half(),
    "bytes": lambda clean: (corners(clean) * 255).to(torch.uint8),
    "fewer frames": lambda clean: corners(clean)[:, :2],
    "nan": lambda clean: torch.full_like(clean, float("nan")),
    "infinite": lambda clean: torch.where(random(5) < 0.1, float("-inf"), clean),
    "no values": lambda clean: clean[:, :0],
}


@pytest.mark.parametrize("clean", [random(1), eight_bits(2), torch.zeros(SHAPE)], ids=["float", "8-bit", "black"])
@pytest.mark.parametrize("name", ATTACKED)
def test_a_clip_comes_back_bit_for_bit(name: str, clean: Tensor) -> None:
    adversarial = ATTACKED[name](clean)
    assert bits(decode(encode(clean, adversarial), clean)) == bits(adversarial)


def test_the_payload_of_a_nan_comes_back() -> None:
    clean = random(1)
    adversarial = clean.clone()
    adversarial.view(-1)[:3].view(torch.int32).copy_(torch.tensor([0x7FC12345, -0x3EDCBB, 0x7F800001]))
    assert torch.isnan(adversarial).sum() == 3
    assert bits(decode(encode(clean, adversarial), clean)) == bits(adversarial)


@pytest.mark.parametrize("clean", [torch.full(SHAPE, float("nan")), torch.zeros(SHAPE, dtype=torch.float64)])
def test_clean_clips_that_are_none_lose_nothing(clean: Tensor) -> None:
    adversarial = random(3).to(clean.dtype)
    assert bits(decode(encode(clean, adversarial), clean)) == bits(adversarial)


FLOATS = arrays(np.uint32, (3, 2, 2, 2), elements=st.integers(0, 2**32 - 1))


@settings(max_examples=60, deadline=None)
@given(FLOATS, FLOATS)
def test_any_two_clips_come_back(clean: np.ndarray, adversarial: np.ndarray) -> None:
    before, after = (torch.from_numpy(a.view(np.float32)) for a in (clean, adversarial))
    assert bits(decode(encode(before, after), before)) == bits(after)


@pytest.mark.parametrize(
    ("name", "most"),
    # Shannon's bounds, of 32 bits a value: none where nothing changed, 1 for one of two corners, in one frame of four a
    # quarter of that, log2(80) = 6.3 for one of 80 steps. A third more is granted, and a head.
    [("nothing", 0.0), ("corners", 1 / 32), ("frame", 1 / 128), ("steps", 6.32 / 32)],
)
def test_what_attacks_leave_takes_little_room(name: str, most: float) -> None:
    parts = [random(seed) for seed in range(20, 36)]
    clean, adversarial = torch.cat(parts, 2), torch.cat([ATTACKED[name](part) for part in parts], 2)
    assert len(encode(clean, adversarial)) < 1.33 * most * 4 * clean.numel() + 800


def test_a_value_anywhere_in_the_ball_costs_no_more_than_its_bits() -> None:
    """Of 32 bits, those are left over that say where in a ball of 8/255 a value lies."""
    clean = random(1)
    assert len(encode(clean, ATTACKED["inside"](clean))) < 0.75 * 4 * clean.numel()


def test_another_clean_clip_is_noticed() -> None:
    clean = random(1)
    coded = encode(clean, corners(clean))
    other = clean.clone()
    other[0, 0, 0, 0] = -other[0, 0, 0, 0]
    for wrong in (other, clean.reshape(3, 16, 4, 16), clean.double()):
        with pytest.raises(Unreadable, match="another clean clip"):
            decode(coded, wrong)


@pytest.mark.parametrize("name", ["corners", "elsewhere", "half"])
def test_bytes_that_are_no_clip_are_noticed(name: str) -> None:
    """Those of a bank are known by their digest; and these raise nothing else."""
    clean = random(1)
    coded = encode(clean, ATTACKED[name](clean))
    torn = [b"", coded[:8], coded[:40], coded[: len(coded) // 2], coded[:-1], b"x" + coded, bytes(len(coded))]
    for broken in torn:
        with pytest.raises(Unreadable):
            decode(broken, clean)
